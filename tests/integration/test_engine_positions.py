"""Re-rotation of cached keys, and when each position rule renumbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding, apply_rotary_pos_emb

import hermes_lab
from hermes_lab import StreamSession
from hermes_lab.engine.rope import Rope
from hermes_lab.errors import ModelError
from hermes_lab.lab import Lab
from hermes_lab.retention.positions import lazy_threshold
from tests.reference.closeness import assert_moved, assert_same
from tests.reference.literal import Literal
from tests.reference.streams import QUESTION, Beside, by_layer, noise, scripted

pytestmark = pytest.mark.upstream

Model = tuple[Lab, Path]
LIMIT = 200


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("furthest", [60, 3000])
def test_moved_keys_equal_keys_rotated_there_in_the_first_place(
    model: Model, heads: int, furthest: int
) -> None:
    lab, folder = model
    literal, rope = Literal(folder), lab.engine.rope
    rng = torch.Generator().manual_seed(0)
    shape = (heads, literal.axes, 40)
    old = torch.randint(0, furthest, shape, generator=rng)
    new = torch.randint(0, furthest, shape, generator=rng)
    raw = torch.randn(2, 40, literal.dim, generator=rng)
    for layer in range(lab.layers):
        there, then = (
            torch.stack(
                [literal.rotate(raw[h].double(), at[min(h, heads - 1)], layer) for h in range(2)]
            )
            for at in (old, new)
        )
        assert_same(rope.rotate(there.float(), old, new, layer), then)
        assert_moved(there, then)


@pytest.mark.parametrize("heads", [1, 2])
def test_one_new_position_is_where_all_keys_go(model: Model, heads: int) -> None:
    rope, axes = model[0].engine.rope, model[0].engine.rope.axes
    rng = torch.Generator().manual_seed(0)
    keys = torch.randn(2, 40, Literal(model[1]).dim, generator=rng)
    old = torch.randint(0, 300, (heads, axes, 40), generator=rng)
    new = torch.randint(0, 300, (heads, axes, 1), generator=rng)
    moved = rope.rotate(keys, old, new, 0)
    assert torch.equal(moved, rope.rotate(keys, old, new.expand_as(old).clone(), 0))
    assert_moved(moved, keys)


def test_an_extended_rotary_variant_scales_keys_once() -> None:
    """YaRN multiplies both tables by its attention factor; a moved key must carry it once."""
    config = Qwen2Config(
        hidden_size=64, num_attention_heads=4, head_dim=16, max_position_embeddings=512,
        rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0,
                         "original_max_position_embeddings": 128},
    )  # fmt: skip
    rotary: Any = Qwen2RotaryEmbedding(config)
    assert abs(rotary.attention_scaling - 1) > 0.05
    adapter: Any = SimpleNamespace(
        rotary_axes=1, rotary=rotary, device=torch.device("cpu"), text_config=config, layers=[0]
    )
    raw = torch.randn(1, 2, 30, 16, generator=torch.Generator().manual_seed(0))
    old, new = torch.arange(100, 130)[None], torch.arange(30)[None]
    rotated = [apply_rotary_pos_emb(raw, raw, *rotary(raw, at))[1][0] for at in (old, new)]
    moved = Rope(adapter).rotate(rotated[0], old[None], new[None], 0)
    assert_same(moved, rotated[1])
    assert_moved(moved / rotary.attention_scaling, rotated[1])


def with_rope(lengthening: dict[str, Any], positions: int = 256) -> tuple[Rope, Any]:
    """The engine's rope and the model's own module, of a decoder whose frequencies depend on the length."""
    config = Qwen2Config(
        hidden_size=64, num_attention_heads=4, head_dim=16, max_position_embeddings=positions,
        rope_parameters={"rope_theta": 10000.0, **lengthening},
    )  # fmt: skip
    rotary: Any = Qwen2RotaryEmbedding(config)
    adapter: Any = SimpleNamespace(
        rotary_axes=1, rotary=rotary, device=torch.device("cpu"), text_config=config, layers=[0]
    )
    return Rope(adapter), rotary


LENGTHENING = {
    "dynamic": ({"rope_type": "dynamic", "factor": 2.0}, 256),
    "longrope": (
        {
            "rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 64,
            "short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "attention_factor": 1.0,
        },
        64,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LENGTHENING)
def test_a_rope_that_depends_on_the_length_turns_keys_by_the_tables_they_were_made_with(
    kind: str,
) -> None:
    lengthening, limit = LENGTHENING[kind]
    rope, own = with_rope(lengthening)
    assert rope.limit == limit
    raw = torch.randn(1, 2, 30, 16, generator=torch.Generator().manual_seed(0))
    old, new = torch.arange(20, 50)[None], torch.arange(30)[None]
    rotated = [apply_rotary_pos_emb(raw, raw, *own(raw, at))[1][0] for at in (old, new)]
    far = torch.arange(600)[None]
    before = rope.tables(far, 0)
    changed = own(raw, far)  # the decoder's own call, or another stream, goes beyond the length
    assert_moved(changed[0], before[0])
    assert_same(rope.rotate(rotated[0], old[None], new[None], 0), rotated[1])
    assert_same(rope.tables(far, 0)[0], before[0])


def test_a_rope_that_never_changes_has_no_limit_of_its_own(model: Model) -> None:
    rope = model[0].engine.rope
    dynamic = model[0].adapter.family == "internvl"
    assert rope.limit == (4096 if dynamic else None)


def short(checkpoint: Callable[..., Path], family: str, limit: int = LIMIT) -> Model:
    """A lab of its own whose model was made for a few positions only."""
    folder = checkpoint(family)
    lab = hermes_lab.load(folder)
    lab.adapter.text_config.max_position_embeddings = limit
    return lab, folder


def test_positions_are_compacted_before_a_chunk_that_would_cross_the_limit(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """A chunk far longer than the margin, on a model whose own frequencies change beyond its limit."""
    folder, limit = tmp_path / "internvl", 300
    shutil.copytree(checkpoint("internvl"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = limit
    (folder / "config.json").write_text(json.dumps(config))
    lab, literal = hermes_lab.load(folder), Literal(folder)
    session = StreamSession(lab, "fifo(budget_tokens=60)", positions="lazy")
    raw: list[torch.Tensor] = []  # keys of the first layer by token id, before they are turned
    ahead = 0
    for step in range(8):
        next_before = session.stream.cache.states[0].cursor.next
        with session.hooks([("blocks.0.attn.hook_k", lambda keys, hook: raw.append(keys[0]))]):
            snapshot = session.feed(noise(24, step))
        ahead += next_before + len(snapshot.new_ids) > limit
        assert max(s.cursor.next for s in session.stream.cache.states) <= limit
        assert not snapshot.notes
        state = session.stream.cache.states[0]
        assert state.keys is not None
        held = state.ids[0, session.protected_tokens :] - session.protected_tokens
        positions = state.positions[0, :, session.protected_tokens :]
        for head in range(2):
            expected = literal.rotate(torch.cat(raw)[held, head].double(), positions, 0)
            assert_same(state.keys[0, head, session.protected_tokens :], expected)
    assert ahead  # without compaction the chunk would have crossed the limit


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
def test_a_chunk_that_fits_is_not_preceded_by_a_compaction(
    checkpoint: Callable[..., Path], family: str
) -> None:
    lab, _ = short(checkpoint, family, 4000)
    session = StreamSession(lab, "fifo(budget_tokens=60)", positions="lazy")
    assert not any(session.feed(noise(4, step)).reindexed for step in range(4))


@pytest.mark.parametrize(
    ("family", "limit"), [("llava_onevision", 300), ("qwen2_5_vl", 200), ("qwen3_vl", 300)]
)
def test_lazy_positions_move_only_near_the_limit(
    checkpoint: Callable[..., Path], family: str, limit: int
) -> None:
    both = Beside(*short(checkpoint, family, limit), scripted(by_layer), "lazy")
    moved: list[bool] = []
    threshold = lazy_threshold(limit)
    assert threshold == limit - limit // 4
    for step in range(14):
        before = max(s.cursor.next for s in both.session.stream.cache.states)
        snapshot = both.feed(noise(4, step))
        moved.append(bool(snapshot.reindexed))
        after = max(s.cursor.next for s in both.session.stream.cache.states)
        assert after <= threshold
        if not moved[-1]:
            assert after > before
        else:
            assert snapshot.reindexed == tuple(range(both.lab.layers))
        assert not snapshot.notes
        for layer in range(both.lab.layers):
            actual, expected = both.positions_of(layer)
            assert torch.equal(actual, expected)
    assert any(moved)
    assert not all(moved)
    assert_same(*both.ask())


def test_kept_positions_beyond_the_limit_are_noted(checkpoint: Callable[..., Path]) -> None:
    lab, _ = short(checkpoint, "llava_onevision")
    session = StreamSession(lab, "fifo(budget_tokens=50)", positions="keep")
    notes = [session.feed(noise(4, step)).notes for step in range(6)]
    assert not any(notes[:5])
    assert "beyond the 200 positions" in notes[5][0]
    assert "positions='lazy'" in notes[5][0]


def test_lazy_leaves_keys_untouched_where_nothing_was_forgotten(
    checkpoint: Callable[..., Path],
) -> None:
    lab, _ = short(checkpoint, "llava_onevision")
    full, lazy = StreamSession(lab), StreamSession(lab, positions="lazy")
    for step in range(5):
        full.feed(noise(4, step))
        snapshot = lazy.feed(noise(4, step))
        assert not snapshot.reindexed
    for a, b in zip(full.stream.cache.states, lazy.stream.cache.states, strict=True):
        assert a.keys is not None and b.keys is not None
        assert torch.equal(a.keys, b.keys)


def test_the_next_position_is_counted_or_follows_the_last_kept_token(model: Model) -> None:
    def drop_tail(view: Any) -> torch.Tensor:
        return torch.arange(max(view.tokens - 5, 1))[None]

    counter = StreamSession(model[0], scripted(drop_tail), positions="keep")
    reusing = StreamSession(
        model[0], scripted(drop_tail), positions="keep", next_position="last_kept"
    )
    for session in (counter, reusing):
        session.feed(noise(2, 0))
    for a, b in zip(counter.stream.cache.states, reusing.stream.cache.states, strict=True):
        assert b.cursor.next == int(b.positions.max()) + 1
        assert a.cursor.next > b.cursor.next or int(a.positions.max()) + 1 == a.cursor.next
    dropped = 5 if counter.engine.rope.axes == 1 else 1
    assert (
        counter.stream.cache.states[0].cursor.next
        >= reusing.stream.cache.states[0].cursor.next + dropped - 1
    )


def test_sliding_windows_are_refused_only_when_they_are_outgrown(
    checkpoint: Callable[..., Path],
) -> None:
    folder = checkpoint("gemma3")
    lab = hermes_lab.load(folder)
    window = 110
    lab.engine.window = lab.adapter.text_config.sliding_window = window
    full = StreamSession(lab)
    full.feed(noise(4, 0))
    full.feed(noise(4, 1))
    held = full.stream.cache.states[0].tokens
    with pytest.raises(ModelError, match=rf"attend to the last {window} tokens only; lower the"):
        full.feed(noise(4, 2))
    assert full.stream.cache.states[0].tokens == held
    assert full.ask(QUESTION, max_new_tokens=1).token_ids

    kept = StreamSession(lab, "fifo(budget_tokens=40)", positions="keep")
    kept.feed(noise(4, 0))
    kept.feed(noise(4, 1))
    with pytest.raises(ModelError, match="choose positions='eager'"):
        kept.feed(noise(4, 2))

    both = Beside(lab, folder, "fifo(budget_tokens=40)", "eager")
    for step in range(6):
        both.feed(noise(4, step))
    assert_same(*both.ask())

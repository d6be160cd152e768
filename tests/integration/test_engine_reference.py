"""Streaming over a ragged, pruned, renumbered cache against two references.

One is the unmodified model of transformers with eager attention, in one forward over the whole stream. The
other is `tests.reference.literal`: float64, keys stored before rotation, everything recomputed each time.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hermes_lab.lab import Lab
from hermes_lab.segment import Segment
from tests.reference.closeness import assert_moved, assert_same
from tests.reference.literal import Layer, load_eager, place, text_model
from tests.reference.streams import Beside, by_head, by_layer, noise, same_everywhere, scripted

pytestmark = pytest.mark.upstream

Model = tuple[Lab, Path]


def one_forward(folder: Path, segments: list[Segment]) -> Tensor:
    """Logits of transformers' own eager forward over all segments at once, [token, vocabulary]."""
    whole = load_eager(folder)
    decoder, memory, positions = text_model(whole), Layer([]), []
    for segment in segments:
        where, (memory.next, memory.video) = place(memory, segment)
        positions.append(where)
    at = torch.cat(positions, 1)
    extra = {}
    if any(segment.deepstack for segment in segments):
        layers = max(len(segment.deepstack) for segment in segments)
        extra["deepstack_visual_embeds"] = [
            torch.cat(
                [s.deepstack[i] if s.deepstack else torch.zeros_like(s.embeds) for s in segments]
            )
            for i in range(layers)
        ]
        extra["visual_pos_masks"] = torch.ones(1, at.shape[1], dtype=torch.bool)
    with torch.no_grad():
        hidden = decoder(
            inputs_embeds=torch.cat([s.embeds for s in segments])[None],
            position_ids=at[:, None] if len(at) == 3 else at,
            **extra,
        ).last_hidden_state[0]
        return whole.lm_head(hidden)


def test_chunked_streaming_without_eviction_is_one_full_forward(model: Model) -> None:
    both = Beside(*model)
    for seed in range(3):
        both.feed(noise(4, seed))
    actual, literal = both.ask()
    segments = [both.prefix, *(segment for segment, _ in both.chunks), both.question()]
    whole = one_forward(model[1], segments)[-len(actual) :]
    assert_same(actual, whole)
    assert_same(actual, literal)
    fewer = one_forward(model[1], [both.prefix, both.chunks[0][0], both.question()])
    assert_moved(whole, fewer[-len(actual) :])


@pytest.mark.parametrize(
    ("choose", "per_head"), [(same_everywhere, False), (by_layer, False), (by_head, True)]
)
def test_evicted_tokens_are_as_if_masked(model: Model, choose, per_head: bool) -> None:
    """One chunk, one eviction: a full forward in which each layer and head may not see what it evicted."""
    lab, folder = model
    both = Beside(lab, folder, scripted(choose, per_head=per_head))
    snapshot = both.feed(noise(4, 0))
    lengths = {held.shape for held in snapshot.held}
    assert all(len(held) == (lab.engine.kv_heads if per_head else 1) for held in snapshot.held)
    assert len(lengths) == (1 if choose is same_everywhere else lab.layers)
    actual, _ = both.ask()

    full = Beside(lab, folder)
    full.feed(noise(4, 0))
    unmasked = full.reference.feed(full.question(), store=False)
    group = lab.engine.query_heads // lab.engine.kv_heads

    def hide(layer: int, head: int, ids: Tensor) -> Tensor:
        held = snapshot.held[layer][head // group if per_head else 0]
        return ~torch.isin(ids, torch.cat([torch.arange(len(full.prefix)), torch.from_numpy(held)]))

    full.reference.hide = hide
    masked = full.reference.feed(full.question(), store=False)
    assert_same(actual, masked)
    assert_moved(masked, unmasked)


@pytest.mark.parametrize("choose", [by_layer, by_head])
@pytest.mark.parametrize("positions", ["keep", "eager", "contiguous"])
def test_ten_rounds_of_chunk_prune_renumber_and_question(
    model: Model, choose, positions: str
) -> None:
    both = Beside(*model, scripted(choose, per_head=choose is by_head), positions)
    moved = unmoved = 0
    for round_ in range(10):
        snapshot = both.feed(noise(2, round_))
        assert snapshot.decisions
        moved += len(snapshot.reindexed)
        unmoved += both.session.engine.layers - len(snapshot.reindexed)
        for layer in range(both.session.engine.layers):
            actual, expected = both.positions_of(layer)
            assert torch.equal(actual, expected)
        assert_same(*both.ask(f"What happens in round {round_}?"))
    assert (moved == 0) == (positions == "keep")
    last, _ = both.ask()
    for layer in range(both.session.engine.layers):
        assert_same(both.session.stream.cache.states[layer].keys[0], both.reference.keys(layer))
    other = Beside(*model)
    for round_ in range(10):
        other.feed(noise(2, round_))
    assert_moved(last, other.ask()[1])


def test_the_reference_without_renumbering_is_far_away(model: Model) -> None:
    """The test above can fail: forgetting to renumber once moves the logits far beyond the tolerance."""
    both = Beside(*model, scripted(by_layer), "eager")
    both.feed(noise(4, 0))
    both.reference.renumber = lambda *_: None  # type: ignore[method-assign]
    both.feed(noise(4, 1))
    actual, expected = both.ask()
    assert_moved(actual, expected)

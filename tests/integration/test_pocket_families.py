"""For every family, the training forward's logits are those of its adapter when it streams."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from hermes_lab.engine import upstream
from hermes_lab.engine.cursor import Cursor
from hermes_lab.errors import LabError
from hermes_lab.models import Adapter, Segment, load
from hermes_lab.training import data
from hermes_lab.training.branches import answer_logits, watch
from hermes_lab.training.build import build, save
from hermes_lab.training.config import PocketConfig, Recipe, TextShape, VisionShape
from hermes_lab.training.families import FAMILIES, family
from hermes_lab.training.family import Family
from hermes_lab.training.warm import Teacher, take_over, warmed
from hermes_lab.worlds import TYPES

pytestmark = pytest.mark.upstream

TINY = PocketConfig(
    vision=VisionShape(width=32, layers=2, heads=2, mlp=32),
    text=TextShape(width=64, layers=3, heads=4, kv_heads=2, mlp=48),
)
FRAMES = 16
CHUNK = 3


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = replace(TINY, family=request.param)
    model = build(config)
    with torch.no_grad():
        for parameter in model.parameters():  # small weights would hide a wrong position
            parameter.mul_(1.5)
    folder = tmp_path_factory.mktemp(request.param)
    save(model, config, folder)
    return folder


@pytest.fixture(scope="module")
def adapter(saved: Path) -> Adapter:
    return load(saved)


@pytest.fixture(scope="module")
def kin(adapter: Adapter) -> Family:
    return family(adapter.model.config.model_type)


@pytest.fixture(scope="module", params=[False, True], ids=["unbroken", "with gaps"])
def drawn(request: pytest.FixtureRequest, kin: Family) -> data.Batch:
    recipe = replace(Recipe(), gap_p=1.0, chain_p=0.0, worn_p=0.0, moving_camera_p=0.0)
    return data.batch(
        recipe,
        [5_000_002],
        FRAMES,
        30,
        dict.fromkeys(TYPES, 1.0),
        augment=request.param,
        prefix_tokens=len(kin.prefix),
        closing=kin.closing,
    )


class _Stream:
    """An adapter's segments fed to the stock decoder at the places that the cursor gives them."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter, self.cache, self.cursor = adapter, DynamicCache(), Cursor()
        self.feed(adapter.prefix())

    def feed(self, segment: Segment) -> torch.Tensor:
        """Last hidden states of a segment that stays."""
        places, self.cursor = self.cursor.place(segment)
        positions = places[:, None] if self.adapter.rotary_axes == 3 else places
        return self.adapter.decoder(
            inputs_embeds=segment.embeds[None],
            position_ids=positions,
            **{upstream.cache_keyword(self.adapter.decoder): self.cache},
            use_cache=True,
        ).last_hidden_state[0]

    def ask(self, text: str) -> torch.Tensor:
        """Logits of the first word of an answer; the question is forgotten again."""
        question, cursor = self.adapter.question(text), self.cursor
        logits = self.adapter.head(self.feed(question))[-1]
        self.cache.crop(-len(question))
        self.cursor = cursor
        return logits

    def skip(self, positions: int) -> None:
        """What frames leave behind that were streamed here and evicted: the video's clock goes on."""
        cursor = self.cursor
        if self.adapter.rotary_axes == 1:
            self.cursor = replace(cursor, next=cursor.next + positions)
            return
        time, origin = cursor.video or (cursor.next, cursor.next)
        self.cursor = replace(cursor, video=(time + positions, origin))


@torch.no_grad()
def test_training_logits_are_the_adapters_streaming_logits(
    adapter: Adapter, kin: Family, drawn: data.Batch
) -> None:
    model: Any = adapter.model
    features = kin.features(model, drawn.frames)
    positions = kin.positions(drawn.positions, len(kin.prefix))
    stream_pass = watch(model, features, kin.prefix, positions)
    logits = answer_logits(model, stream_pass, drawn.groups)
    asked: dict[int, list[tuple[str, torch.Tensor]]] = {}
    for group, values, (questions,) in zip(drawn.groups, logits, drawn.questions, strict=True):
        due = group.labels != -100
        owners = group.question[due].tolist()
        first = {owner: n for n, owner in reversed(list(enumerate(owners)))}
        for number, question in enumerate(questions):
            asked.setdefault(question.time_frame, []).append((question.text, values[first[number]]))
    pictures = ((drawn.frames[0].movedim(1, -1) + 1) * 127.5).round().to(torch.uint8).numpy()
    place = drawn.positions[0].numpy()
    starts = place[len(kin.prefix) :: 16]
    stream, checked = _Stream(adapter), 0
    frame = 0
    while frame < FRAMES:
        stream.skip(int(starts[frame] - (starts[frame - 1] + 16 if frame else len(kin.prefix))))
        end = frame + 1
        while end < FRAMES and end - frame < CHUNK:
            if end - 1 in asked or starts[end] - starts[end - 1] != 16:
                break
            end += 1
        stream.feed(adapter.encode(list(pictures[frame:end]), list(map(float, range(frame, end)))))
        for text, expected in asked.get(end - 1, []):
            torch.testing.assert_close(stream.ask(text), expected, atol=2e-4, rtol=1e-3)
            checked += 1
        frame = end
    assert checked > 10


def test_the_template_writes_the_training_text(adapter: Adapter, kin: Family) -> None:
    prefix = adapter.prefix()
    torch.testing.assert_close(prefix.embeds, adapter.embed(torch.tensor(kin.prefix)))
    question = adapter.question("What colour is the cat?")
    words = [*kin.closing, *data.word_ids("what colour is the cat")]
    torch.testing.assert_close(question.embeds[: len(words)], adapter.embed(torch.tensor(words)))


def test_gaps_move_the_clock_and_no_row_or_column() -> None:
    kin = family("qwen2_5_vl")
    prefix = len(kin.prefix)
    recipe = replace(Recipe(), gap_p=1.0)
    place = data.positions(np.random.default_rng(3), 20, recipe, prefix)
    time, rows, cols = kin.positions(torch.from_numpy(place)[None], prefix)[:, 0]
    jumps = (place[prefix + 16 :: 16] - place[prefix:-16:16]).tolist()
    clock = time[prefix:].unflatten(0, (-1, 16))
    assert bool((clock == clock[:, :1]).all())
    assert clock[:, 0].diff().tolist() == jumps
    assert max(jumps) > 16
    cell = torch.arange(16).repeat(20)
    assert torch.equal(rows[prefix:], prefix + cell // 4)
    assert torch.equal(cols[prefix:], prefix + cell % 4)
    assert torch.equal(time[:prefix], torch.arange(prefix))


def test_a_warm_start_takes_over_the_decoder_and_the_tokens_it_is_used_to(saved: Path) -> None:
    source = load(saved)
    wanted = replace(PocketConfig(), name="heir", family="qwen2_5_vl", vision=TINY.vision)
    config = warmed(wanted, str(saved))
    assert config.text == TINY.text
    assert config.recipe.muon_lr == Recipe().muon_lr  # the tower is new
    assert config.recipe.decoder_rate < 1  # the decoder is not
    model = build(config)
    fresh = model.get_input_embeddings().weight.detach().clone()
    take_over(model, str(saved))
    theirs = source.decoder.state_dict()
    for name, value in model.model.language_model.state_dict().items():
        if name != "embed_tokens.weight":
            torch.testing.assert_close(value, theirs[name])
    rows = model.get_input_embeddings().weight
    kin = family("qwen2_5_vl")
    cat = kin.words.index("cat")
    torch.testing.assert_close(rows[cat], source.embed(torch.tensor([cat]))[0])
    if source.family != "qwen2_5_vl":  # a word that the source does not have
        start = kin.words.index("<|vision_start|>")
        torch.testing.assert_close(rows[start], fresh[start])
    frames = torch.rand(1, 2, 3, 96, 96) * 2 - 1
    teacher = Teacher(str(saved), "cpu")
    assert float(teacher.unexplained(frames, teacher(frames))) == 0.0
    save(model, config, saved / "heir")
    told = json.loads((saved / "heir" / "pocket.json").read_text())
    assert "not independent" in told["note"]
    assert str(saved) not in json.dumps(told)


def test_models_that_cannot_lend_a_decoder_are_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LabError, match="nosuch"):
        warmed(PocketConfig(family="qwen2_5_vl"), str(tmp_path / "nosuch"))
    with pytest.raises(LabError, match="no pocket model of type"):
        family("blip")

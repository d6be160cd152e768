"""The parts of training: data without leaks or gaps where none belong, checkpoints, optimiser, resuming."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from hermes_lab.errors import LabError, ModelError
from hermes_lab.pocket.shipped import CARD, shipped_path
from hermes_lab.training import checkpoint, data, motion, perception
from hermes_lab.training.build import build, save
from hermes_lab.training.config import PocketConfig, Recipe, Stage, TextShape, VisionShape
from hermes_lab.training.optim import Average, Muon, Pair
from hermes_lab.training.recipes import config
from hermes_lab.training.train import train
from hermes_lab.training.vocabulary import UNKNOWN, WORDS, tokenizer
from hermes_lab.worlds import TYPES, World
from hermes_lab.worlds.catalogue import KINDS

TINY = PocketConfig(
    name="tiny",
    vision=VisionShape(width=32, layers=1, heads=2, mlp=32),
    text=TextShape(width=32, layers=3, heads=4, kv_heads=2, mlp=48),
    recipe=Recipe(
        perception_minutes=0.01,
        decoder_minutes=0.02,
        stages=(Stage(6, 2, 12, 1.0),),
        perception_frames=16,
        checkpoint_s=0.5,
        dev_every_s=1e9,
    ),
)


def test_position_gaps_only_ever_open_between_frames() -> None:
    rng = np.random.default_rng(0)
    recipe = replace(Recipe(), gap_p=1.0)
    reached = 0
    for _ in range(50):
        place = data.positions(rng, 20, recipe)
        steps = np.diff(place)
        assert steps.min() == 1
        jumps = np.flatnonzero(steps > 1) + 1
        assert all((j - len(data.PREFIX)) % 16 == 0 for j in jumps)
        assert place[-1] < recipe.gap_reach_tokens
        reached = max(reached, int(place[-1]))
    assert reached > 1500
    np.testing.assert_array_equal(
        data.positions(None, 20, recipe), np.arange(len(data.PREFIX) + 320)
    )


def test_every_label_belongs_to_its_question() -> None:
    weights = dict.fromkeys(TYPES, 1.0)
    drawn = data.batch(
        Recipe(), [7_000_000, 7_000_001], 32, 48, weights, augment=False, learn_end=True
    )
    for group, asked in zip(drawn.groups, drawn.questions, strict=True):
        for stream, questions in enumerate(asked):
            for number, question in enumerate(questions):
                due = (group.question[stream] == number) & (group.labels[stream] != -100)
                words = [WORDS[i] for i in group.labels[stream][due].tolist()]
                assert words == [question.answer, "<|im_end|>"]
                branch = int(due.nonzero()[0, 0])
                assert int(group.frame[stream, branch]) == question.time_frame


def test_wear_keeps_frames_recognisable() -> None:
    frames = data.pixels(World.generate(1, 4).render())
    for seed in range(8):
        worn = data.wear(frames, np.random.default_rng(seed))
        assert worn.shape == frames.shape
        assert float(worn.abs().max()) <= 1
        assert float((worn - frames).abs().mean()) < 0.12


def test_dense_targets_name_what_is_in_a_cell() -> None:
    seen = perception.draw(Recipe(), [8_000_000, 8_000_001])
    assert seen.frames.shape == (16, 3, 96, 96)
    assert bool(((seen.kind > 0) == (seen.colour > 0)).all())
    assert int((seen.kind > 0).sum()) > 16
    world = World.generate(3, 40)
    table = motion.targets(world)
    for t in range(1, 40):
        named = {KINDS[k] for k in table[t, :, 2].tolist() if k >= 0}
        present = {KINDS[o.kind] for o in world.schedule.visible(t)}
        assert named <= present
        fresh = {KINDS[k] for k, n in zip(table[t, :, 2], table[t, :, 1], strict=True) if n == 1}
        assert fresh <= {KINDS[o.kind] for o in world.schedule.things if o.start == t}


def test_muon_takes_orthogonal_steps_of_the_stated_size() -> None:
    torch.manual_seed(0)
    matrix = torch.nn.Parameter(torch.zeros(24, 16))
    matrix.grad = torch.randn(24, 16)
    optimiser = Muon([matrix], lr=0.1, decay=0.0)
    optimiser.step()
    values = torch.linalg.svdvals(matrix.detach()) / (0.1 * 0.2 * 24**0.5)
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3


def test_the_average_swaps_in_and_out_exactly() -> None:
    p = torch.nn.Parameter(torch.zeros(3))
    average = Average({"p": p}, half_life_steps=1)
    for value in (1.0, 2.0, 3.0):
        p.data.fill_(value)
        average.update()
    average.swap()
    assert 1.5 < float(p.detach()[0]) < 3.0
    average.swap()
    assert float(p.detach()[0]) == 3.0


def test_a_checkpoint_restores_optimiser_state_and_clock(tmp_path: Path) -> None:
    def fresh() -> tuple[dict[str, torch.nn.Parameter], Pair]:
        torch.manual_seed(1)
        named = {
            "w": torch.nn.Parameter(torch.randn(8, 8)),
            "b": torch.nn.Parameter(torch.randn(8)),
        }
        return named, Pair(named, {"w"}, 1e-2, 1e-2)

    def step(named: dict[str, torch.nn.Parameter], pair: Pair, n: int) -> None:
        for k in range(n):
            for p in named.values():
                p.grad = torch.sin(p.detach() + k)
            pair.step(1.0)

    one, pair_one = fresh()
    step(one, pair_one, 3)
    clock = checkpoint.Clock(phase="decoder", step=3, accuracy={"now_colour": 0.5})
    weights = {k: p.detach().clone() for k, p in one.items()}
    checkpoint.save(tmp_path, clock, {"model": weights, "optimiser": pair_one.state()})
    step(one, pair_one, 2)

    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded[0] == clock
    two, pair_two = fresh()
    for k, p in two.items():
        p.data.copy_(loaded[1]["model"][k])
    pair_two.load(loaded[1]["optimiser"])
    step(two, pair_two, 2)
    for k in one:
        torch.testing.assert_close(one[k], two[k])
    assert not list(tmp_path.glob("*.part"))


def test_training_finishes_resumes_and_saves_a_checkpoint_of_its_family(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    report = train(TINY, tmp_path, processes=1, progress=told.append)
    assert report.folder == tmp_path / "model"
    phases = [line["phase"] for line in told]
    assert phases[-1] == "development"
    before = checkpoint.load(tmp_path)
    again = train(TINY, tmp_path, processes=1)  # nothing is left to do
    after = checkpoint.load(tmp_path)
    assert before is not None
    assert after is not None
    assert after[0].step == before[0].step
    assert str(tmp_path) in str(again)
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(report.folder)
    assert model.dtype == torch.float32
    torch.testing.assert_close(model.lm_head.weight, model.get_input_embeddings().weight)
    assert json.loads((report.folder / CARD).read_text())["trained_frames"] == 6


def test_saved_models_read_back_the_same(tmp_path: Path) -> None:
    model = build(TINY)
    save(model, TINY, tmp_path)
    again = LlavaOnevisionForConditionalGeneration.from_pretrained(tmp_path)
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name].half().float())


def test_the_tokenizer_is_blind_to_case_punctuation_and_spelling() -> None:
    words = tokenizer()
    plain = words("what colour was the first object")["input_ids"]
    assert words("  What COLOR was the first object?! ")["input_ids"] == plain
    assert words.decode(plain) == "what colour was the first object"
    assert words("helicopter")["input_ids"] == [WORDS.index(UNKNOWN)]
    assert len(WORDS) <= 256


def test_unknown_names_are_refused_in_words() -> None:
    with pytest.raises(LabError, match="nosuch"):
        config("nosuch")
    with pytest.raises(ModelError, match="nosuch"):
        shipped_path("nosuch")

"""What the decoder is asked for beside answers is a value: trainings without targets, and nudges at a depth."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hermes_lab.errors import LabError
from hermes_lab.training import checkpoint, lookup, perception
from hermes_lab.training.build import build, save
from hermes_lab.training.config import PocketConfig, Stage, TextShape, VisionShape, smoke
from hermes_lab.training.decode import Decoding
from hermes_lab.training.dense import DenseTargets
from hermes_lab.training.perceive import perceive
from hermes_lab.training.process import Process
from hermes_lab.training.recipes import CONFIGS, config
from hermes_lab.training.train import planned, train
from hermes_lab.training.vocabulary import WORDS
from hermes_lab.training.warm import take_tower
from hermes_lab.worlds import TYPES
from hermes_lab.worlds.catalogue import COLOUR_NAMES, KINDS

UNPLANTED = tuple(f"pocket-u{n}" for n in range(5))
NUDGED = {"pocket-n3": 3, "pocket-n7": 7, "pocket-n10": 10}
SHORT = Stage(32, 4, 24, 1.0, 0.0, 0.0)


def _small(name: str, **recipe: Any) -> PocketConfig:
    """The named training with a narrow decoder of the same depth."""
    wanted = config(name)
    text = TextShape(width=32, layers=12, heads=4, kv_heads=2, mlp=48)
    return replace(wanted, text=text, recipe=replace(wanted.recipe, **recipe))


def _run(wanted: PocketConfig, folder: Path) -> Process:
    return Process(wanted, folder, 0, 1, "cpu")


@pytest.mark.parametrize("name", [*UNPLANTED, *NUDGED])
@pytest.mark.parametrize("short", [False, True], ids=["whole", "smoke"])
def test_no_stage_has_a_target_inside_the_decoder(name: str, short: bool) -> None:
    wanted = smoke(config(name)) if short else config(name)
    assert wanted.recipe.stages
    assert [(s.motion_weight, s.memory_weight) for s in wanted.recipe.stages] == [(0.0, 0.0)] * len(
        wanted.recipe.stages
    )
    assert wanted.init_from == ""
    assert (wanted.recipe.lookup_weight > 0) == (name in NUDGED)
    assert wanted.recipe.lookup_layer == NUDGED.get(name)


def test_planted_recipes_stay_planted() -> None:
    for name in ("pocket", "pocket-s1", "pocket-s2", "pocket-mrope"):
        for wanted in (config(name), smoke(config(name))):
            assert all(s.motion_weight > 0 and s.memory_weight > 0 for s in wanted.recipe.stages)
            assert wanted.recipe.lookup_weight == 1.0 and wanted.recipe.lookup_layer is None
            assert wanted.tower_from == ""


def test_trainings_to_compare_differ_in_their_random_numbers() -> None:
    seeds = [config(name).seed for name in ("pocket", "pocket-s1", "pocket-s2", *UNPLANTED)]
    seeds += [config(name).seed for name in NUDGED]
    assert len(set(seeds)) == len(seeds)
    assert {name: wanted.name for name, wanted in CONFIGS.items()} == {n: n for n in CONFIGS}


def test_nudged_recipes_differ_from_unplanted_ones_in_the_nudge_only() -> None:
    bare = asdict(config("pocket-u0").recipe)
    for name in NUDGED:
        told = asdict(config(name).recipe)
        assert {k for k in bare if bare[k] != told[k]} == {"lookup_weight", "lookup_layer"}


def test_a_target_that_weighs_nothing_is_not_looked_at() -> None:
    dense = DenseTargets(8, 12)
    bad = {depth: torch.full((1, 16, 8), torch.nan) for depth in dense.depths.values()}
    nothing = torch.full((1, 1, 16, 13), -100)
    loss, said = dense(bad, nothing[..., :4], nothing, torch.zeros(len(WORDS), 8), SHORT)
    assert float(loss) == 0.0
    assert said == {}


@pytest.mark.parametrize("name", ["pocket-u0", *NUDGED])
def test_a_step_nudges_the_layers_that_the_recipe_names_or_none(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heeded: set[int] = set()
    plain = lookup.Lookups.heed

    def heed(self: lookup.Lookups, layer: int, weights: Tensor, cached: int) -> None:
        before = self.mass().shape
        plain(self, layer, weights, cached)
        if self.mass().shape != before:
            heeded.add(layer)

    monkeypatch.setattr(lookup.Lookups, "heed", heed)
    types = tuple((k, float(k in lookup.ASKING)) for k in TYPES)
    step = Decoding(_run(_small(name), tmp_path))
    step._step(0.5, replace(SHORT, type_weights=types), SHORT.frames)
    first = NUDGED.get(name)
    assert heeded == (set() if first is None else {first, first + 1})
    assert set(step.said) == (set() if first is None else {"looked"})


def test_the_tower_is_lent_and_nothing_else(tmp_path: Path) -> None:
    wanted = _small("pocket-u0", perception_steps=2, perception_frames=16)
    run = _run(wanted, tmp_path)
    lender: Any = build(PocketConfig())
    take_tower(lender, "pocket")
    lent = run.family.tower(lender).state_dict()
    fresh = {k: v.clone() for k, v in build(wanted).state_dict().items()}
    tower = {k: v for k, v in run.model.state_dict().items() if "vision_tower" in k}
    assert len(tower) == len(lent) > 0
    for name, value in run.model.state_dict().items():
        if name not in tower:
            assert torch.equal(value, fresh[name]), name
    perceive(run)
    after = run.family.tower(run.model).state_dict()
    assert all(torch.equal(after[k], lent[k]) for k in lent)
    changed = {k for k, v in run.model.state_dict().items() if not torch.equal(v, fresh[k])}
    changed -= set(tower)
    assert any("multi_modal_projector" in k for k in changed)
    assert any("embed_tokens" in k for k in changed)
    assert not any("layers" in k for k in changed)


def test_a_tower_of_another_shape_is_refused() -> None:
    narrow = build(
        PocketConfig(
            vision=VisionShape(width=32, layers=1, heads=2, mlp=32),
            text=TextShape(width=32, layers=2, heads=4, kv_heads=2, mlp=48),
        )
    )
    with pytest.raises(LabError, match="pocket has a vision encoder of another shape"):
        take_tower(narrow, "pocket")


def test_cells_are_named_by_the_words_nearest_to_their_tokens() -> None:
    words = torch.randn(len(WORDS), 64, generator=torch.Generator().manual_seed(0))
    kind, colour = 5, 2
    tokens = torch.zeros(1, 2, 64)
    tokens[0, 0] = words[WORDS.index(KINDS[kind])] + words[WORDS.index(COLOUR_NAMES[colour])]
    tokens[0, 1] = torch.nan  # shows nothing
    cells = torch.tensor([[1, 0]])
    seen = perception.Glimpses(
        torch.zeros(1, 3, 1, 1),
        cells * (1 + colour),
        cells * (1 + kind),
        torch.zeros(1, 2, 2),
        torch.zeros(1, dtype=torch.long),
        torch.zeros(1, dtype=torch.long),
    )
    loss, named = perception.name_cells(tokens, seen, words)
    assert named == 1.0
    assert float(loss) < 0.01
    other = replace(seen, kind=cells * (2 + kind), colour=cells * (2 + colour))
    worse, named = perception.name_cells(tokens, other, words)
    assert named == 0.0
    assert float(worse) > 10


def test_the_card_says_what_was_asked_for(tmp_path: Path) -> None:
    notes: dict[str, str] = {}
    for name in ("pocket-u0", "pocket-n3"):
        wanted = _small(name)
        save(build(wanted), wanted, tmp_path / name)
        notes[name] = (tmp_path / name / "pocket.json").read_text()
    assert "no dense target and no nudge at any depth" in notes["pocket-u0"]
    assert "look-ups nudged in layers 3 and 4" in notes["pocket-n3"]
    assert all("vision encoder of pocket" in note for note in notes.values())


@pytest.mark.parametrize("name", ["pocket-u0", "pocket-n7"])
def test_a_decoder_that_was_asked_for_more_cannot_be_brought_along(name: str) -> None:
    with pytest.raises(LabError, match=f"{name} is trained from scratch.*leave out --init-from"):
        planned(name, init_from="pocket")


def test_a_folder_with_another_training_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, checkpoint.Clock(training=config("pocket").training), {})
    with pytest.raises(LabError, match=r"pocket with seed 0, not of pocket-u0 with seed 10"):
        train("pocket-u0", tmp_path, processes=1)
    checkpoint.belongs(tmp_path, config("pocket").training)
    checkpoint.belongs(tmp_path / "empty", config("pocket-u0").training)


def test_checkpoints_say_which_training_they_are_of(tmp_path: Path) -> None:
    run = _run(_small("pocket-u0"), tmp_path)
    run.save(None, None)
    held = checkpoint.load(tmp_path)
    assert held is not None
    assert held[0].training == "pocket-u0 with seed 10"
    with pytest.raises(LabError, match="pocket-u0 with seed 11"):
        checkpoint.belongs(tmp_path, replace(config("pocket-u0"), seed=11).training)

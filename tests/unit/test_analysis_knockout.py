"""Conditions of the knockout study are told apart by what they are, not by how a label is spelt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.knockout_effects import NO_VIDEO, UNTOUCHED, Cut, Effects
from hermes_lab.errors import LabError
from hermes_lab.figures.study_parts import BandSeries

RECENT = Cut("hide", "recent", "shallow")
CUTS = (
    UNTOUCHED,
    RECENT,
    *(replace(RECENT, draw=i) for i in range(12)),
    Cut("hide", "recent", window=1),
    Cut("hide", "recent", window=1, draw=0),
    Cut("hide", "recent", "all", frames=8),
    Cut("hide", "recent", "all", frames=8, draw=0),
    Cut("keep", "recent", "shallow"),
    NO_VIDEO,
)
STREAMS, HORIZONS = 3, 2


@pytest.fixture
def effects() -> Effects:
    """Margins that count up: stream + 10 x horizon + 100 x condition."""
    s, h, c = np.ogrid[:STREAMS, :HORIZONS, : len(CUTS)]
    margin = (s + 10 * h + 100 * c).astype(float)
    return Effects(CUTS, margin, margin, margin, np.array([2.0, 4.0]))


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_conditions_are_read_back_as_they_were_stored(cut: Cut) -> None:
    stored = np.asarray([str(c) for c in CUTS])[CUTS.index(cut)]
    assert Cut.read(stored) == cut
    assert len(set(map(str, CUTS))) == len(CUTS)


def test_random_versions_are_those_of_one_condition(effects: Effects) -> None:
    """Twelve draws of it (not 1, 10 and 11 for 1), and none of its windows, doses or its opposite."""
    assert effects.random(RECENT) == [replace(RECENT, draw=i) for i in range(12)]
    assert effects.random_drops(RECENT, 0).shape == (12, STREAMS)
    assert effects.random(Cut("hide", "recent", window=1)) == [CUTS[15]]
    assert effects.random(Cut("hide", "recent", "all", frames=8)) == [CUTS[17]]
    assert effects.random(NO_VIDEO) == []


def test_drops_are_in_units_of_hiding_all_video(effects: Effects) -> None:
    number = CUTS.index(NO_VIDEO)
    assert effects.drop(NO_VIDEO, 1).tolist() == [-100.0 * number / 4] * STREAMS
    assert effects.left(RECENT, 1).tolist() == [110 / 4, 111 / 4, 112 / 4]
    assert effects.drop(UNTOUCHED, 0).tolist() == [0.0] * STREAMS


def test_a_condition_that_was_not_run_is_no_empty_curve(effects: Effects) -> None:
    missing = Cut("hide", "recent", "deep")
    for ask in (effects.index, effects.random, lambda cut: effects.random_drops(cut, 0)):
        with pytest.raises(LabError, match=r"The knockout .*\"deep\".* was not run"):
            ask(missing)


def test_series_of_a_band_are_read_as_tables_say_them() -> None:
    assert BandSeries.read("deep: random_weights-0") == BandSeries("deep", "random_weights-0")
    assert str(BandSeries("deep", "half rate: again")) == "deep: half rate: again"
    assert BandSeries.read("deep: half rate: again").condition == "half rate: again"
    for wrong in ("deep", "deep:trained", ": trained", "deep: ", 3):
        with pytest.raises(LabError, match="must name a band and a condition"):
            BandSeries.read(wrong)

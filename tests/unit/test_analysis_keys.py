"""What studies look things up by: features, variants, draws, bands - and the names of earlier versions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from analysis import claims
from analysis.context import Settings, StudyContext, seeded, variants
from analysis.draws import Draw
from analysis.features import GROUPS, Feature, Features
from analysis.planted import Plant, planted_lab
from hermes_lab.engine.hooks import HookBoard, layer_of
from hermes_lab.errors import LabError
from hermes_lab.policies.hermes import Hermes
from hermes_lab.policies.parts.scoring import edges_of


# --- features -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["now/profile", "position_only/prominence", "tokens/massive"])
def test_features_are_read_back_as_they_are_called_on_disk(name: str) -> None:
    assert str(Feature.read(name)) == name


@pytest.mark.parametrize(
    "name", ["now/profil", "massive", "tokens/profile", "now/massive", "", "now/", "now/profile/x"]
)
def test_a_misspelt_feature_is_an_error_and_no_empty_curve(name: str) -> None:
    with pytest.raises(LabError, match="There is no feature"):
        Feature.read(name)


def test_features_are_found_by_rows_and_name() -> None:
    held = {Feature(rows, "mass"): np.full((2, 1, 1), n, float) for n, rows in enumerate(GROUPS)}
    found = Features(held)
    assert found.of("long", "mass")[0, 0, 0] == GROUPS.index("long")
    assert np.array_equal(found["long/mass"], found.of("long", "mass"))
    assert found.question("mass")[0, 0, 0] == 1.0  # mean of now, recent and long
    with pytest.raises(LabError, match=r"'visual/slots' was not observed here"):
        found.of("visual", "slots")
    with pytest.raises(LabError, match="There is no feature"):
        found["long/mas"]


# --- variants -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> StudyContext:
    return StudyContext(
        planted_lab(Plant(layers=4)), tmp_path_factory.mktemp("keys"), Settings(frames=40)
    )


def test_untrained_networks_choose_for_themselves(context: StudyContext) -> None:
    for kind in ("random_weights", "permuted_weights"):
        assert context.chooser(seeded(kind, 2)) == f"{kind}-2"
    for name in ("trained", "moving_camera", "half_rate", "position_only"):
        assert context.chooser(name) == "trained"
    assert set(variants(2)) >= {"random_weights-0", "permuted_weights-1"}


def test_a_misspelt_variant_is_told(context: StudyContext) -> None:
    with pytest.raises(
        LabError, match=r"no variant 'random_weight-0'.*did you mean 'random_weights-0'"
    ):
        context.observe("random_weight-0")


def test_the_newest_frames_are_a_tenth_of_the_stream(context: StudyContext) -> None:
    assert context.newest_frames == 4
    short = replace(context, settings=replace(context.settings, frames=32))
    assert short.newest_frames == 3


# --- draws ----------------------------------------------------------------------------------------
def test_draws_are_told_apart_by_number() -> None:
    assert [str(Draw("shuffled bands", n)) for n in (None, 0, 2)] == [
        "shuffled bands",
        "shuffled bands 0",
        "shuffled bands 2",
    ]
    assert Draw("random words", 1) != Draw("random words 1")


# --- bands ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("layers", [*range(1, 41), 64, 80])
def test_studies_and_policy_draw_the_papers_bands_alike(layers: int) -> None:
    first, deep = edges_of(layers)
    mine = ["shallow"] * first + ["middle"] * (deep - first) + ["deep"] * (layers - deep)
    assert mine == list(Hermes.paper().bands_of(layers))


def test_at_least_one_layer_is_shallow_in_a_study(context: StudyContext) -> None:
    assert edges_of(context.layers) == (0, 2)
    assert [list(band) for band in context.paper_bands] == [[0], [1], [2, 3]]


# --- hooks ----------------------------------------------------------------------------------------
def test_the_layer_of_a_hook_is_known_and_others_are_refused() -> None:
    board = HookBoard(12)
    for name in ("blocks.0.hook_resid_pre", "blocks.11.attn.hook_pattern"):
        assert layer_of(board.point(name)) == int(name.split(".")[1])
    for name in ("hook_embed", "ln_final.hook_normalized"):
        with pytest.raises(LabError, match=f"The hook '{name}' belongs to no layer"):
            layer_of(board.point(name))


# --- names of before ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "now"),
    [
        ("Need", claims.RequiredControl),
        ("Role", claims.ControlRole),
        ("confirmed", claims.confirmatory),
    ],
)
def test_studies_of_earlier_versions_find_the_names_that_they_import(name: str, now: Any) -> None:
    with pytest.warns(DeprecationWarning, match=rf"analysis\.claims\.{name} is called "):
        assert getattr(claims, name) is now


def test_a_name_that_never_was_is_missing() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Wants'"):
        _ = claims.Wants


def test_the_status_of_a_claim_is_one_of_two() -> None:
    claim = claims.Claim(
        "k", "s", "m", "r", (claims.RequiredControl("uniform", "exceed"),), 0.0, 0.1
    )
    assert claim.status == "exploratory"
    assert replace(claim, status="confirmed").status == "confirmatory"
    assert claims.confirmatory(claim).status == "confirmatory"
    with pytest.raises(LabError, match="'k' has the status 'proved'; it must be 'exploratory' or"):
        replace(claim, status="proved")

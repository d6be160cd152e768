"""Study figures draw their data, and their null beside it."""

from __future__ import annotations

import math

import plotly.graph_objects as go
import pytest

from hermes_lab.errors import LabError
from hermes_lab.figures import studies
from hermes_lab.figures.study_parts import NULL, has_null, is_null

HORIZONS = ("now", "recent", "long")


def table(*rows, columns):
    return {name: [row[i] for row in rows] for i, name in enumerate(columns)}


def curve(axis, series, points=3, extra=()):
    columns = ("series", *(name for name, _ in extra), axis, "value", "low", "high")
    rows = []
    for n, name in enumerate(series):
        for combination in extra_rows(extra):
            for x in range(points):
                rows.append((name, *combination, x + 1, 1.0 + n, 0.5 + n, 1.5 + n))
    return table(*rows, columns=columns)


def extra_rows(extra):
    found = [()]
    for _, values in extra:
        found = [(*f, v) for f in found for v in values]
    return found


HEADS = table(
    *(
        (layer, head, 1.0 + layer, 0.9, 1.1, "random_weights-0", 1.0, 0.01, layer > 0)
        for layer in range(2)
        for head in range(2)
    ),
    columns=(
        "layer",
        "head",
        "value",
        "low",
        "high",
        "strongest_null",
        "null_value",
        "p_corrected",
        "beyond_null",
    ),
)
PANEL = table(
    ("claim", "observed", "estimate", 2.0, 1.8, 2.2, 1, 1.0),
    ("claim", "uniform", "exceed", 1.0, 1.0, 1.0, 1, 0.01),
    ("claim", "moving_camera", "persist", 1.9, None, None, 1, 0.01),
    columns=("claim", "condition", "role", "value", "low", "high", "versions", "p"),
)
H = ("horizon", HORIZONS)
CASES = {
    "age_profiles": ([curve("age_frames", ("shallow: trained", "shallow: uniform"))], {}),
    "agreement_bars": (
        [table(*((p, "deep", h, 0.5, 0.4, 0.6) for p in ("global", "random words 0") for h in HORIZONS),
               columns=("series", "band", "horizon", "value", "low", "high"))], {}),
    "agreement_curves": ([curve("layer", ("global", "age alone"))], {}),
    "depth_curves": ([curve("layer", ("trained", "random_weights-0"))], {"reference": 1.0, "y": "share"}),
    "depth_models": ([table(("development", "line", 0.4), ("development", "two_changes", 0.9),
                            columns=("source", "description", "explained"))], {}),
    "dose_curves": (
        [curve("frames", ("hide newest", "hide random frames"), extra=(H,)) | {"accuracy": [0.5] * 18}], {}),
    "effect_bars": ([curve("horizon", ("anchors", "random slots"))], {"reference": 0.0}),
    "feature_curves": (
        [curve("layer", ("trained", "random_weights-0"), extra=(("feature", ("entropy", "top")),)),
         table(("development", 1, 2, 1, 3, 0.8, 1), columns=("source", "change", "first_layer", "low", "high",
                                                             "support", "paper"))], {}),
    "feature_heads": (
        [table(("entropy", "trained", 0, 0, 0.5), ("entropy", "random_weights-0", 0, 0, 0.9),
               columns=("feature", "series", "layer", "head", "value"))], {}),
    "forgetting_rates": (
        [table(("trained", 0, 0, 0.3, 0.9, 1.0), ("trained", 0, 1, float("nan"), 0.0, 0.0),
               ("random_weights-0", 0, 0, None, None, 0.0),
               columns=("series", "layer", "head", "rate_per_frame", "r2_tail", "amplitude"))], {}),
    "head_map": ([HEADS], {"label": "share", "reference": 1.0}),
    "knockout_matrix": (
        [table(*(("hide", "deep", "recent", h, 0.5, 0.4, 0.6, r) for h, r in zip(HORIZONS, (0.1, None, float("nan")), strict=True)),
               columns=("direction", "layers", "set", "horizon", "drop", "low", "high", "random_drop"))], {}),
    "lens_curves": (
        [curve("layer", HORIZONS) | {"accuracy": [0.5] * 9, "chance": [0.1] * 9}], {}),
    "null_panel": ([PANEL], {}),
    "policy_bars": (
        [table(*((p, h, 0.5, 0.4, 0.6) for p in ("paper's bands", "shuffled bands 0") for h in HORIZONS),
               columns=("series", "horizon", "value", "low", "high"))], {}),
    "route_curves": ([curve("window", ("video to question",), extra=(H,))], {}),
    "set_shares": (
        [table(*((layer, "anchor slot", m, 1.0, 0.9, 1.1) for layer in range(2) for m in ("mass", "value")),
               columns=("layer", "set", "measure", "value", "low", "high"))], {}),
    "slot_maps": ([curve("slot", ("deep: trained", "deep: patches_shuffled"), points=4)], {"cols": 2}),
    "use_bars": ([curve("horizon", ("mass", "recency (null)"))], {}),
    "window_curves": ([curve("window", ("recent", "random frames"), extra=(H,))], {}),
}  # fmt: skip


def test_every_figure_has_a_case():
    assert set(CASES) == set(studies.FUNCTIONS)


@pytest.mark.parametrize("name", CASES)
def test_figure_shows_its_data_and_its_null(name):
    tables, options = CASES[name]
    figure = studies.draw(name, tables, **options)
    assert isinstance(figure, go.Figure)
    assert has_null(figure)
    assert any(getattr(trace, "meta", None) != NULL for trace in figure.data)
    assert "NaN" not in figure.to_json()


def test_values_reach_the_figure():
    figure = studies.draw("depth_curves", *CASES["depth_curves"][:1], reference=1.0)
    own = next(t for t in figure.data if t.name == "trained" and t.mode == "lines+markers")
    assert list(own.y) == [1.0, 1.0, 1.0]
    assert list(own.x) == [1, 2, 3]
    null = next(t for t in figure.data if t.name == "random_weights-0")
    assert null.meta == NULL
    assert null.line.color == "#7F7F7F"


def test_heads_that_are_not_beyond_their_null_are_crossed():
    figure = studies.draw("head_map", [HEADS], reference=1.0)
    crossed = next(t for t in figure.data if t.name == "not beyond its strongest null")
    assert list(crossed.y) == [0, 0]
    assert figure.data[0].zmid == 1.0


def test_missing_numbers_leave_gaps():
    figure = studies.draw("forgetting_rates", CASES["forgetting_rates"][0])
    own = next(t for t in figure.data if t.name.startswith("trained"))
    assert list(own.y) == [0.3]
    assert "1 of 2 heads decay" in own.name
    assert not any(math.isnan(v) for t in figure.data for v in (t.y or ()))


def test_a_figure_without_a_null_is_refused(monkeypatch):
    monkeypatch.setitem(studies.FUNCTIONS, "bare", lambda columns: go.Figure(go.Scatter(y=[1])))
    with pytest.raises(LabError, match="shows no null"):
        studies.draw("bare", [{}])
    with pytest.raises(LabError, match="no study figure"):
        studies.draw("unknown", [{}])


def test_nulls_are_known_by_name():
    assert all(
        map(is_null, ("random_weights-2", "uniform", "age alone", "shallow: patches_shuffled"))
    )
    assert not any(map(is_null, ("trained", "moving_camera", "newest tokens", "recent")))

"""Figures against the numbers they were given."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from hermes_lab import figures
from hermes_lab.figures.claims import forest
from hermes_lab.figures.theme import STATE_COLOURS, rgb
from hermes_lab.recording import TokenState, Trial
from hermes_lab.snapshot import AttentionSummary


def states(layers: int, tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 5, (layers, tokens)).astype(np.int8)


def strip_of(state: np.ndarray, **options: int) -> figures.Strip:
    tokens = state.shape[1]
    return figures.make_strip(state, np.arange(tokens) // 4, np.arange(tokens) / 4.0, **options)


def test_a_narrow_strip_shows_every_token_as_it_is() -> None:
    state = states(3, 50)
    strip = strip_of(state)
    assert (strip.state == state).all()
    assert (strip.share == np.isin(state, (TokenState.KEPT, TokenState.PROTECTED))).all()


def test_a_wide_strip_counts_what_its_columns_hold() -> None:
    state = states(2, 1003, seed=1)
    strip = strip_of(state, max_columns=100)
    held = np.isin(state, (TokenState.KEPT, TokenState.PROTECTED))
    for column in range(100):
        inside = slice(strip.first[column], strip.first[column + 1])
        assert strip.share[:, column] == pytest.approx(held[:, inside].mean(1))
        for layer in range(2):
            cell = state[layer, inside]
            shown = strip.state[layer, column]
            if held[layer, inside].any():
                assert shown in (TokenState.KEPT, TokenState.PROTECTED)
            else:
                merged, evicted = (
                    (cell == TokenState.MERGED).sum(),
                    (cell == TokenState.EVICTED).sum(),
                )
                wanted = TokenState.MERGED if merged and merged >= evicted else TokenState.EVICTED
                assert shown == (wanted if merged + evicted else TokenState.ABSENT)
    assert strip.first[-1] == 1003


def test_room_is_kept_for_tokens_to_come() -> None:
    strip = strip_of(np.ones((1, 10), np.int8), room=40)
    assert strip.columns == 40
    assert (strip.state[0, 10:] == TokenState.ABSENT).all()
    assert np.isnan(strip.time_s[10:]).all()


def test_a_strip_without_tokens_is_empty() -> None:
    strip = strip_of(np.empty((2, 0), np.int8))
    assert (strip.state == TokenState.ABSENT).all()
    assert figures.strip_csv(strip).count("\n") == 1


def test_states_differ_in_lightness_as_well_as_in_hue() -> None:
    for dark in (False, True):
        light = {
            s: float(np.dot(rgb(STATE_COLOURS[dark][s]), (0.2126, 0.7152, 0.0722)))
            for s in TokenState
        }
        values = sorted(v for s, v in light.items())
        assert min(np.diff(values)) > 8, light


@pytest.mark.parametrize("dark", [False, True])
def test_the_painted_strip_has_the_colours_of_its_states(dark: bool) -> None:
    state = np.array([[1, 2, 3, 4, 0]], np.int8)
    picture = figures.paint(strip_of(state), width_px=500, row_px=20, dark=dark)
    assert picture.shape == (20, 500, 3)
    for n, value in enumerate(state[0]):
        found = {tuple(p) for p in picture[:19, n * 100 : n * 100 + 100].reshape(-1, 3)}
        assert rgb(STATE_COLOURS[dark][TokenState(int(value))]) in found


def test_the_svg_is_xml_and_its_rectangles_cover_what_is_not_absent() -> None:
    state = states(3, 40, seed=4)
    root = ET.fromstring(figures.strip_svg(strip_of(state), width=400, row=10))
    space = "{http://www.w3.org/2000/svg}"
    rects = [r for r in root.findall(f"{space}rect") if r.get("height") == "9"]
    covered = sum(float(r.get("width")) for r in rects) / 10  # type: ignore[arg-type]
    assert covered == pytest.approx((state != TokenState.ABSENT).sum(), abs=0.5)


def test_the_csv_has_every_cell() -> None:
    state = states(2, 12, seed=5)
    rows = list(csv.DictReader(io.StringIO(figures.strip_csv(strip_of(state)))))
    words = {(int(r["layer"]), int(r["column"])): r["state"] for r in rows}
    assert words == {
        (layer, n): figures.STATE_WORDS[TokenState(int(state[layer, n]))]
        for layer in range(2)
        for n in range(12)
    }


def test_surviving_patches_are_the_layers_that_hold_them() -> None:
    state = states(4, 24, seed=6)
    frame, cell = np.arange(24) // 6, np.arange(24) % 6
    share = figures.surviving_share(state, frame, cell // 3, cell % 3, [1, 3], (2, 3))
    held = np.isin(state, (TokenState.KEPT, TokenState.PROTECTED)).mean(0)
    assert share[0].ravel() == pytest.approx(held[6:12])
    assert share[1].ravel() == pytest.approx(held[18:24])
    one = figures.surviving_share(state, frame, cell // 3, cell % 3, [0], (2, 3), layer=2)
    assert set(np.unique(one)) <= {0.0, 1.0}


def test_a_patch_that_is_held_keeps_its_colours_and_one_that_is_not_loses_them() -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:] = (200, 40, 10)
    drawn = figures.overlay(picture, np.array([[1.0, 0.0]], np.float32), height_px=40)
    assert tuple(drawn[20, 10]) == (200, 40, 10)
    assert np.ptp(drawn[20, 30]) == 0
    assert drawn[20, 30].max() < 80


def test_a_filmstrip_says_where_each_frame_is() -> None:
    pictures = [np.full((10, 20, 3), n * 40, np.uint8) for n in range(3)]
    picture, spans = figures.filmstrip(
        pictures, np.ones((3, 1, 1), np.float32), ["a", "b", "c"], height_px=30
    )
    assert [b - a for a, b in spans] == [60, 60, 60]
    assert spans[-1][1] == picture.shape[1]
    assert [int(picture[5, (a + b) // 2, 0]) for a, b in spans] == [0, 40, 80]


def test_frames_are_the_newest_or_spread_with_the_newest_last() -> None:
    assert figures.choose_frames(3, 10, newest=True) == [0, 1, 2]
    assert figures.choose_frames(50, 4, newest=True) == [46, 47, 48, 49]
    spread = figures.choose_frames(50, 4, newest=False)
    assert spread[0] == 0 and spread[-1] == 49 and len(spread) == 4


def uniform_summary(tokens: np.ndarray, prefix: int) -> tuple[AttentionSummary, figures.HeldFrames]:
    """Attention that is uniform over a prefix and over tokens of each frame, [layer, frame]."""
    layers, frames = tokens.shape
    visible = tokens.sum(1) + prefix
    mass = np.repeat((tokens / visible[:, None])[:, None], 2, 1).astype(np.float32)
    per_head = np.ones((layers, 2), np.float32)
    summary = AttentionSummary(
        group="question", frame_mass=mass, role_mass=np.zeros((layers, 2, 5), np.float32),
        entropy=per_head * np.log(visible)[:, None].astype(np.float32), visible=visible.astype(np.int64),
        sink_share=per_head / visible[:, None].astype(np.float32), age_s=per_head,
    )  # fmt: skip
    return summary, figures.HeldFrames(
        tokens.astype(float), np.arange(frames, dtype=float), frames - 1.0
    )


def test_uniform_attention_scores_exactly_the_null() -> None:
    tokens = np.array([[4, 0, 2, 4], [1, 1, 1, 9]])
    summary, held = uniform_summary(tokens, prefix=5)
    for metric, null in figures.NULLS.items():
        scores = figures.head_scores(summary, held, metric)  # type: ignore[arg-type]
        assert scores == pytest.approx(np.full((2, 2), null), abs=1e-5), metric


def test_attention_on_the_newest_frame_alone_is_fully_recent_and_an_anchor() -> None:
    summary, held = uniform_summary(np.array([[2, 2, 2, 2]]), prefix=0)
    mass = np.zeros_like(summary.frame_mass)
    mass[..., -1] = 0.5
    from dataclasses import replace

    newest = replace(summary, frame_mass=mass)
    assert figures.head_scores(newest, held, "recency") == pytest.approx(1.0)
    assert figures.head_scores(newest, held, "anchor") == pytest.approx(4.0)


def test_without_sinks_shares_of_video_sum_to_one() -> None:
    summary, _ = uniform_summary(np.array([[4, 0, 2]]), prefix=10)
    assert figures.frame_shares(summary, sinks=True).sum(-1) == pytest.approx(6 / 16)
    assert figures.frame_shares(summary, sinks=False).sum(-1) == pytest.approx(1.0)


def test_every_cell_of_the_atlas_can_be_clicked() -> None:
    scores = np.arange(12.0).reshape(3, 4)
    cells = figures.atlas(scores, metric="recency", chosen=(1, 2)).data[1]
    assert [tuple(c) for c in cells.customdata] == [
        (y, x, scores[y, x]) for y in range(3) for x in range(4)
    ]
    assert list(zip(cells.y, cells.x, strict=True)) == [(y, x) for y in range(3) for x in range(4)]
    assert cells.marker.opacity == 0


def test_thumbnails_scale_every_head_to_its_own_peak() -> None:
    summary, _ = uniform_summary(np.array([[1, 3, 2]]), prefix=0)
    sheet = np.asarray(figures.profile_tiles(summary, bins=3).data[0].z)
    assert sheet[0, :3] == pytest.approx([1 / 3, 1, 2 / 3], abs=1e-6)
    assert np.isnan(sheet[0, 3])


def test_agreement_is_jaccard() -> None:
    a = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], bool)
    b = np.array([[1, 0, 1, 0], [0, 0, 0, 0]], bool)
    assert figures.held_jaccard(a, b) == pytest.approx([1 / 3, 1.0])


def test_accuracy_bars_carry_their_intervals_and_none_where_there_is_none() -> None:
    figure = figures.accuracy_bars(
        {"fifo": {"now": (0.9, 0.8, 0.95), "long": (0.4, float("nan"), float("nan"))}},
        chance={"now": 0.3},
    )
    (bars,) = figure.data
    assert list(bars.x) == ["now", "long"]
    assert list(bars.error_y.array) == pytest.approx([0.05, 0.0])
    assert list(bars.error_y.arrayminus) == pytest.approx([0.1, 0.0])
    assert figure.layout.shapes[0].y0 == 0.3


def test_trials_are_drawn_with_their_terms_and_losses_crossed() -> None:
    trials = [
        Trial(3, 0, 0.5, {"recency": 0.4}, 2, 10, 5, True),
        Trial(4, 0, 0.1, {"recency": 0.05}, 9, 12, 5, False),
    ]
    score, recency = figures.trial_curves(trials).data
    assert list(score.y) == [0.5, 0.1]
    assert list(score.marker.symbol) == ["circle", "x"]
    assert recency.name == "recency" and list(recency.y) == [0.4, 0.05]
    rank, fits, _ = figures.rank_curve(trials).data
    assert list(rank.y) == [2, 9] and list(fits.y) == [5, 5]


def test_memory_is_in_mebibytes_and_ttft_in_milliseconds() -> None:
    assert list(figures.memory_curves({"a": ([0, 1], [2**20, 2**21])}).data[0].y) == [1, 2]
    assert list(figures.ttft_curves({"a": ([0], [0.25])}).data[0].y) == [250]


def test_a_forest_shows_intervals_where_there_are_any() -> None:
    figure = forest(
        [
            ("observed", "observed", 2.0, 1.5, 2.5),
            ("shuffled", "exceed", 1.0, float("nan"), float("nan")),
        ],
        1.0,
    )
    observed, null = figure.data
    assert observed.error_x.array[0] == pytest.approx(0.5)
    assert null.error_x.array[0] == 0
    assert figure.layout.shapes[0].x0 == 1.0


def test_knockouts_stand_beside_the_range_of_random_ones() -> None:
    chosen, random = figures.knockout_bars(
        np.array([-3.0]), np.array([[0.0], [-1.0]]), ["logit"]
    ).data
    assert chosen.y[0] == -3.0
    assert (random.y[0], random.error_y.array[0], random.error_y.arrayminus[0]) == (-0.5, 0.5, 0.5)


def test_a_page_stands_alone() -> None:
    page = figures.to_html(figures.memory_curves({"a": ([0], [1])}), "Memory & <bytes>")
    assert "<title>Memory &amp; &lt;bytes&gt;</title>" in page
    assert "cdn.plot.ly" not in page.split("plotly.js v")[0]

"""The room of figures: pure functions from data to figures, plotly for pages and notebooks, arrays and SVG for what is
redrawn live.

What may enter: functions that take plain arrays, tables or recordings and give back a figure. Nothing here runs a model,
reads the time, or keeps state.
"""

from __future__ import annotations

from hermes_lab.figures.attention import (
    METRICS,
    NULLS,
    HeldFrames,
    atlas,
    frame_bars,
    frame_shares,
    head_scores,
    profile_tiles,
    role_bars,
)
from hermes_lab.figures.comparison import (
    accuracy_bars,
    agreement_by_layer,
    agreement_map,
    agreement_over_time,
    held_jaccard,
    knockout_bars,
)
from hermes_lab.figures.curves import (
    memory_curves,
    rank_curve,
    step_times,
    trial_curves,
    ttft_curves,
)
from hermes_lab.figures.filmstrip import choose_frames, filmstrip, heat, overlay, surviving_share
from hermes_lab.figures.recorded import held_frames, recorded_strip
from hermes_lab.figures.strip import (
    Strip,
    make_strip,
    paint,
    retention_figure,
    strip_csv,
    strip_svg,
)
from hermes_lab.figures.theme import CONFIG, STATE_COLOURS, STATE_WORDS, styled, to_html

__all__ = [
    "CONFIG",
    "METRICS",
    "NULLS",
    "STATE_COLOURS",
    "STATE_WORDS",
    "HeldFrames",
    "Strip",
    "accuracy_bars",
    "agreement_by_layer",
    "agreement_map",
    "agreement_over_time",
    "atlas",
    "choose_frames",
    "filmstrip",
    "frame_bars",
    "frame_shares",
    "head_scores",
    "heat",
    "held_frames",
    "held_jaccard",
    "knockout_bars",
    "make_strip",
    "memory_curves",
    "overlay",
    "paint",
    "profile_tiles",
    "rank_curve",
    "recorded_strip",
    "retention_figure",
    "role_bars",
    "step_times",
    "strip_csv",
    "strip_svg",
    "styled",
    "surviving_share",
    "to_html",
    "trial_curves",
    "ttft_curves",
]

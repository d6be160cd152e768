"""Colours that colour-blind people can tell apart, and one look for all figures.

Colours are Okabe and Ito's. Nothing is told by colour alone: states of tokens also differ in lightness and in
texture, lines in dash, bars in position.
"""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from hermes_lab.recording import TokenState

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, GREY = "#56B4E9", "#CC79A7", "#F0E442", "#7F7F7F"
SERIES = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY, "#000000")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid", "dash")
SEQUENTIAL = "Cividis"
DIVERGING = "PuOr"

HORIZONS = ("now", "recent", "long")
"""How far back questions reach, in the order in which they are drawn."""

STATE_COLOURS: dict[bool, dict[TokenState, str]] = {
    False: {
        TokenState.ABSENT: "#FFFFFF",
        TokenState.KEPT: BLUE,
        TokenState.EVICTED: "#DEDEDE",
        TokenState.MERGED: ORANGE,
        TokenState.PROTECTED: "#1A1A1A",
    },
    True: {
        TokenState.ABSENT: "#0E1117",
        TokenState.KEPT: SKY,
        TokenState.EVICTED: "#3A3F47",
        TokenState.MERGED: VERMILION,
        TokenState.PROTECTED: "#FFFFFF",
    },
}
"""Colour of each token state, on a light (False) and on a dark (True) page."""

STATE_WORDS: dict[TokenState, str] = {
    TokenState.ABSENT: "not there",
    TokenState.KEPT: "kept",
    TokenState.EVICTED: "evicted",
    TokenState.MERGED: "merged",
    TokenState.PROTECTED: "protected",
}

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "showSendToCloud": False,
    "toImageButtonOptions": {"format": "svg"},
}
"""Options for showing a figure in a browser; the camera button saves an SVG."""


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of `#RRGGBB`, 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def styled(
    figure: go.Figure, *, title: str = "", x: str = "", y: str = "", height: int = 300
) -> go.Figure:
    """Give a figure its titles, margins and font sizes; returns the same figure."""
    figure.update_layout(
        title={"text": title, "font": {"size": 15}, "y": 0.98, "yanchor": "top"} if title else None,
        height=height,
        margin={"l": 56, "r": 12, "t": 58 if title else 30, "b": 44},
        font={"size": 13},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        template="plotly_white",
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(title_text=x)
    figure.update_yaxes(title_text=y)
    return figure


def to_html(figure: go.Figure, title: str = "HERMES Lab") -> str:
    """A page that shows the figure without a network (about 5 MB, plotly.js included)."""
    page = figure.to_html(include_plotlyjs=True, full_html=True, config=CONFIG)
    return page.replace("<head>", f"<head><title>{_escaped(title)}</title>", 1)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

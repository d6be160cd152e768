"""Small browser components: the retention strip, a picture that says where it was clicked, and the live view.

They take plain bytes, redraw in place (no flicker, no zoom lost) and can be used from the keyboard: arrow keys
move a cursor, Enter selects. What runs in the browser lies in `browser/`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from streamlit.components import v2
from streamlit.components.v2.types import ComponentRenderer

from dashboards.parts.protocol import ClickableHead, StripHead, packed
from dashboards.parts.templates import BROWSER, filled
from hermes_lab.figures import STATE_COLOURS, STATE_WORDS, Strip
from hermes_lab.figures.theme import GREEN
from hermes_lab.recording import TokenState

ON_ITS_WAY = "on its way"


def _component(name: str) -> ComponentRenderer:
    """A component of `browser/`: its HTML, its script after what all of them share, and the style of all."""
    script = "\n".join(
        (BROWSER / f"{part}.js").read_text("utf-8") for part in ("strip_parts", name)
    )
    return v2.component(
        f"hermes_lab_{name}",
        html=filled(f"{name}.html"),
        css=(BROWSER / "box.css").read_text("utf-8"),
        js=script,
    )


_strip, _live, _clickable = map(_component, ("strip", "live", "clickable"))


def strip_head(
    strip: Strip,
    *,
    seq: int = 0,
    chosen: tuple[int, int] | None = None,
    row_px: int | None = None,
) -> StripHead:
    """What a canvas must know of a strip beside its codes."""
    seen = np.flatnonzero(np.isfinite(strip.time_s))
    ticks = seen[:: max(1, -(-len(seen) // 8))]
    return {
        "layers": strip.layers,
        "columns": strip.columns,
        "row_px": row_px or max(5, min(26, 260 // max(strip.layers, 1))),
        "frame": strip.frame.tolist(),
        "time_s": [None if np.isnan(t) else round(float(t), 1) for t in strip.time_s],
        "ticks": [(int(c), f"{strip.time_s[c]:.0f} s") for c in ticks],
        "light": [*(STATE_COLOURS[False][s] for s in TokenState), GREEN],
        "dark": [*(STATE_COLOURS[True][s] for s in TokenState), GREEN],
        "paper": [STATE_COLOURS[dark][TokenState.ABSENT] for dark in (False, True)],
        "words": [*(STATE_WORDS[s] for s in TokenState), ON_ITS_WAY],
        "chosen": chosen,
        "seq": seq,
        "alt": _alt(strip),
        "hint": "Point at a cell to read it, click it (or arrow keys and Enter) to ask why.",
    }


def draw_strip(
    strip: Strip,
    *,
    key: str,
    on_cell: Callable[[], None],
    seq: int = 0,
    chosen: tuple[int, int] | None = None,
    row_px: int | None = None,
) -> Any:
    """Draw the strip; after a click the result's `cell` is {"layer", "column"} and `on_cell` has been called."""
    return _strip(
        data=packed(
            strip_head(strip, seq=seq, chosen=chosen, row_px=row_px), strip.codes().tobytes()
        ),
        key=key,
        on_cell_change=on_cell,
    )


def draw_live_view(
    data: bytes, *, key: str, on_cell: Callable[[], None], on_frame: Callable[[], None]
) -> Any:
    """Draw what `live.message.payload` made; `cell` is as for `draw_strip`, `frame` the number of a clicked frame."""
    return _live(data=data, key=key, on_cell_change=on_cell, on_frame_change=on_frame)


def draw_picture(
    picture: npt.NDArray[np.uint8],
    spots: list[tuple[float, float, float, float]],
    names: list[str],
    *,
    key: str,
    on_spot: Callable[[], None],
    alt: str,
    hint: str,
    across: int,
    width: int | None = None,
) -> Any:
    """Draw a picture with clickable spots (x0, y0, x1, y1 as shares of its size); `spot` is the one clicked."""
    png = png_bytes(picture)
    head: ClickableHead = {
        "spots": spots, "names": names, "alt": alt, "hint": hint, "across": across,
        "width": width or picture.shape[1], "stamp": hash(png),
    }  # fmt: skip
    return _clickable(data=packed(head, png), key=key, on_spot_change=on_spot)


def show_picture(
    picture: npt.NDArray[np.uint8],
    *,
    key: str,
    alt: str,
    caption: str = "",
    width: int | None = None,
) -> None:
    """A picture whose bytes travel with the page, not as a file that is gone by the time that a slow browser asks
    for it (as those of `st.image` are)."""
    png = png_bytes(picture)
    head: ClickableHead = {
        "spots": [], "names": [], "alt": alt, "hint": caption, "across": 1, "width": width or picture.shape[1],
        "stamp": hash(png), "still": True,
    }  # fmt: skip
    _clickable(data=packed(head, png), key=key, on_spot_change=lambda: None)


def png_bytes(picture: npt.NDArray[np.uint8]) -> bytes:
    """An RGB picture as PNG."""
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _alt(strip: Strip) -> str:
    held = (strip.share * np.diff(strip.first)).sum(1)
    total = max(int((strip.frame >= 0).sum() and strip.first[-1]), 1)
    first, last = held[0] / total, held[-1] / total
    return (
        f"Retention strip of {strip.layers} layers: the first holds {first:.0%} of the tokens drawn, "
        f"the last {last:.0%}."
    )

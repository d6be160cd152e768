"""Small pictures of what a policy kept: layers down, frames across, and how much of each frame a layer holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from hermes_lab.figures.arrays import Shares

CELL_PX = 8
PANEL_PX = 144
GAP_PX = 14
LEFT_PX = 132
TEXT_PX = 20
INK = (128, 128, 128, 255)  # read on white and on black
CLEAR = (0, 0, 0, 0)
_STOPS = ((0.0, (233, 233, 233)), (0.02, (189, 219, 238)), (0.5, (74, 154, 208)), (1.0, (0, 78, 140)))  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """A part of a picture: its label and shares of frames held, [layer, frame]; one row is drawn as a thin strip.

    `edges` are layers before which a gap stands.
    """

    label: str
    shares: Shares
    edges: tuple[int, ...] = ()


def frame_shares(
    held: Sequence[npt.NDArray[np.integer[Any]]],
    frame: npt.NDArray[np.integer[Any]],
    frames: int,
    frame_tokens: int,
) -> Shares:
    """Share of each frame's tokens that a layer holds, mean over its heads, [layer, frame].

    Args:
        held: global ids of the tokens of each layer, [head, token].
        frame: frame of every global id of the stream, -1 for none, [id].
        frames: frames of the stream.
        frame_tokens: tokens of a whole frame.
    """
    rows: list[npt.NDArray[np.float64]] = []
    for ids in held:
        owner = frame[ids].ravel()
        counts = np.bincount(owner[owner >= 0], minlength=frames)[:frames]
        rows.append(counts / (max(len(ids), 1) * frame_tokens))
    return np.stack(rows).clip(0, 1).astype(np.float32)


def colours(shares: Shares) -> npt.NDArray[np.uint8]:
    """Light grey for nothing, blue that darkens with the share, [..., 3]."""
    at = [stop for stop, _ in _STOPS]
    channels = [np.interp(shares, at, [colour[i] for _, colour in _STOPS]) for i in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


def draw(panels: Sequence[Panel]) -> Image.Image:
    """Panels under one another over one axis of frames, on a clear ground."""
    frames = panels[0].shares.shape[1]
    tiles = [_tile(panel) for panel in panels]
    height = sum(tile.height + GAP_PX for tile in tiles) + TEXT_PX + 6
    sheet = Image.new("RGBA", (LEFT_PX + frames * CELL_PX + 24, height), CLEAR)
    pen = ImageDraw.Draw(sheet)
    pen.fontmode = "L"
    font = ImageFont.load_default(TEXT_PX)
    y = 4
    for panel, tile in zip(panels, tiles, strict=True):
        sheet.paste(tile, (LEFT_PX, y))
        middle = y + tile.height // 2
        pen.text((0, middle), panel.label, INK, font, anchor="lm")
        layers = len(panel.shares)
        if layers > 1:
            for text, edge, anchor in (("0", y - 3, "ra"), (str(layers - 1), y + tile.height + 3, "rd")):  # fmt: skip
                pen.text((LEFT_PX - 8, edge), text, INK, font, anchor=anchor)
        y += tile.height + GAP_PX
    for number in range(0, frames, 20):
        x = LEFT_PX + number * CELL_PX
        pen.line((x, y - GAP_PX + 1, x, y - GAP_PX + 5), INK, 2)
        label = f"frame {number}" if number == 0 else str(number)
        pen.text((x, y - GAP_PX + 6), label, INK, font, anchor="la" if number == 0 else "ma")
    return sheet


def draw_legend() -> Image.Image:
    """The colour scale, once for all pictures."""
    font = ImageFont.load_default(TEXT_PX)
    wide, high = 400, 24
    sheet = Image.new("RGBA", (LEFT_PX + wide + 420, high + TEXT_PX + 14), CLEAR)
    pen = ImageDraw.Draw(sheet)
    ramp = np.broadcast_to(np.linspace(0, 1, 41, dtype=np.float32).repeat(10)[:wide], (high, wide))
    sheet.paste(Image.fromarray(colours(ramp)), (LEFT_PX, 4))
    for share in (0.0, 0.5, 1.0):
        place = (LEFT_PX + share * wide, high + 8)
        pen.text(place, f"{100 * share:.0f} %", INK, font, anchor="ma")
    pen.text((LEFT_PX + wide + 16, 4), "of a frame's tokens are held", INK, font)
    return sheet


def small(picture: Image.Image, colours_at_most: int = 48) -> Image.Image:
    """The picture with a palette, for a small PNG."""
    return picture.quantize(colours_at_most, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)  # fmt: skip


def _tile(panel: Panel) -> Image.Image:
    """The cells of a panel."""
    layers, frames = panel.shares.shape
    row_px = CELL_PX * 2 if layers == 1 else max(3, PANEL_PX // layers)
    gap = 3
    tile = Image.new("RGBA", (frames * CELL_PX, layers * row_px + gap * len(panel.edges)), CLEAR)
    cells = colours(panel.shares).repeat(CELL_PX, axis=1)
    y = 0
    for layer in range(layers):
        y += gap * (layer in panel.edges)
        line = np.broadcast_to(cells[layer], (row_px, *cells.shape[1:]))
        tile.paste(Image.fromarray(np.ascontiguousarray(line)), (0, y))
        y += row_px
    return tile

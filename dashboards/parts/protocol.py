"""The messages from the pages to the components in the browser: one block of bytes each.

    4 bytes   length of the header, little-endian
    header    JSON in UTF-8, one of the heads below
    body      bytes, whose layout the header gives

`packed` writes a message; `unpack` in `browser/strip_parts.js` reads it. Each component has one head:

    component   written by                             read by                         body
    strip       `canvas.draw_strip`                    `strip.js`, `strip_parts.js`    codes
    live        `live.message.payload`                 `live.js`, `strip_parts.js`     codes, shares, JPEGs
    clickable   `canvas.draw_picture`, `show_picture`  `clickable.js`                  one PNG

* codes: of the strip's cells, uint8 [layer, column], row after row (`hermes_lab.figures.Strip.codes`): the low three
  bits are a `TokenState`, the high five the share of the cell's tokens that are held, in steps of 1/31. The browser
  itself draws state 5: frames that no layer has decided on yet.
* shares: of each tile with a number in `share`, uint8 [row, column] from that byte of the body on: how many of the
  layers hold the patch, 255 for all.
* JPEGs: `pictures` says where each begins and ends in the body.

The browser answers with triggers: `cell` {layer, column} from the strip and the live view, `frame` (its number) from the
live view, `spot` (an index) from a picture. `tests/app/test_app_protocol.py` holds both sides to the same names.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict


class StripHead(TypedDict):
    """What a canvas must know of a retention strip.

    layers, columns: of the codes; row_px: height of a layer.
    frame, time_s: of each column, -1 and None where it has none; ticks: columns with their labels.
    light, dark: colours of the codes on a light and a dark page; paper: what lies under them on either; words: for them.
    chosen: layer and column to mark. seq: another number where the codes are others. alt, hint: for people.
    """

    layers: int
    columns: int
    row_px: int
    frame: list[int]
    time_s: list[float | None]
    ticks: list[tuple[int, str]]
    light: list[str]
    dark: list[str]
    paper: list[str]
    words: list[str]
    chosen: tuple[int, int] | None
    seq: int
    alt: str
    hint: str


class Due(TypedDict):
    """When the next frame comes: in so many seconds, and the later ones every so many."""

    in_s: float
    every_s: float


class Arriving(TypedDict):
    """Frames on their way, drawn behind the strip's cells.

    slots: how many make a chunk; frames, times_s: those that came. end, width: where they begin and how wide each is, in
    the strip's columns. due: None where the stream stands still; the browser carries this clock on by itself.
    """

    slots: int
    frames: Sequence[int]
    times_s: Sequence[float]
    end: float
    width: float
    due: Due | None


class Tile(TypedDict):
    """A frame of the filmstrip; share: where its shares begin in the body, None before any layer decided on it."""

    frame: int
    caption: str
    name: str
    share: int | None


class Now(TypedDict):
    """The newest frame, drawn large."""

    frame: int
    caption: str


class LiveHead(StripHead):
    """The live view: a strip and what moves beside it.

    stream: which one; pictures of another one are forgotten. numbers: names and values. tile_px: height of a tile.
    grid: rows and columns of the shares. pictures: frame, first byte and end in the body. answering: text so far, or None.
    """

    stream: str
    arriving: Arriving
    numbers: list[tuple[str, str]]
    now: Now | None
    grid: tuple[int, int]
    tiles: list[Tile]
    tile_px: int
    filmstrip_alt: str
    pictures: list[tuple[int, int, int]]
    answering: str | None


class ClickableHead(TypedDict):
    """A picture with spots (x0, y0, x1, y1 as shares of its size), each with its name.

    across: spots in a row, for the arrow keys. stamp: another number where the picture is another. still: nothing in it
    can be clicked.
    """

    spots: list[tuple[float, float, float, float]]
    names: list[str]
    alt: str
    hint: str
    across: int
    width: int
    stamp: int
    still: NotRequired[bool]


def packed(head: Mapping[str, Any], body: bytes) -> bytes:
    """A message: the header with its length before it, then the body."""
    text = json.dumps(head, separators=(",", ":")).encode()
    return struct.pack("<I", len(text)) + text + body

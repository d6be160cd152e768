"""Frames with what survives of them drawn over them: a patch that no layer holds any more turns dark and grey."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from hermes_lab.figures.arrays import Bytes, Shares
from hermes_lab.recording import TokenState

_GREY = np.array([0.299, 0.587, 0.114], np.float32)


def surviving_share(
    state: npt.NDArray[np.int8],
    frame: npt.NDArray[np.integer],
    row: npt.NDArray[np.integer],
    col: npt.NDArray[np.integer],
    frames: Sequence[int],
    grid: tuple[int, int],
    layer: int | None = None,
) -> Shares:
    """Share of the layers (or 0 / 1 in one layer) that hold each patch, [frame, row, col].

    Args:
        state: `TokenState` [layer, token]; `frame`, `row` and `col` say where each token belongs.
        frames: which frames.
        grid: rows and columns of tokens in a frame.
    """
    held = np.isin(state, (TokenState.KEPT, TokenState.PROTECTED))
    share = held[layer].astype(np.float32) if layer is not None else held.mean(0, dtype=np.float32)
    out = np.zeros((len(frames), *grid), np.float32)
    place = {f: n for n, f in enumerate(frames)}
    for token in np.flatnonzero(np.isin(frame, list(frames)) & (row >= 0) & (col >= 0)):
        out[place[int(frame[token])], row[token], col[token]] = share[token]
    return out


def overlay(picture: Bytes, share: Shares, *, height_px: int = 96) -> Bytes:
    """A frame in which patches fade to dark grey as fewer layers hold them, [height_px, width, 3]."""
    high, wide = picture.shape[:2]
    width_px = max(1, round(wide * height_px / high))
    image = Image.fromarray(np.ascontiguousarray(picture)).resize((width_px, height_px))
    colour = np.asarray(image, np.float32)
    rows, cols = share.shape
    y = (np.arange(height_px) * rows) // height_px
    x = (np.arange(width_px) * cols) // width_px
    held = share[y][:, x][..., None]
    faded = 0.28 * (colour @ _GREY)[..., None] + 18
    mixed = faded + np.sqrt(held) * (colour - faded)
    edge = np.zeros((height_px, width_px, 1), np.bool_)
    edge[np.flatnonzero(np.diff(y, prepend=y[0]))] = True
    edge[:, np.flatnonzero(np.diff(x, prepend=x[0]))] = True
    mixed = np.where(edge, 0.7 * mixed, mixed)
    return mixed.clip(0, 255).astype(np.uint8)


def filmstrip(
    pictures: Sequence[Bytes],
    shares: Shares,
    captions: Sequence[str],
    *,
    height_px: int = 84,
) -> tuple[Bytes, list[tuple[int, int]]]:
    """Frames side by side with captions under them, RGBA, and the first and last pixel column of each frame.

    What is between and under the frames is transparent, and captions are grey, so that it fits any page.
    """
    if not len(pictures):
        return np.zeros((height_px, 8, 4), np.uint8), []
    tiles = [overlay(p, s, height_px=height_px) for p, s in zip(pictures, shares, strict=True)]
    gap, foot = 4, 16
    width = sum(t.shape[1] + gap for t in tiles) - gap
    sheet = Image.new("RGBA", (width, height_px + foot), (0, 0, 0, 0))
    pen = ImageDraw.Draw(sheet)
    spans: list[tuple[int, int]] = []
    x = 0
    for tile, caption in zip(tiles, captions, strict=True):
        sheet.paste(Image.fromarray(tile), (x, 0))
        pen.text((x + 2, height_px + 2), caption, fill=(128, 128, 128, 255))
        spans.append((x, x + tile.shape[1]))
        x += tile.shape[1] + gap
    return np.asarray(sheet), spans


def heat(picture: Bytes, weight: Shares, *, height_px: int = 288) -> Bytes:
    """A frame under a heat map of its patches: full colour and a bright edge where the weight is largest."""
    top = float(weight.max(initial=0.0))
    share = weight / top if top > 0 else np.zeros_like(weight)
    return overlay(picture, share.astype(np.float32), height_px=height_px)


def choose_frames(frames_seen: int, count: int, newest: bool) -> list[int]:
    """Which frames a filmstrip of `count` shows: the newest ones, or even steps that end at the newest."""
    if frames_seen <= count:
        return list(range(frames_seen))
    if newest:
        return list(range(frames_seen - count, frames_seen))
    return np.unique(np.linspace(0, frames_seen - 1, count).round().astype(int)).tolist()

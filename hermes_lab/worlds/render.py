"""Pixels of a world: backgrounds with gradients and texture, silhouettes with a dark rim, the counter."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from hermes_lab.worlds.catalogue import (
    COLOURS,
    FIELD_PX,
    FRAME_PX,
    SCENES,
    SPRITE_PX,
    sprites,
)
from hermes_lab.worlds.schedule import CAMERA_REACH_PX, Schedule, Thing

_PAD_PX = 2 * CAMERA_REACH_PX
"""How much wider than the frame a background is, so that the camera can move over it."""
_VARIANTS = 8
_RIM = np.array([14, 12, 20], np.float32)
_PALETTE = np.array(list(COLOURS.values()), np.float32)
_GRADIENTS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "night": ((8, 8, 32), (34, 28, 78)),
    "forest": ((20, 62, 34), (10, 36, 18)),
    "sea": ((24, 120, 150), (6, 46, 88)),
    "desert": ((190, 150, 96), (136, 92, 44)),
    "snow": ((178, 196, 214), (138, 156, 182)),
    "city": ((92, 88, 98), (52, 50, 60)),
}
_GLYPHS = {
    0: "111101101101111",
    1: "010110010010111",
    2: "111001111100111",
    3: "111001111001111",
    4: "101101111001001",
    5: "111100111001111",
    6: "111100111101111",
    7: "111001010010010",
    8: "111101111101111",
    9: "111101111001111",
}


@cache
def _background(scene: int, variant: int) -> NDArray[np.uint8]:
    """One textured background, shape (FIELD_PX + pad, FRAME_PX + pad, 3)."""
    rng = np.random.default_rng((scene, variant))
    high, wide = FIELD_PX + _PAD_PX, FRAME_PX + _PAD_PX
    y, x = np.mgrid[:high, :wide].astype(np.float32)
    top, bottom = (np.array(c, np.float32) for c in _GRADIENTS[SCENES[scene]])
    lean = float(rng.uniform(-0.3, 0.3))
    level = np.clip((y + lean * (x - wide / 2)) / high, 0, 1)[..., None]
    image = top + (bottom - top) * level
    image += _smooth_noise(rng, high, wide)[..., None] * 10
    name = SCENES[scene]
    if name == "night":
        for sx, sy in zip(
            rng.integers(0, wide, 60), rng.integers(0, int(high * 0.8), 60), strict=True
        ):
            image[sy, sx] += rng.uniform(50, 130)
    elif name == "forest":
        for left in rng.integers(0, wide, 9):
            image[:, left : left + int(rng.integers(3, 7))] *= 0.72
    elif name == "sea":
        image += 9 * np.sin(y / 2.4 + 2.5 * np.sin(x / 11 + rng.uniform(0, 6)))[..., None]
    elif name == "desert":
        image += 12 * np.sin(x / 15 + y / 6 + 3 * np.sin(x / 31 + rng.uniform(0, 6)))[..., None]
    elif name == "snow":
        for sx, sy in zip(
            rng.integers(0, wide - 1, 90), rng.integers(0, high - 1, 90), strict=True
        ):
            image[sy : sy + 2, sx : sx + 2] += 34
    else:
        left = 0
        while left < wide:
            width, roof = int(rng.integers(12, 24)), int(rng.integers(high // 5, high // 2))
            image[roof:, left : left + width] *= 0.74
            windows = (y[roof:, left : left + width] % 7 < 3) & (
                x[roof:, left : left + width] % 6 < 2
            )
            image[roof:, left : left + width][windows] += 26
            left += width + 1
    return np.clip(image, 0, 255).astype(np.uint8)


def _smooth_noise(rng: np.random.Generator, high: int, wide: int) -> NDArray[np.float32]:
    """Bilinear noise with a grain of about 12 pixels, in [-1, 1]."""
    coarse = rng.uniform(-1, 1, (high // 12 + 2, wide // 12 + 2))
    gy, gx = np.arange(high) / 12, np.arange(wide) / 12
    iy, ix = gy.astype(int), gx.astype(int)
    fy, fx = (gy - iy)[:, None], (gx - ix)[None, :]
    top = coarse[iy][:, ix] * (1 - fx) + coarse[iy][:, ix + 1] * fx
    low = coarse[iy + 1][:, ix] * (1 - fx) + coarse[iy + 1][:, ix + 1] * fx
    return (top * (1 - fy) + low * fy).astype(np.float32)


@cache
def _stencil(kind: int, size_px: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coverage of the silhouette, and of the dark rim around it, each (size + 2, size + 2, 1) in 0..1."""
    fill = np.pad(sprites(size_px)[kind].astype(np.float32) / 255, 1)
    rim = fill.copy()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            rim = np.maximum(rim, np.roll(fill, (dy, dx), (0, 1)))
    return fill[..., None], (rim * 0.8).astype(np.float32)[..., None]


@cache
def _paint(kind: int, colour: int, size_px: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What to add, and what share of the background to keep, to draw one object."""
    fill, rim = _stencil(kind, size_px)
    add = fill * _PALETTE[colour] + (1 - fill) * rim * _RIM
    keep = (1 - fill) * (1 - rim)
    return add.astype(np.float32), keep.astype(np.float32)


@cache
def _strip(digit: int) -> NDArray[np.uint8]:
    """The counter's strip below the field, shape (FRAME_PX - FIELD_PX, FRAME_PX, 3)."""
    strip = np.full((FRAME_PX - FIELD_PX, FRAME_PX, 3), (22, 22, 26), np.uint8)
    strip[0] = (70, 70, 78)
    glyph = np.array([int(b) for b in _GLYPHS[digit]]).reshape(5, 3).repeat(2, 0).repeat(2, 1)
    strip[3:13, 5:11][glyph == 1] = (255, 244, 214)
    for i in range(10):
        lit = (255, 168, 20) if i < digit else (48, 46, 50)
        strip[6:11, 18 + i * 7 : 23 + i * 7] = lit
    return strip


def corner(schedule: Schedule, thing: Thing, t: int) -> tuple[int, int, int]:
    """Top-left corner of an object on screen (x, y) and its size, in pixels."""
    x, y = thing.at[t - thing.start]
    dx, dy, size = schedule.camera[t]
    if size != SPRITE_PX:  # zoom about the middle of the field
        ratio = size / SPRITE_PX
        x = (x + SPRITE_PX / 2 - FRAME_PX / 2) * ratio + FRAME_PX / 2 - size / 2
        y = (y + SPRITE_PX / 2 - FIELD_PX / 2) * ratio + FIELD_PX / 2 - size / 2
    return round(float(x - dx)), round(float(y - dy)), int(size)


def frame(schedule: Schedule, t: int) -> NDArray[np.uint8]:
    """Frame `t`, shape (FRAME_PX, FRAME_PX, 3)."""
    image = np.empty((FRAME_PX, FRAME_PX, 3), np.uint8)
    _, scene, variant = next(s for s in reversed(schedule.scenes) if s[0] <= t)
    dx, dy, _ = schedule.camera[t]
    x0, y0 = CAMERA_REACH_PX + dx, CAMERA_REACH_PX + dy
    image[:FIELD_PX] = _background(scene, variant % _VARIANTS)[
        y0 : y0 + FIELD_PX, x0 : x0 + FRAME_PX
    ]
    field = image[:FIELD_PX]
    for thing in sorted(schedule.visible(t), key=lambda o: o.depth):
        _draw(field, schedule, thing, t)
    image[FIELD_PX:] = _strip(schedule.counter_at(t))
    return image


def _draw(field: NDArray[np.uint8], schedule: Schedule, thing: Thing, t: int) -> None:
    x, y, size = corner(schedule, thing, t)
    add, keep = _paint(thing.kind, thing.colour_at(t), size)
    x, y = x - 1, y - 1  # the stencil has one pixel of rim around it
    left, top = max(0, -x), max(0, -y)
    right, low = min(size + 2, FRAME_PX - x), min(size + 2, FIELD_PX - y)
    if right <= left or low <= top:
        return
    patch = field[y + top : y + low, x + left : x + right]
    patch[:] = patch * keep[top:low, left:right] + add[top:low, left:right]


def hidden_share(schedule: Schedule, thing: Thing, t: int) -> float:
    """Share of an object's silhouette that nearer objects or the frame's edge cover in frame `t`."""
    x, y, size = corner(schedule, thing, t)
    fill = sprites(size)[thing.kind] > 127
    seen = np.zeros_like(fill)
    left, top = max(0, -x), max(0, -y)
    right, low = min(size, FRAME_PX - x), min(size, FIELD_PX - y)
    seen[top:low, left:right] = fill[top:low, left:right]
    for other in schedule.visible(t):
        if other is thing or other.depth <= thing.depth:
            continue
        ox, oy, other_size = corner(schedule, other, t)
        cover = sprites(other_size)[other.kind] > 127
        ax, ay = max(x, ox), max(y, oy)
        bx, by = min(x + size, ox + other_size), min(y + size, oy + other_size)
        if ax < bx and ay < by:
            seen[ay - y : by - y, ax - x : bx - x] &= ~cover[ay - oy : by - oy, ax - ox : bx - ox]
    return 1 - float(seen.sum()) / float(fill.sum())

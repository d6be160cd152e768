"""What a world is made of: its kinds, colours, scenes, and the silhouettes they are drawn with."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "ring", "cross", "diamond")
ICONS: dict[str, str] = {
    "airplane": "airplane",
    "anchor": "anchor",
    "bell": "bell",
    "bicycle": "bicycle",
    "bird": "bird",
    "book": "book-open",
    "cactus": "cactus",
    "cake": "cake",
    "car": "car",
    "cat": "cat",
    "chair": "chair",
    "cloud": "cloud",
    "crown": "crown-simple",
    "fish": "fish",
    "flower": "flower",
    "guitar": "guitar",
    "heart": "heart",
    "house": "house",
    "key": "key",
    "moon": "moon",
    "rocket": "rocket",
    "scissors": "scissors",
    "star": "star",
    "train": "train",
    "tree": "tree",
    "umbrella": "umbrella",
}
"""Everyday things, and the Phosphor glyph each is drawn with."""

KINDS: tuple[str, ...] = (*SHAPES, *ICONS)

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (226, 44, 44),
    "orange": (252, 140, 24),
    "yellow": (250, 228, 60),
    "green": (56, 196, 80),
    "blue": (56, 104, 248),
    "purple": (160, 56, 214),
    "pink": (255, 150, 204),
    "white": (248, 248, 248),
}
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
SCENES: tuple[str, ...] = ("night", "forest", "sea", "desert", "snow", "city")

FRAME_PX = 96
"""Side of a square frame."""
FIELD_PX = 80
"""Rows that objects live in; the rows below carry the counter."""
SPRITE_SIZES_PX: tuple[int, ...] = (22, 24, 26, 28, 30, 32)
SPRITE_PX = 26
"""Size of an object when the camera does not zoom."""
LARGE_SPRITE_PX = 96
SHEET = Path(__file__).parent / "icons" / "sprites.npz"


@cache
def sprites(size_px: int) -> NDArray[np.uint8]:
    """Silhouettes of all kinds at one size: coverage 0..255, shape (kind, size, size), read-only."""
    with np.load(SHEET) as sheet:
        found = sheet[f"s{size_px}"]
    found.flags.writeable = False  # all worlds draw from this one array
    return found

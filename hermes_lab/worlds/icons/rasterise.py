"""Development tool: turn Phosphor's fill icons and six plain shapes into `sprites.npz`.

Run `npm pack @phosphor-icons/core`, unpack it, and pass the folder `package/assets/fill`.
Needs cairosvg and Pillow, which the package itself does not.
"""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hermes_lab.errors import LabError
from hermes_lab.worlds.catalogue import (
    ICONS,
    KINDS,
    LARGE_SPRITE_PX,
    SHAPES,
    SHEET,
    SPRITE_SIZES_PX,
)

_SHAPE_SVG = {
    "circle": '<circle cx="128" cy="128" r="112"/>',
    "square": '<rect x="28" y="28" width="200" height="200"/>',
    "triangle": '<path d="M128 16 L246 236 L10 236 Z"/>',
    "ring": '<path fill-rule="evenodd" d="M128 12a116 116 0 1 0 .1 0Z M128 72a56 56 0 1 1 -.1 0Z"/>',
    "cross": '<path d="M92 12h72v80h80v72h-80v80h-72v-80h-80v-72h80Z"/>',
    "diamond": '<path d="M128 8 L228 128 L128 248 L28 128 Z"/>',
}


def _svg(kind: str, fill_folder: Path) -> str:
    if kind in SHAPES:
        body = _SHAPE_SVG[kind]
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 256 256">{body}</svg>'
    # The glyphs leave a wide margin; a tighter view box lets them fill the sprite.
    text = (fill_folder / f"{ICONS[kind]}-fill.svg").read_text()
    return text.replace('viewBox="0 0 256 256"', 'viewBox="14 14 228 228"')


def rasterise(kind: str, size_px: int, fill_folder: Path) -> NDArray[np.uint8]:
    """Coverage 0..255 of one kind, shape (size, size)."""
    from PIL import Image

    try:
        # By name, since the package does not require it and type checking must not either.
        cairosvg = importlib.import_module("cairosvg")
    except ImportError as error:
        raise LabError(
            "Drawing the sprites needs cairosvg: run `pip install cairosvg`, then start again."
        ) from error
    png = cairosvg.svg2png(
        bytestring=_svg(kind, fill_folder).encode(), output_width=size_px, output_height=size_px
    )
    assert isinstance(png, bytes)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))[..., 3]


def main(fill_folder: Path) -> None:
    """Write the sheet of every kind at every size."""
    sizes = (*SPRITE_SIZES_PX, LARGE_SPRITE_PX)
    sheet = {f"s{s}": np.stack([rasterise(k, s, fill_folder) for k in KINDS]) for s in sizes}
    np.savez_compressed(SHEET, **sheet)  # pyright: ignore[reportArgumentType]  # numpy's **kwds stub


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The default model: small, trained here from scratch on the procedural world, shipped with the package.

It knows nothing but that world: real footage is out of its domain. The weights enter, and what a listing says of them;
how they were trained is in `training/`.
"""

from __future__ import annotations

from hermes_lab.pocket.shipped import (
    TRAINED_FRAMES,
    WEIGHTS,
    card,
    cautions,
    describe,
    names,
    shipped_path,
    trained_frames,
)

__all__ = [
    "TRAINED_FRAMES",
    "WEIGHTS",
    "card",
    "cautions",
    "describe",
    "names",
    "shipped_path",
    "trained_frames",
]

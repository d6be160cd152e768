"""A procedural world as a frame source."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Protocol, cast

from hermes_lab.errors import VideoError
from hermes_lab.video.arrays import SpacedSource, as_rgb
from hermes_lab.video.levels import Levels
from hermes_lab.video.picture import Picture
from hermes_lab.video.source import ReadOptions

_DEFAULT_SEED = 0
_DEFAULT_FRAMES = 64

Setting = int | float | str


class _World(Protocol):
    def frame(self, t: int) -> Picture: ...


class WorldSource(SpacedSource):
    """The frames of `hermes_lab.worlds` for one seed, drawn as they are read, `1 / fps` s apart."""

    def __init__(self, spec: str, options: ReadOptions) -> None:
        settings = parse_world(spec)
        self._count = int(settings["frames"])
        self._world = _generate(spec, settings)
        super().__init__(options, name=spec, kind="world", available_frames=self._count)

    def _numbered_from(self, first: int) -> Iterator[Picture]:
        for t in range(first, self._count):
            yield as_rgb(self._world.frame(t), f"frame {t} of {self.name}", Levels())


_KINDS: dict[str, type[int] | type[float] | type[str]] = {
    "seed": int,
    "frames": int,
    "camera": str,
    "density": float,
}


def parse_world(spec: str) -> dict[str, Setting]:
    """Read `world:seed=7,frames=120,camera=pan,density=1.5`; seed and frames have defaults (0, 64).

    Raises:
        VideoError: an entry is not `name=value`, the name is unknown, or a number is no number.
    """
    settings: dict[str, Setting] = {"seed": _DEFAULT_SEED, "frames": _DEFAULT_FRAMES}
    for entry in filter(None, spec.removeprefix("world:").split(",")):
        name, _, value = (part.strip() for part in entry.partition("="))
        kind = _KINDS.get(name)
        if kind is None or not value:
            raise VideoError(
                f"{entry!r} in {spec!r} is not understood: write world:seed=7,frames=120 "
                "(and camera=NAME or density=NUMBER if wanted)."
            )
        try:
            settings[name] = kind(value)
        except ValueError as error:
            wanted = "a whole number" if kind is int else "a number"
            raise VideoError(f"{name} in {spec!r} is {value!r}: give {wanted}.") from error
    return settings


def _generate(spec: str, settings: dict[str, Setting]) -> _World:
    try:
        worlds = importlib.import_module("hermes_lab.worlds")
    except ImportError as error:
        raise VideoError(
            f"{spec!r} cannot be shown: this installation has no procedural worlds ({error})."
        ) from error
    return cast("_World", worlds.World.generate(**settings))

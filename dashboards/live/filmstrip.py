"""The filmstrip: some frames of a stream with what survives of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dashboards.live.moment import Moment
from dashboards.live.pictures import HIGH_PX, Picture
from hermes_lab import figures

FILMSTRIP_FRAMES = 10
HEIGHT_PX = HIGH_PX // 2


@dataclass(frozen=True)
class Filmstrip:
    """Frames with what survives of them.

    Attributes:
        shares: of the layers that hold each patch, or 0 / 1 in one layer, [frame, row, col].
        pictures: of the frames, RGB.
    """

    frames: list[int]
    times_s: list[float]
    shares: npt.NDArray[np.float32]
    pictures: list[Picture]

    @property
    def alt(self) -> str:
        return (
            f"{len(self.frames)} frames of the stream; patches that are forgotten are dark and grey"
        )

    @property
    def captions(self) -> list[str]:
        return [f"{t:.0f} s {s.mean():.0%}" for t, s in zip(self.times_s, self.shares, strict=True)]

    @property
    def names(self) -> list[str]:
        """What each frame is, in words."""
        return [
            f"frame {f} at {t:.1f} s: {s.mean():.1%} of it is held; look into it"
            for f, t, s in zip(self.frames, self.times_s, self.shares, strict=True)
        ]

    @cached_property
    def picture(self) -> npt.NDArray[np.uint8]:
        """The frames side by side, as a file holds them."""
        return figures.filmstrip(self.pictures, self.shares, self.captions, height_px=HEIGHT_PX)[0]

    def rows(self) -> tuple[tuple[str, ...], list[tuple[float, ...]]]:
        """The numbers behind the picture."""
        lines = [
            (self.frames[n], self.times_s[n], row, col, float(self.shares[n, row, col]))
            for n, row, col in np.ndindex(*self.shares.shape)
        ]
        return ("frame", "time_s", "row", "col", "share_held"), lines


def filmstrip_of(moment: Moment, layer: int | None, newest: bool) -> Filmstrip | None:
    """The filmstrip of a moment; None where no frame has a picture."""
    frames = figures.choose_frames(moment.snapshot.frames_seen, FILMSTRIP_FRAMES, newest)
    pictures = {f: p for f in frames if (p := moment.picture(f)) is not None}
    if not pictures:
        return None
    frames = list(pictures)
    shares = figures.surviving_share(
        moment.state, moment.column("frame"), moment.column("row"), moment.column("col"), frames, moment.grid, layer
    )  # fmt: skip
    return Filmstrip(frames, _times(moment, frames), shares, list(pictures.values()))


def _times(moment: Moment, frames: list[int]) -> list[float]:
    frame, time_s = moment.column("frame"), moment.column("time_s")
    return [float(time_s[np.searchsorted(frame, f)]) if f in frame else float(f) for f in frames]

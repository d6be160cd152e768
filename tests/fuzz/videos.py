"""Videos and pictures."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction
from pathlib import Path

import numpy as np

from hermes_lab import video
from hermes_lab.video import Limits
from tests.clips import numbered, write_clip
from tests.fuzz.cases import Case, Fault, Target, lay
from tests.fuzz.mutators import damaged

_FRAMES = 30
_SUFFIXES = ("mp4", "mkv", "avi", "mov", "ts", "gif", "webm", "png")


class Videos(Target):
    """A file with a video's or picture's name, as given on the command line or uploaded."""

    name = "video"

    def prepare(self, folder: Path) -> None:
        from PIL import Image

        self.sound: dict[str, bytes] = {}
        codecs = {
            "mp4": "libx264",
            "mkv": "libx264",
            "avi": "mpeg4",
            "mov": "libx264",
            "ts": "mpeg2video",
        }
        for suffix, codec in codecs.items():
            path = folder / f"clip.{suffix}"
            write_clip(path, range(_FRAMES), Fraction(1, 25), codec=codec)
            self.sound[suffix] = path.read_bytes()
        pictures = [Image.fromarray(numbered(n)) for n in range(4)]
        pictures[0].save(folder / "a.gif", save_all=True, append_images=pictures[1:])
        pictures[0].save(folder / "a.png")
        for suffix in ("gif", "png"):
            self.sound[suffix] = (folder / f"a.{suffix}").read_bytes()

    def draw(self, rng: random.Random) -> Case:
        suffix = rng.choice(sorted(self.sound))
        named = suffix if rng.random() < 0.9 else rng.choice(_SUFFIXES)
        return {f"clip.{named}": damaged(self.sound[suffix], rng)}

    def run(self, case: Case, folder: Path) -> None:
        lay(case, folder)
        (path,) = folder.iterdir()
        given = folder if path.suffix == ".png" else path  # pictures come as a folder
        with video.open(given, fps=5, limits=Limits(max_bytes=2**24, max_pixels=2**22)) as source:
            last = -math.inf
            for frame in itertools.islice(source, 3 * _FRAMES):
                if frame.image.dtype != np.uint8 or frame.image.ndim != 3:
                    raise Fault(f"a frame of {frame.image.dtype} {frame.image.shape}")
                if not (math.isfinite(frame.time_s) and frame.time_s >= last):
                    raise Fault(f"a frame at {frame.time_s} s after one at {last} s")
                last = frame.time_s

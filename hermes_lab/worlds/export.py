"""A world on disk: a video that any player shows, and its events and questions beside it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from hermes_lab.errors import LabError
from hermes_lab.files import try_folder, write_text
from hermes_lab.video.write import write
from hermes_lab.worlds.questions import Question
from hermes_lab.worlds.schedule import Camera
from hermes_lab.worlds.world import World

VIDEO, TRUTH = "world.mp4", "world.json"
SCALE = 4
"""How many times larger than the model's frames the video is."""
_QUESTION_EVERY_FRAMES = 4
_PER_TIME = 3


class Exported(NamedTuple):
    """Where the two files of a world are."""

    video: Path
    questions: Path


def questions_along(world: World, every_frames: int = _QUESTION_EVERY_FRAMES) -> list[Question]:
    """A few questions at regular times of a stream, never the same one twice in a row."""
    times = range(every_frames - 1, world.frames, every_frames)
    found = world.questions(world.seed, list(times), _PER_TIME)
    return list(dict.fromkeys(found))


def enlarged(world: World, scale: int = SCALE) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Frames of a world, each pixel a square of `scale` pixels."""
    for t in range(world.frames):
        yield world.frame(t).repeat(scale, 0).repeat(scale, 1)


def export(
    seed: int,
    minutes: float,
    out_dir: str | os.PathLike[str],
    fps: float = 1.0,
    camera: Camera = "still",
    density: float = 1.0,
    crf: int = 18,
) -> Exported:
    """Write `world.mp4` and `world.json`; sampling the video at `fps` gives exactly the world's frames.

    Each file is written whole and renamed into place.

    Raises:
        LabError: minutes or fps that give no frame, or a folder that cannot be written.
    """
    length = minutes * 60 * fps
    if not math.isfinite(length):
        raise LabError(f"{minutes} minutes at {fps} frames per second is no length: give numbers.")
    frames = round(length)
    if not fps > 0 or frames < 1:
        raise LabError(
            f"{minutes} minutes at {fps} frames per second hold no frame: ask for a longer world."
        )
    folder = Path(out_dir)
    try_folder(folder)
    world = World.generate(seed, frames, camera, density)
    video = write(folder / VIDEO, enlarged(world), fps, crf=crf)
    write_text(folder / TRUTH, world.to_json(questions_along(world)) + "\n")
    return Exported(video, folder / TRUTH)

"""Training checkpoints: one safetensors file, written whole and renamed into place."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hermes_lab.errors import LabError

FILE = "checkpoint.safetensors"


@dataclass
class Clock:
    """Where a training run stands; seconds are CPU time of the first process, so that a busy machine
    slows a run without cutting it short.

    `training` says which run it is ("" where that was not written down).
    """

    phase: str = "perception"
    perception_s: float = 0.0
    decoder_s: float = 0.0
    step: int = 0
    drawn: int = 0
    streams: int = 0
    questions: int = 0
    accuracy: dict[str, float] = field(default_factory=dict[str, float])
    training: str = ""


def save(folder: Path, clock: Clock, tensors: dict[str, dict[str, Tensor]]) -> None:
    """Write groups of named tensors and the clock; an older checkpoint stays until the new one is whole."""
    flat = {
        f"{group}/{name}": value.detach().contiguous().clone()
        for group, members in tensors.items()
        for name, value in members.items()
    }
    part = folder / (FILE + ".part")
    save_file(flat, part, {"clock": json.dumps(asdict(clock))})
    with part.open("rb") as handle:
        os.fsync(handle.fileno())
    part.replace(folder / FILE)


def belongs(folder: Path, training: str) -> None:
    """Check that a run may go on from what a folder holds.

    Raises:
        LabError: the checkpoint is of another training, whose weights would pass for this one's.
    """
    path = folder / FILE
    if path.exists():
        with safe_open(path, "pt") as file:
            held = Clock(**json.loads(file.metadata()["clock"])).training
        if held and held != training:
            raise LabError(
                f"{folder} holds a training of {held}, not of {training}: give another folder with --out, or start "
                "over with --no-resume."
            )


def load(folder: Path) -> tuple[Clock, dict[str, dict[str, Tensor]]] | None:
    """The last whole checkpoint of a folder, or None."""
    path = folder / FILE
    if not path.exists():
        return None
    groups: dict[str, dict[str, Tensor]] = {}
    with safe_open(path, "pt") as file:
        clock = Clock(**json.loads(file.metadata()["clock"]))
        for key in file.keys():  # noqa: SIM118  # not a mapping
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = file.get_tensor(key)
    return clock, groups

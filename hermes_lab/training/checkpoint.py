"""Training checkpoints: one safetensors file, written whole and renamed into place."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hermes_lab.errors import LabError
from hermes_lab.files import check_file, replacing

FILE = "checkpoint.safetensors"
_LARGEST = 2**40


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
    with replacing(folder / FILE) as temporary:
        save_file(flat, temporary, {"clock": json.dumps(asdict(clock))})


def belongs(folder: Path, training: str) -> None:
    """Check that a run may go on from what a folder holds.

    Raises:
        LabError: the checkpoint is of another training, whose weights would pass for this one's, or damaged.
    """
    path = folder / FILE
    if path.exists():
        with _opened(path) as file:
            held = _clock(file).training
        if held and held != training:
            raise LabError(
                f"{folder} holds a training of {held}, not of {training}: give another folder with --out, or start "
                "over with --no-resume."
            )


def load(folder: Path) -> tuple[Clock, dict[str, dict[str, Tensor]]] | None:
    """The last whole checkpoint of a folder, or None.

    Raises:
        LabError: it is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    groups: dict[str, dict[str, Tensor]] = {}
    with _opened(path) as file:
        clock = _clock(file)
        for key in file.keys():  # noqa: SIM118  # not a mapping
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = file.get_tensor(key)
    return clock, groups


@contextmanager
def _opened(path: Path) -> Generator[Any]:
    """A checkpoint file, open for reading; damage is a sentence."""
    check_file(path, at_most=_LARGEST)
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise LabError(
            f"{path} is damaged ({error}): start over with --no-resume, or give another folder with --out."
        ) from error


def _clock(file: Any) -> Clock:
    return Clock(**json.loads(file.metadata()["clock"]))

"""Open a recording folder: its manifest and the headers of its parts, and what to make of parts that are not there.

Step parts are differences from the step before. Behind a gap they say nothing until one comes that carries a
checkpoint, the whole state before its step; from there on everything can be read again. Answers stand alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hermes_lab.errors import RecordingError
from hermes_lab.files import read_text
from hermes_lab.recording.format import MANIFEST, PARTS, Manifest, PartKind, parse_part_name
from hermes_lab.recording.owner import in_use
from hermes_lab.recording.parts import DamagedPartError, Part

MOST_MANIFEST_BYTES = 2**24
RecordingStatus = Literal["open", "interrupted", "finished", "aborted"]


@dataclass
class Opened:
    """The parts that can be read.

    Attributes:
        restarts: indices of steps whose state before them must be taken from their own checkpoint.
        passed: step parts that say nothing without one that is gone, but for their rows of the token table.
        damage: sentences on parts that are damaged or not there.
        problems: those, and sentences on what they cost.
        notes: sentences on steps that were never recorded.
    """

    folder: Path
    steps: list[Part] = field(default_factory=list[Part])
    answers: list[Part] = field(default_factory=list[Part])
    passed: list[Part] = field(default_factory=list[Part])
    restarts: set[int] = field(default_factory=set[int])
    damage: list[str] = field(default_factory=list[str])
    problems: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    _newest: int = -1  # `Snapshot.step` of the newest step that can be read
    _missing: bool = False  # a part is missing since then, and nobody knows of which kind
    _broken: bool = False  # a step is missing since then
    _passed: int = 0  # step parts since then that cannot be read without it

    def take(self, part: Part, kind: PartKind) -> None:
        """The next part.

        Raises:
            DamagedPartError: it does not belong here.
        """
        if kind == "answer":
            self.answers.append(part)
            return
        number, layers = int(part.record["step"]), len(part.record["state"]["heads"])
        if number <= self._newest:
            raise DamagedPartError(f"step {number} stands behind step {self._newest}")
        if self.steps and layers != (known := len(self.steps[0].record["state"]["heads"])):
            raise DamagedPartError(f"it has {layers} layers, the recording {known}")
        skipped = number > self._newest + 1
        self._broken |= self._missing and skipped
        # what all else is built on must be beyond doubt
        sound = not self._broken or part.sound()
        if self._broken and not (sound and "before" in part.record):
            self.passed += [part] * sound
            self._passed += 1
            return
        if skipped:
            self._tell_gap(number)
        if self._broken or (skipped and "before" in part.record):
            self.restarts.add(len(self.steps))
        self.steps.append(part)
        self._newest, self._missing, self._broken, self._passed = number, False, False, 0

    def lose(self, sentence: str, kind: PartKind | None) -> None:
        """A part that is damaged, or (of kind None) not there."""
        self.damage.append(sentence)
        self.problems.append(sentence)
        self._missing |= kind is None
        self._broken |= kind == "step"

    def end(self) -> None:
        """No more parts."""
        if self._passed:
            self.problems.append(
                f"The steps from {self._newest + 1} on cannot be read: none of the {self._passed} parts behind "
                "the gap says anew what the layers held."
            )

    def _tell_gap(self, number: int) -> None:
        """Steps that are not there before the one with this number."""
        first, last = self._newest + 1, number - 1
        which = f"Step {first}" if first == last else f"Steps {first} to {last}"
        if self._broken:
            self.problems.append(
                f"{which} of the recording {str(self.folder)!r} cannot be read; step {number} says anew what the "
                "layers held, and tokens whose parts are gone are known by their ids only."
            )
        else:
            self.notes.append(
                f"{which} of the recording {str(self.folder)!r} could not be recorded; what changed meanwhile is "
                f"in step {number}."
            )


def open_parts(folder: Path, *, salvage: bool) -> Opened:
    """Read the headers of all parts; temporary files are left out.

    Args:
        salvage: go on behind damage instead of refusing it; a last part that was cut short is always left out.

    Raises:
        RecordingError: a part before the last one is damaged or missing.
    """
    opened = Opened(folder)
    events = event_parts(folder)
    expected = 0
    for number, kind, path in events:
        if number > expected:
            opened.lose(_missing(folder, expected, number - 1), None)
        expected = max(expected, number + 1)
        try:
            opened.take(Part.open(path), kind)
        except DamagedPartError as damage:
            what = f"part {path.name} of the recording {str(folder)!r} is damaged ({damage})"
            if path is events[-1][2] and not opened.damage:
                steps = len(opened.steps)
                opened.problems.append(f"The last {what}: the {steps} steps before it can be read.")
                return opened
            opened.lose(f"P{what[1:]}.", kind)
    opened.end()
    if opened.damage and not salvage:
        raise RecordingError(
            f"{opened.damage[0]} {len(opened.steps)} steps and {len(opened.answers)} answers can be read with "
            "Recording.open(..., salvage=True)."
        )
    return opened


def _missing(folder: Path, first: int, last: int) -> str:
    which = f"Part {first:06d}" if first == last else f"Parts {first:06d} to {last:06d}"
    verb = "is" if first == last else "are"
    return f"{which} of the recording {str(folder)!r} {verb} missing."


def status_of(folder: Path, manifest: Manifest) -> RecordingStatus:
    """What the manifest says; "interrupted" where it says "open" and its process is gone."""
    if manifest.status == "open" and in_use(folder, manifest.owner) is False:
        return "interrupted"
    return manifest.status


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a recording folder.

    Raises:
        RecordingError: not a recording, written by a newer version, or damaged.
    """
    if not folder.is_dir():
        raise RecordingError(f"There is no recording folder {str(folder)!r}; check the path.")
    path = folder / MANIFEST
    if not os.path.lexists(path):
        raise RecordingError(f"{str(folder)!r} is not a recording: it has no {MANIFEST}.")
    text = read_text(path, at_most=MOST_MANIFEST_BYTES, links=False, error=RecordingError)
    return Manifest.from_json(text, folder)


def event_parts(folder: Path) -> list[tuple[int, PartKind, Path]]:
    """Number, kind and path of the step and answer parts, in order.

    Raises:
        RecordingError: the folder cannot be read.
    """
    parts = folder / PARTS
    if parts.is_symlink():
        raise RecordingError(
            f"{parts} is a link, which is not followed here; put the folder itself there."
        )
    try:
        named = [(parse_part_name(path.name), path) for path in parts.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RecordingError(
            f"The parts of {str(folder)!r} cannot be read ({error.strerror or error})."
        ) from error
    return sorted((*name, path) for name, path in named if name and name[1] != "frames")

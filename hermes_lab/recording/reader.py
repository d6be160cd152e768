"""Read a recording: lazily, whether it was finished, is still being written, or its process was killed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar, overload

import numpy as np

from hermes_lab.errors import LabError, RecordingError
from hermes_lab.recording.answers import decode_answer
from hermes_lab.recording.decisions import decode_decisions
from hermes_lab.recording.format import (
    MANIFEST,
    PARTS,
    Manifest,
    PartKind,
    parse_part_name,
    part_name,
)
from hermes_lab.recording.life import TokenLife, life
from hermes_lab.recording.parts import DamagedPartError, Part
from hermes_lab.recording.retention import (
    DecisionLog,
    LayerChronicle,
    Retention,
    chronicle,
    decision_logs,
    retention,
)
from hermes_lab.recording.state import CacheState, StepDiff, decode_checkpoint, follow
from hermes_lab.recording.steps import decode_step
from hermes_lab.recording.summary import RecordingSummary, summarise
from hermes_lab.recording.thumbnails import Picture, decode_thumbnail
from hermes_lab.recording.timeline import Timeline
from hermes_lab.snapshot import Answer, LayerDecision, Snapshot
from hermes_lab.tokens import COLUMNS, TokenTable

T = TypeVar("T")
_STATES_KEPT = 16
_DAMAGE = (DamagedPartError, ValueError, IndexError, KeyError, TypeError)


class Steps(Sequence[Snapshot]):
    """The snapshots of a recording, each read when it is asked for; equal to those that were written."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    def __repr__(self) -> str:
        return f"Steps({len(self)} of {str(self._recording.folder)!r})"

    def __len__(self) -> int:
        return len(self._recording.step_parts)

    @overload
    def __getitem__(self, index: int) -> Snapshot: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Snapshot]: ...
    def __getitem__(self, index: int | slice) -> Snapshot | Sequence[Snapshot]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"step {index} of a recording of {len(self)} steps")
        return self._recording.snapshot(position)


@dataclass(frozen=True, repr=False)
class Recording:
    """One recording folder, open for reading.

    Attributes:
        folder, manifest: where it is and what it is of.
        step_parts, answer_parts: parts in the order of what happened.
        problems: sentences on what was left out (a last part cut short, damage that was salvaged around).
    """

    folder: Path
    manifest: Manifest
    step_parts: tuple[Part, ...]
    answer_parts: tuple[Part, ...]
    problems: tuple[str, ...] = ()
    _states: OrderedDict[int, CacheState] = field(
        default_factory=lambda: OrderedDict[int, CacheState](), repr=False, compare=False
    )
    _chronicles: dict[int, LayerChronicle] = field(
        default_factory=lambda: dict[int, LayerChronicle](), repr=False, compare=False
    )

    @classmethod
    def open(cls, folder: str | Path, *, salvage: bool = False) -> Recording:
        """Open a recording; temporary files and a last part that was cut short are left out.

        Args:
            salvage: with damage before the last part, open what came before the damage instead of refusing.

        Raises:
            RecordingError: not a recording, written by a newer version, or damaged.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        steps: list[Part] = []
        answers: list[Part] = []
        problems: tuple[str, ...] = ()
        events = event_parts(folder)
        for expected, (number, kind, path) in enumerate(events):
            try:
                if number != expected:
                    raise DamagedPartError(f"part {expected:06d} before it is missing")
                (steps if kind == "step" else answers).append(Part.open(path))
            except DamagedPartError as damage:
                is_last = expected == len(events) - 1
                left = "The last part" if is_last else "Part"
                sentence = (
                    f"{left} {path.name} of the recording {str(folder)!r} is damaged ({damage}): "
                    f"the {len(steps)} steps before it can be read"
                )
                if not is_last and not salvage:
                    raise RecordingError(
                        f"{sentence} with Recording.open(..., salvage=True), "
                        f"the {len(events) - expected} parts from there on cannot."
                    ) from damage
                problems = (f"{sentence}, what came after them is left out.",)
                break
        return cls(folder, manifest, tuple(steps), tuple(answers), problems)

    def __repr__(self) -> str:
        policy = self.manifest.policy.get("policy", "?")
        left_out = f", {len(self.problems)} problems" if self.problems else ""
        return (
            f"Recording({str(self.folder)!r}, {self.manifest.status}, {self.manifest.model.name} under "
            f"{policy}, {len(self.step_parts)} steps, {len(self.answer_parts)} answers{left_out})"
        )

    @property
    def steps(self) -> Steps:
        """The snapshots."""
        return Steps(self)

    @cached_property
    def answers(self) -> list[Answer]:
        """The answered questions, in order."""
        return [self.read(part, decode_answer) for part in self.answer_parts]

    @cached_property
    def tokens(self) -> TokenTable:
        """What every token of the stream is."""
        parts = [p for p in (*self.step_parts, *self.answer_parts) if "tokens_from" in p.record]
        parts.sort(key=lambda part: part.record["tokens_from"])
        names = [f"tokens.{column}" for column in COLUMNS]
        rows = [self.read(part, lambda p: p.read(*names)) for part in parts]
        columns = {
            column: np.concatenate([np.empty(0, dtype), *(row[i] for row in rows)], dtype=dtype)
            for i, (column, dtype) in enumerate(COLUMNS.items())
        }
        return TokenTable.from_arrays(columns)

    @cached_property
    def timeline(self) -> Timeline:
        """Numbers of every step side by side."""
        return Timeline.read(self.step_parts)

    def thumbnail(self, frame: int) -> Picture:
        """The small picture of a frame, uint8 [height, width, 3].

        Raises:
            RecordingError: the frame was not recorded, or without pictures.
        """
        step = self._step_of_frame.get(frame)
        if step is None:
            raise RecordingError(f"Frame {frame} is not in the recording {str(self.folder)!r}.")
        number, _ = parse_part_name(step.path.name) or (0, "step")
        path = step.path.with_name(part_name(number, "frames"))
        if not step.record["thumbnails"] or not path.exists():
            raise RecordingError(
                f"The recording {str(self.folder)!r} has no picture of frame {frame}; "
                "show it beside its video instead."
            )
        try:
            return decode_thumbnail(Part.open(path), frame)
        except (DamagedPartError, OSError, ValueError, IndexError) as error:
            raise RecordingError(
                f"Part {path.name} of the recording {str(self.folder)!r} is damaged ({error}); "
                "it holds pictures only, all steps remain readable."
            ) from error

    def snapshot(self, index: int) -> Snapshot:
        """The snapshot of the step with this 0-based index."""
        before = self.state(index - 1)
        diff = self.diff(index)
        after = self.blame(lambda: follow(before, [diff]))
        self._remember(index, after)
        return self.read(
            self.step_parts[index], lambda part: decode_step(part, diff, before, after)
        )

    def diff(self, index: int) -> StepDiff:
        """What changed in one step."""
        return self.read(
            self.step_parts[index], lambda part: StepDiff.read(part.record["state"], part)
        )

    def state(self, index: int) -> CacheState:
        """What the layers held after a step, from the nearest checkpoint; empty before the first step."""
        if index < 0:
            return CacheState()
        known = max((i for i in self._states if i <= index), default=-1)
        base, first = self._states.get(known, CacheState()), known + 1
        for start in range(index, known + 1, -1):
            if "before" in self.step_parts[start].record:
                base, first = self.read(self.step_parts[start], decode_checkpoint), start
                break
        diffs = [self.diff(i) for i in range(first, index + 1)]
        state = self.blame(lambda: follow(base, diffs))
        self._remember(index, state)
        return state

    def decisions(self, index: int, layers: frozenset[int]) -> tuple[LayerDecision, ...]:
        """The decisions of some layers in the step with this 0-based index."""
        part = self.step_parts[index]
        before, new_ids = self.state(index - 1), self.diff(index).new_ids
        return self.read(
            part, lambda p: decode_decisions(p.record["decisions"], p, before, new_ids, layers)
        )

    def chronicle(self, layer: int) -> LayerChronicle:
        """Who came and left one layer, and when.

        Raises:
            RecordingError: there is no such layer.
        """
        if not 0 <= layer < self.layers:
            raise RecordingError(
                f"There is no layer {layer} in the recording {str(self.folder)!r}; "
                f"layers run from 0 to {self.layers - 1}."
            )
        if layer not in self._chronicles:
            self._chronicles[layer] = self.blame(lambda: chronicle(self, layer))
        return self._chronicles[layer]

    @cached_property
    def layers(self) -> int:
        """Decoder layers that were recorded."""
        return len(self.step_parts[0].record["state"]["heads"]) if self.step_parts else 0

    @cached_property
    def diffs(self) -> tuple[StepDiff, ...]:
        """What changed, step by step; read once."""
        return tuple(self.diff(index) for index in range(len(self.step_parts)))

    @cached_property
    def decision_logs(self) -> tuple[DecisionLog, ...]:
        """Merges and protected tokens of every layer; read once."""
        return self.blame(lambda: decision_logs(self))

    def retention(self, layer: int | None = None) -> Retention:
        """When every video token came and left, in one layer or in all."""
        return retention(self, layer)

    def life(self, token_id: int, layer: int | None = None) -> TokenLife:
        """What happened to one token, in one layer or in all."""
        return life(self, token_id, layer)

    def summary(self) -> RecordingSummary:
        """The recording in a few numbers."""
        return summarise(self)

    def verify(self) -> list[str]:
        """Read every byte; one sentence for each thing that is wrong, none where all is sound."""
        found = list(self.problems)
        pictures = [
            path
            for path in sorted((self.folder / PARTS).iterdir())
            if (parse_part_name(path.name) or (0, ""))[1] == "frames"
        ]
        for path in (*(p.path for p in (*self.step_parts, *self.answer_parts)), *pictures):
            try:
                if not Part.open(path).sound():
                    found.append(f"Part {path.name} does not match its checksum.")
            except DamagedPartError as error:
                found.append(f"Part {path.name} cannot be read ({error}).")
        for read in (lambda: [None for _ in self.steps], lambda: self.answers, lambda: self.tokens):
            try:
                read()
            except LabError as error:
                found.append(str(error))
        return found

    @cached_property
    def _step_of_frame(self) -> dict[int, Part]:
        return {frame: part for part in self.step_parts for frame in part.record["frames"]}

    def read(self, part: Part, read: Callable[[Part], T]) -> T:
        """Read something from a part; damage becomes a sentence that says what remains readable."""
        try:
            return read(part)
        except _DAMAGE as error:
            raise self._damaged(part, error) from error

    def blame(self, work: Callable[[], T]) -> T:
        """Do work on several parts; if they contradict each other, name the first whose checksum is wrong."""
        try:
            return work()
        except _DAMAGE as error:
            unsound = (part for part in self.step_parts if not _sound(part))
            raise self._damaged(next(unsound, self.step_parts[-1]), error) from error

    def _damaged(self, part: Part, error: Exception) -> RecordingError:
        before = sum(other.path.name < part.path.name for other in self.step_parts)
        return RecordingError(
            f"Part {part.path.name} of the recording {str(self.folder)!r} is damaged ({error}); "
            f"the {before} steps before it remain readable."
        )

    def _remember(self, index: int, state: CacheState) -> None:
        self._states[index] = state
        self._states.move_to_end(index)
        while len(self._states) > _STATES_KEPT:
            self._states.popitem(last=False)


def _sound(part: Part) -> bool:
    try:
        return part.sound()
    except DamagedPartError:
        return False


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a recording folder.

    Raises:
        RecordingError: not a recording, written by a newer version, or damaged.
    """
    if not folder.is_dir():
        raise RecordingError(f"There is no recording folder {str(folder)!r}; check the path.")
    try:
        text = (folder / MANIFEST).read_text("utf-8")
    except FileNotFoundError as error:
        raise RecordingError(
            f"{str(folder)!r} is not a recording: it has no {MANIFEST}."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"{MANIFEST} of {str(folder)!r} cannot be read ({error}).") from error
    return Manifest.from_json(text, folder)


def event_parts(folder: Path) -> list[tuple[int, PartKind, Path]]:
    """Number, kind and path of the step and answer parts, in order."""
    parts = folder / PARTS
    if not parts.is_dir():
        return []
    named = [(parse_part_name(path.name), path) for path in parts.iterdir()]
    return sorted((*name, path) for name, path in named if name and name[1] != "frames")

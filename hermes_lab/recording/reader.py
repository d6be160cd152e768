"""Read a recording: lazily, whether it was finished, is still being written, or its process was killed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import index as index_of
from pathlib import Path
from typing import TypeVar, overload

from hermes_lab.errors import LabError, RecordingError
from hermes_lab.recording.answers import decode_answer
from hermes_lab.recording.chronicle import LayerChronicle, chronicles
from hermes_lab.recording.format import (
    PARTS,
    Manifest,
    parse_part_name,
    part_name,
)
from hermes_lab.recording.life import TokenLife, life
from hermes_lab.recording.opening import RecordingStatus, open_parts, read_manifest, status_of
from hermes_lab.recording.parts import DamagedPartError, Part
from hermes_lab.recording.retention import Retention, retention
from hermes_lab.recording.state import CacheState, IntArray, decode_state
from hermes_lab.recording.steps import (
    Diff,
    decode_step,
    follow,
    read_decisions,
    read_diff,
    read_tokens,
)
from hermes_lab.recording.summary import RecordingSummary, summarise
from hermes_lab.recording.thumbnails import Picture, decode_thumbnail
from hermes_lab.recording.timeline import Timeline
from hermes_lab.snapshot import Answer, LayerDecision, Snapshot
from hermes_lab.tokens import TokenTable

T = TypeVar("T")
_STATES_KEPT = 16
_DAMAGE = (
    DamagedPartError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError,
    RecursionError,
)  # fmt: skip


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
        notes: sentences on steps that were never recorded, because the disk refused them.
        passed_parts: of steps that cannot be read, for their rows of the token table.
        restarts: indices of steps that stand behind a gap: what was held before them says their own checkpoint.
    """

    folder: Path
    manifest: Manifest
    step_parts: tuple[Part, ...]
    answer_parts: tuple[Part, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    passed_parts: tuple[Part, ...] = ()
    restarts: frozenset[int] = frozenset()
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
            salvage: with damage before the last part, open what can be read of both sides of it instead of refusing.

        Raises:
            RecordingError: not a recording, written by a newer version, or damaged.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        opened = open_parts(folder, salvage=salvage)
        return cls(
            folder, manifest, tuple(opened.steps), tuple(opened.answers), tuple(opened.problems),
            tuple(opened.notes), tuple(opened.passed),
            frozenset(opened.restarts),
        )  # fmt: skip

    def __repr__(self) -> str:
        policy = self.manifest.policy.get("policy", "?")
        left_out = f", {len(self.problems)} problems" if self.problems else ""
        return (
            f"Recording({str(self.folder)!r}, {self.status}, {self.manifest.model.name} under "
            f"{policy}, {len(self.step_parts)} steps, {len(self.answer_parts)} answers{left_out})"
        )

    @property
    def status(self) -> RecordingStatus:
        """What the manifest says; "interrupted" where it says "open" and its process is gone."""
        return status_of(self.folder, self.manifest)

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
        every = (*self.step_parts, *self.answer_parts, *self.passed_parts)
        parts = [part for part in every if "tokens_from" in part.record]
        parts.sort(key=lambda part: part.record["tokens_from"])
        named = max((int(ids.max(initial=-1)) for ids in self._ids_at_restarts()), default=-1)
        return self.blame(lambda: read_tokens(parts, named + 1, self.manifest.prefix_tokens))

    def _ids_at_restarts(self) -> Iterator[IntArray]:
        """Ids that may have come in a gap."""
        for index in self.restarts:
            yield from self.before(index).held

    @cached_property
    def timeline(self) -> Timeline:
        """Numbers of every step side by side."""
        return self.blame(lambda: Timeline.read(self.step_parts))

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
        except (*_DAMAGE, OSError) as error:
            raise RecordingError(
                f"Part {path.name} of the recording {str(self.folder)!r} is damaged ({error}); "
                "it holds pictures only, all steps remain readable."
            ) from error

    def snapshot(self, index: int) -> Snapshot:
        """The snapshot of the step with this 0-based index."""
        before = self.before(index)
        diff = self.diff(index)
        after = self.blame(lambda: follow(before, [diff]))
        self._remember(index, after)

        def decode(part: Part) -> Snapshot:
            snapshot = decode_step(part, diff, before, after)
            candidates = (decision.candidates for decision in snapshot.decisions)
            self._check_ids(index, diff.new_ids, *after.held, *candidates)
            return snapshot

        return self.read(self.step_parts[index], decode)

    def diff(self, index: int) -> Diff:
        """What changed in one step."""
        return self.read(self.step_parts[index], read_diff)

    def _checkpoint(self, index: int) -> CacheState:
        """The state before a step, as its own part says it."""
        return self.read(
            self.step_parts[index],
            lambda part: decode_state(part.record["before"], part, "before"),
        )

    def state(self, index: int) -> CacheState:
        """What the layers held after a step, from the nearest checkpoint; empty before the first step."""
        if index < 0:
            return CacheState()
        known = max((i for i in self._states if i <= index), default=-1)
        base, first = self._states.get(known, CacheState()), known + 1
        for start in range(index, known, -1):
            # the nearest checkpoint; one right behind a known state is needed only where steps are missing between
            near = start == known + 1 and start not in self.restarts
            if not near and "before" in self.step_parts[start].record:
                base, first = self._checkpoint(start), start
                break
        diffs = [self.diff(i) for i in range(first, index + 1)]
        state = self.blame(lambda: follow(base, diffs))
        self.blame(lambda: self._check_ids(index, *state.held))
        self._remember(index, state)
        return state

    def before(self, index: int) -> CacheState:
        """What the layers held before a step."""
        if index in self.restarts:
            return self._checkpoint(index)
        return self.state(index - 1)

    def advance(self, state: CacheState, done: int, upto: int) -> CacheState:
        """The ids that the layers held after step `upto`, from those after step `done`; positions are left out."""
        gaps = [index for index in self.restarts if done < index <= upto]
        first = max(gaps, default=done + 1)
        base = self.before(first) if gaps else state
        diffs = [self.diff(index) for index in range(first, upto + 1)]
        after = self.blame(lambda: follow(base, diffs, positions=False))
        self.blame(lambda: self._check_ids(upto, *after.held))
        return after

    def decisions(self, index: int, layers: frozenset[int]) -> tuple[LayerDecision, ...]:
        """The decisions of some layers in the step with this 0-based index."""
        before, changed = self.before(index), self.diff(index)

        def decode(part: Part) -> tuple[LayerDecision, ...]:
            found = read_decisions(part, changed, before, layers)
            self._check_ids(index, *(decision.candidates for decision in found))
            return found

        return self.read(self.step_parts[index], decode)

    def chronicle(self, layer: int) -> LayerChronicle:
        """Who came and left one layer, and when.

        Raises:
            RecordingError: there is no such layer.
        """
        self._check_layer(layer)
        return self.chronicles((layer,))[0]

    def chronicles(self, layers: Sequence[int]) -> tuple[LayerChronicle, ...]:
        """Who came and left some layers; those that are not known yet in one pass over the parts."""
        missing = [layer for layer in layers if layer not in self._chronicles]
        if missing:
            told = self.blame(lambda: chronicles(self, missing))
            self._chronicles.update(zip(missing, told, strict=True))
        return tuple(self._chronicles[layer] for layer in layers)

    @cached_property
    def layers(self) -> int:
        """Decoder layers that were recorded."""
        return len(self.step_parts[0].record["state"]["heads"]) if self.step_parts else 0

    def retention(self, layer: int | None = None) -> Retention:
        """When every video token came and left, in one layer or in all."""
        self._check_layer(layer)
        return self.blame(lambda: retention(self, layer))

    def life(self, token_id: int, layer: int | None = None) -> TokenLife:
        """What happened to one token, in one layer or in all."""
        self._check_layer(layer)
        token = index_of(token_id)
        return self.blame(lambda: life(self, token, layer))

    def summary(self) -> RecordingSummary:
        """The recording in a few numbers."""
        return self.blame(lambda: summarise(self))

    def verify(self) -> list[str]:
        """Read every byte; one sentence for each thing that is wrong, none where all is sound."""
        found = list(self.problems)
        parts = self.folder / PARTS
        pictures = [
            path
            for path in (sorted(parts.iterdir()) if parts.is_dir() else [])
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
            every = (*self.step_parts, *self.answer_parts)
            if not every:
                raise
            unsound = [part for part in every if not _sound(part)]
            raise self._damaged((unsound or every)[0], error) from error

    def _check_ids(self, index: int, *rows: IntArray) -> None:
        """Refuse ids that no token has: whoever looks them up would find another token, or none.

        Raises:
            ValueError: naming the ids.
        """
        ids = [row for row in rows if row.size]
        if not ids:
            return
        low, high = min(int(row.min()) for row in ids), max(int(row.max()) for row in ids)
        # the rows of this very step say it nearly always; all of them are asked only if they do not
        if low < 0 or (high >= self._named_by(index) and high >= len(self.tokens)):
            raise ValueError(f"there are ids from {low} to {high} that no token has")

    def _named_by(self, index: int) -> int:
        """How many tokens had an id after a step, as far as its own part says."""
        part = self.step_parts[index]
        first = part.record.get("tokens_from")
        return 0 if first is None else int(first) + len(part.read("tokens.role")[0])

    def _check_layer(self, layer: int | None) -> None:
        if layer is not None and not 0 <= layer < self.layers:
            raise RecordingError(
                f"There is no layer {layer} in the recording {str(self.folder)!r}; "
                f"layers run from 0 to {self.layers - 1}."
            )

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

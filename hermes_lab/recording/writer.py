"""Write a recording while the stream runs; whatever happens to the process, what was completed stays.

Bytes of a step at level "summary" (L layers, C candidates per layer, T score terms that are not a multiple of another
one, E evicted per layer, H query heads, F frames that a layer still attends to, G groups that it read): about 4 L C T
for scores and terms, 1 to 2 L E for who left, 4 L H F G for attention by frame, 21 per new token and 3 to 6 KB of
header; under the position rules that renumber (eager, contiguous) also at most 2 bytes for every held token, layer
and axis. Every now and then a checkpoint adds 6 to 8 bytes for every held token and layer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy.typing as npt

from hermes_lab.errors import RecordingError, reason_of
from hermes_lab.recording.answers import encode_answer
from hermes_lab.recording.attention import RowFilter, reduce_rows
from hermes_lab.recording.format import (
    Level,
    Manifest,
    ModelInfo,
    Status,
    check_level,
    now_utc,
)
from hermes_lab.recording.journal import Journal, Written
from hermes_lab.recording.multiples import Multiples
from hermes_lab.recording.parts import Array, pack
from hermes_lab.recording.standing import Standing
from hermes_lab.recording.state import encode_state
from hermes_lab.recording.steps import encode_step, encode_tokens
from hermes_lab.recording.thumbnails import encode_thumbnails
from hermes_lab.snapshot import Answer, Snapshot
from hermes_lab.tokens import TokenTable

_LOG = logging.getLogger(__name__)
_CHECKPOINT_EVERY = 4  # what a checkpoint saves from following is at least four times its own size
_GIVEN_KEPT = 4  # steps; more than a disk that refuses leaves between two that are written


@dataclass(frozen=True)
class _Told:
    """What the parts so far tell, against which the next one is written.

    Attributes:
        last_step: `Snapshot.step` of the newest one.
        tokens: rows of the token table.
        standing: what the layers held after the newest step.
        changed: numbers that changed in the layers since the last checkpoint.
    """

    last_step: int | None = None
    tokens: int = 0
    standing: Standing = field(default_factory=Standing)
    changed: int = 0


class RecordingWriter:
    """Writes one recording folder; at level "off" it accepts everything and writes nothing.

    When a call returns, what it was given outlives the process; when the next one returns, the disk has it, so that
    it outlives a power failure too. A call that raises leaves all earlier parts as they were and may be repeated; the
    next step then carries what the failed one would have. A call that is interrupted (Ctrl-C) has written its part or
    has not, as `last_step` says. Threads wait for each other.

    Args:
        folder: is made; must be empty or absent unless `overwrite`.
        manifest: written at once, and again when the recording is finished or aborted.
        level: "summary" leaves full attention rows out, "rows" keeps those that `rows` selects.
        overwrite: replace a recording that is there; a folder with anything else in it is refused.

    Raises:
        RecordingError: the folder is in the way or cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        manifest: Manifest,
        *,
        level: Level = "summary",
        rows: RowFilter | None = None,
        overwrite: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.level: Level = check_level(level)
        self._manifest = replace(manifest, level=level, status="open", finished=None, reason=None)
        self._rows = rows or RowFilter()
        self._told = _Told()
        self._given: dict[int, Standing] = {}  # behind steps, whether they could be written or not
        self._multiples = Multiples()
        self._lock = threading.RLock()
        self._journal: Journal | None = None
        if self.level != "off":
            self._journal = Journal(self.folder, self._manifest, overwrite)

    @property
    def manifest(self) -> Manifest:
        """As it stands on disk; at level "off" as it would."""
        return self._manifest if self._journal is None else self._journal.manifest

    @property
    def closed(self) -> bool:
        """Whether nothing more can be written."""
        return self._journal is None or self._journal.closed

    @property
    def written(self) -> Written:
        """How much is in its place."""
        return Written() if self._journal is None else self._journal.written

    @property
    def last_step(self) -> int | None:
        """`Snapshot.step` of the newest step that is in its place."""
        if self._journal is not None:
            self._journal.drain()
        return self._told.last_step

    def reduce(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot that will be read back: full attention rows only as far as the level keeps them."""
        reduced = (reduce_rows(a, self.level, self._rows) for a in snapshot.attention)
        return snapshot.amended(attention=tuple(reduced))

    def write_step(
        self,
        snapshot: Snapshot,
        table: TokenTable,
        thumbnails: Sequence[npt.NDArray[Any]] | None = None,
    ) -> None:
        """Append one feed step, the token-table rows that are new, and small pictures of its frames.

        Raises:
            RecordingError: the disk is full or refuses, the snapshot contradicts itself, or the recording is closed.
        """
        if self._journal is None:
            return
        with self._lock:
            self._journal.check_open()
            self._write_step(self._journal, snapshot, table, thumbnails)

    def _write_step(
        self,
        journal: Journal,
        snapshot: Snapshot,
        table: TokenTable,
        thumbnails: Sequence[npt.NDArray[Any]] | None,
    ) -> None:
        told = self._told
        if told.last_step is not None and snapshot.step <= told.last_step:
            raise RecordingError(
                f"Step {snapshot.step} came after step {told.last_step}; "
                "steps of a recording must grow, so start another recording for another stream."
            )
        follows = snapshot.step == (0 if told.last_step is None else told.last_step + 1)
        before = told.standing if follows else self._given.get(snapshot.step - 1)
        try:
            shapes = None if before is None else before.shapes_after(snapshot)
            self._check(snapshot, table, told_changes=shapes is not None)
            standing = Standing.after(snapshot, shapes)
            self._give(snapshot.step, standing)
            if shapes is None or before is None:
                follows, before = True, told.standing
            checkpoint = (
                told.last_step is None
                or not follows
                or told.changed >= _CHECKPOINT_EVERY * before.numbers
            )
            record, tensors = encode_step(self.reduce(snapshot), shapes, before, self._multiples)
            if checkpoint:
                record["before"], whole = encode_state(before.state, "before")
                tensors |= whole
            pictures = None
            if thumbnails is not None:
                pictures = pack(*encode_thumbnails(snapshot.frames, thumbnails))
            record["thumbnails"] = pictures is not None
            token_record, token_tensors = self._encode_tokens(table)
            data = pack(record | token_record, tensors | token_tensors)
        except (TypeError, ValueError) as error:
            raise RecordingError(
                f"Step {snapshot.step} cannot be recorded: {error}; the steps before it are saved."
            ) from error
        told = _Told(
            snapshot.step,
            max(told.tokens, len(table)),
            standing,
            (0 if checkpoint else told.changed) + standing.changed,
        )
        journal.append("step", data, lambda: self._tell(told), pictures)

    def _give(self, step: int, standing: Standing) -> None:
        """Remember what the layers held behind a step, so that the next one can follow it."""
        self._given[step] = standing
        while len(self._given) > _GIVEN_KEPT:
            del self._given[next(iter(self._given))]

    def _check(self, snapshot: Snapshot, table: TokenTable, *, told_changes: bool) -> None:
        """Refuse another number of layers, and tokens that the table does not have."""
        known = self._told.standing.layers
        layers = len(snapshot.changes if told_changes else snapshot.held)
        if known and layers != known:
            raise RecordingError(
                f"Step {snapshot.step} has {layers} layers, the recording "
                f"{known}; start another recording for another model."
            )
        named = [c.added for c in snapshot.changes] if told_changes else snapshot.held
        newest = max(int(ids.max(initial=-1)) for ids in (snapshot.new_ids, *named))
        if newest >= len(table):
            raise RecordingError(
                f"Step {snapshot.step} cannot be recorded: token {newest} has no row in the token "
                f"table of {len(table)} rows."
            )

    def write_answer(self, answer: Answer, table: TokenTable | None = None) -> None:
        """Append one answer; `table` where the question's own tokens were given ids.

        Raises:
            RecordingError: the disk is full or refuses, `answer.extra` is not JSON, or the recording is closed.
        """
        if self._journal is None:
            return
        with self._lock:
            self._journal.check_open()
            self._write_answer(self._journal, answer, table)

    def _write_answer(self, journal: Journal, answer: Answer, table: TokenTable | None) -> None:
        if answer.attention is not None:
            answer = replace(
                answer, attention=reduce_rows(answer.attention, self.level, self._rows)
            )
        try:
            record, tensors = encode_answer(answer)
            token_record, token_tensors = self._encode_tokens(table)
            data = pack(record | token_record, tensors | token_tensors)
        except (TypeError, ValueError) as error:
            raise RecordingError(f"The answer cannot be recorded: {error}.") from error
        told = self._told
        told = replace(told, tokens=max(told.tokens, 0 if table is None else len(table)))
        journal.append("answer", data, lambda: self._tell(told))

    def amend(
        self,
        model: ModelInfo,
        policy: Mapping[str, Any] | None = None,
        positions: str | None = None,
    ) -> None:
        """Correct what is known only once the first frame has come: the token grid, the policy with its budget.

        Args:
            policy, positions: None: as they are.

        Raises:
            RecordingError: the disk is full or refuses.
        """
        if self._journal is not None:
            known = self._journal.manifest
            self._journal.rewrite(
                replace(
                    known,
                    model=model,
                    policy=known.policy if policy is None else dict(policy),
                    positions=positions or known.positions,
                )
            )

    def finish(self) -> None:
        """Mark the recording as complete; further calls do nothing."""
        self._close("finished", None)

    def abort(self, reason: str) -> None:
        """Mark the recording as cut short, for a reason that a person can read."""
        self._close("aborted", reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
            return
        try:
            self.abort(reason_of(error))
        except RecordingError as second:  # the first error is the one to be told
            _LOG.warning("%s", second)

    def _encode_tokens(self, table: TokenTable | None) -> tuple[dict[str, Any], dict[str, Array]]:
        if table is None:
            return {}, {}
        if len(table) < self._told.tokens:
            raise ValueError(
                f"the token table shrank from {self._told.tokens} to {len(table)} rows"
            )
        return encode_tokens(table, self._told.tokens)

    def _tell(self, told: _Told) -> None:
        self._told = told

    def _close(self, status: Status, reason: str | None) -> None:
        if self._journal is not None:
            manifest = replace(
                self._journal.manifest, status=status, reason=reason, finished=now_utc()
            )
            self._journal.close(manifest)

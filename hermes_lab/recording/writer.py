"""Write a recording while the stream runs; whatever happens to the process, what was completed stays.

Bytes of a step at level "summary" (L layers, C candidates a layer, T score terms, E evicted a layer, H query
heads, F frames still attended, G probed groups): about 4 L C (1 + T) for scores and terms, L C / 8 for the kept
mask, 4 L E for who left, 4 L H F G for attention by frame, 17 a new token and 3 to 6 KB of header; under the
position rules that renumber (eager, contiguous) also 2 to 4 bytes for every held token, layer and axis.
"""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hermes_lab.errors import RecordingError
from hermes_lab.recording.answers import encode_answer
from hermes_lab.recording.attention import RowFilter, reduce_rows
from hermes_lab.recording.format import (
    MANIFEST,
    PARTS,
    TEMPORARY_SUFFIX,
    Level,
    Manifest,
    ModelInfo,
    PartKind,
    Status,
    check_level,
    now_utc,
    part_name,
)
from hermes_lab.recording.parts import Array, pack, write_whole
from hermes_lab.recording.state import CacheState
from hermes_lab.recording.steps import difference_bytes, encode_step, encode_tokens
from hermes_lab.recording.syncing import Syncer
from hermes_lab.recording.thumbnails import encode_thumbnails
from hermes_lab.snapshot import Answer, Snapshot
from hermes_lab.tokens import TokenTable

_LOG = logging.getLogger(__name__)
_CHECKPOINT_EVERY = 4  # checkpoints may add a quarter to the bytes of the differences between them
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class RecordingWriter:
    """Writes one recording folder; at level "off" it accepts everything and writes nothing.

    When a call returns, what it was given outlives the process; when the next one returns, the disk has it, so that
    it outlives a power failure too. A call that raises leaves all earlier parts as they were and may be repeated; the
    next step then carries what the failed one would have.

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
        self.manifest = replace(manifest, level=level, status="open", finished=None, reason=None)
        self.steps_written = 0
        self.answers_written = 0
        self.bytes_written = 0
        self._rows = rows or RowFilter()
        self._state = CacheState()
        self._last_step: int | None = None
        self._tokens_written = 0
        self._unsaved_checkpoint_bytes = 0
        self._closed = False
        self._syncer = Syncer()
        if self.level == "off":
            return
        text = self.manifest.to_json()
        try:
            _make_room(self.folder, overwrite)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / MANIFEST, text.encode())
            (self.folder / PARTS).mkdir()
        except OSError as error:
            raise RecordingError(
                f"The recording folder {str(self.folder)!r} cannot be written "
                f"({error.strerror or error}); name another one with --record."
            ) from error

    def reduce(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot that will be read back: full attention rows only as far as the level keeps them."""
        return replace(
            snapshot,
            attention=tuple(reduce_rows(a, self.level, self._rows) for a in snapshot.attention),
        )

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
        if self.level == "off":
            return
        self._check_open()
        if self._last_step is not None and snapshot.step <= self._last_step:
            raise RecordingError(
                f"Step {snapshot.step} came after step {self._last_step}; "
                "steps of a recording must grow, so start another recording for another stream."
            )
        if self._state.held and len(snapshot.held) != len(self._state.held):
            raise RecordingError(
                f"Step {snapshot.step} has {len(snapshot.held)} layers, the recording "
                f"{len(self._state.held)}; start another recording for another model."
            )
        newest = max(int(ids.max(initial=-1)) for ids in (snapshot.new_ids, *snapshot.held))
        if newest >= len(table):
            raise RecordingError(
                f"Step {snapshot.step} cannot be recorded: token {newest} has no row in the token "
                f"table of {len(table)} rows."
            )
        checkpoint = (
            self._last_step is None
            or self._unsaved_checkpoint_bytes >= _CHECKPOINT_EVERY * self._state.size_bytes
        )
        reduced = self.reduce(snapshot)
        try:
            record, tensors = encode_step(reduced, self._state, checkpoint=checkpoint)
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
        frames_part = None if pictures is None else self._write("frames", pictures)
        try:
            self._write("step", data)
        except RecordingError:
            if frames_part is not None:
                frames_part.unlink(missing_ok=True)
            raise
        since = 0 if checkpoint else self._unsaved_checkpoint_bytes
        self._unsaved_checkpoint_bytes = since + difference_bytes(tensors)
        self._state = CacheState(
            tuple(np.array(rows, np.int64) for rows in snapshot.held),
            tuple(np.array(places, np.int64) for places in snapshot.positions),
        )
        self._last_step = snapshot.step
        self._tokens_written = max(self._tokens_written, len(table))
        self.steps_written += 1

    def write_answer(self, answer: Answer, table: TokenTable | None = None) -> None:
        """Append one answer; `table` where the question's own tokens were given ids.

        Raises:
            RecordingError: the disk is full or refuses, `answer.extra` is not JSON, or the recording is closed.
        """
        if self.level == "off":
            return
        self._check_open()
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
        self._write("answer", data)
        self._tokens_written = max(self._tokens_written, 0 if table is None else len(table))
        self.answers_written += 1

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
        self.manifest = replace(
            self.manifest,
            model=model,
            policy=self.manifest.policy if policy is None else dict(policy),
            positions=positions or self.manifest.positions,
        )
        if self.level == "off":
            return
        self._check_open()
        try:
            write_whole(self.folder / MANIFEST, self.manifest.to_json().encode())
        except OSError as error:
            raise self._refusal(error) from error

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
            self.abort(str(error) or type(error).__name__)
        except RecordingError as second:  # the first error is the one to be told
            _LOG.warning("%s", second)

    def _encode_tokens(self, table: TokenTable | None) -> tuple[dict[str, Any], dict[str, Array]]:
        if table is None:
            return {}, {}
        if len(table) < self._tokens_written:
            raise ValueError(
                f"the token table shrank from {self._tokens_written} to {len(table)} rows"
            )
        return encode_tokens(table, self._tokens_written)

    def _check_open(self) -> None:
        if self._closed:
            raise RecordingError(
                f"The recording {str(self.folder)!r} is closed; start another one to go on recording."
            )

    def _close(self, status: Status, reason: str | None) -> None:
        if self._closed or self.level == "off":
            self._closed = True
            return
        manifest = replace(self.manifest, status=status, reason=reason, finished=now_utc())
        self._closed = True
        try:
            self._syncer.close()
            write_whole(self.folder / MANIFEST, manifest.to_json().encode())
        except OSError as error:
            raise self._refusal(error) from error
        self.manifest = manifest

    def _write(self, kind: PartKind, data: bytes) -> Path:
        number = self.steps_written + self.answers_written
        path = self.folder / PARTS / part_name(number, kind)
        lasting = kind != "frames"  # pictures are not worth a wait
        try:
            if lasting:
                self._syncer.wait()
            write_whole(path, data, durable=False)
        except OSError as error:
            raise self._refusal(error) from error
        if lasting:
            self._syncer.start(path)
        self.bytes_written += len(data)
        return path

    def _refusal(self, error: OSError) -> RecordingError:
        saved = (
            f"{self.steps_written} steps and {self.answers_written} answers are saved and readable"
        )
        if error.errno in _FULL_DISK:
            return RecordingError(
                f"The disk is full while recording to {str(self.folder)!r}: {saved}; "
                "free some space, or record elsewhere with --record."
            )
        return RecordingError(
            f"Cannot record to {str(self.folder)!r} ({error.strerror or error}): {saved}; "
            "record elsewhere with --record."
        )


def _make_room(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that is in use, or clear it of an earlier recording and of nothing else."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RecordingError(
            f"{str(folder)!r} is a file; name a folder to record into with --record."
        )
    entries = sorted(entry.name for entry in folder.iterdir())
    if not entries:
        return
    if not overwrite:
        raise RecordingError(
            f"The recording folder {str(folder)!r} exists and is not empty; "
            "name another one with --record, or replace it with --overwrite."
        )
    foreign = [
        name
        for name in entries
        if name not in (MANIFEST, PARTS) and not name.endswith(TEMPORARY_SUFFIX)
    ]
    if foreign:
        raise RecordingError(
            f"{str(folder)!r} holds {foreign[0]!r}, which is not part of a recording; "
            "it is not overwritten, so name another folder with --record."
        )
    for name in entries:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

"""From a stream to its recording: the manifest, and what each step hands to the writer."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes_lab.errors import RecordingError
from hermes_lab.lab import Lab
from hermes_lab.recording.attention import RowFilter
from hermes_lab.recording.format import Manifest, ModelInfo, SourceInfo
from hermes_lab.recording.journal import WriteRefusedError
from hermes_lab.recording.writer import RecordingWriter
from hermes_lab.snapshot import Answer, Snapshot
from hermes_lab.stream.run import Run
from hermes_lab.stream.state import StreamState
from hermes_lab.tokens import TokenTable

MOST_DUE = 64  # steps; more of them would fill the memory of a stream whose disk stays full
Picture = npt.NDArray[np.uint8]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Due:
    """A step that happened and is to be written.

    Attributes:
        run: how it was run.
        pictures: of its frames; None where they were let go, or there were none.
    """

    snapshot: Snapshot
    run: Run
    pictures: Sequence[Picture] | None


def open_recorder(
    folder: Path, lab: Lab, run: Run, stream: StreamState,
    *, source: Mapping[str, Any], fps: float | None, overwrite: bool,
) -> Recorder:  # fmt: skip
    """Start the recording of a stream.

    Raises:
        RecordingError: the folder is in the way or cannot be written.
    """
    described = lab.describe()
    manifest = Manifest(
        model=_model(described),
        policy=run.policy.config(),
        positions=str(run.positions),
        source=SourceInfo(
            str(source.get("name", "frames")),
            str(source.get("kind", "arrays")),
            source.get("sha256"),
        ),
        chunk_frames=run.chunk_frames,
        fps=None if fps is None else float(fps),
        dtype=str(described["dtype"]),
        device=str(described["device"]),
        seed=run.seed,
        prefix_tokens=stream.protected,
    )
    writer = RecordingWriter(
        folder, manifest, level=run.record_level, rows=RowFilter(), overwrite=overwrite
    )
    return Recorder(writer, stream.table)


class Recorder:
    """Writes the steps of a stream, each once and in their order.

    A step that could not be written, because the disk refused or a Ctrl-C came, waits and is written before the
    next one, so that no step is missing.

    Attributes:
        writer: of the recording.
        due: steps that happened and are not known to be written, oldest first; at most `MOST_DUE`.
        seconds: what the last writing took.
    """

    def __init__(self, writer: RecordingWriter, table: TokenTable) -> None:
        self.writer = writer
        self.due: tuple[Due, ...] = ()
        self.seconds = 0.0
        self._table = table

    @property
    def closed(self) -> bool:
        """Whether nothing more can be written."""
        return self.writer.closed

    def owe(self, snapshot: Snapshot, run: Run, pictures: Sequence[Picture] | None) -> None:
        """Take note of a step that happened (see `Due`); nothing is written yet."""
        self.due = (*self.due, Due(snapshot, run, pictures))[-MOST_DUE:]

    def pay(self) -> None:
        """Write what is due.

        Raises:
            WriteRefusedError: the disk is full or refuses; what is due stays due, without its pictures.
            RecordingError: a step can never be written; it is left out.
        """
        started = time.perf_counter()
        while self.due:
            step, last = self.due[0], self.writer.last_step
            try:
                # else a call that was interrupted wrote it after all
                if last is None or step.snapshot.step > last:
                    self._write(step)
            except WriteRefusedError:
                self.due = tuple(replace(due, pictures=None) for due in self.due)
                raise
            except RecordingError:
                self.due = self.due[1:]
                raise
            self.due = self.due[1:]
        self.seconds = time.perf_counter() - started

    def answer(self, answer: Answer) -> None:
        """Write an answer, after the steps that are due.

        Raises:
            RecordingError: the disk is full or refuses.
        """
        if self.due:
            self.pay()
        self.writer.write_answer(answer)

    def close(self, reason: str | None) -> None:
        """Write what is due and finish, or abort for a reason.

        With a reason, that is what must be told: a disk that refuses as well is only logged.

        Raises:
            RecordingError: without a reason: the disk is full or refuses, which is then the recording's reason.
        """
        try:
            self.pay()
            if reason is None:
                self.writer.finish()
        except RecordingError as error:
            self._abort(reason or str(error))
            if reason is None:
                raise
            _LOG.warning("%s", error)
        else:
            if reason is not None:
                self._abort(reason)

    def _abort(self, reason: str) -> None:
        try:
            self.writer.abort(reason)
        except RecordingError as error:
            _LOG.warning("%s", error)

    def _write(self, step: Due) -> None:
        """One step; the first one also tells the manifest the token grid of a frame and the budget."""
        new, model = step.snapshot.new_ids, self.writer.manifest.model
        if model.tokens_per_frame == 0 and len(new):
            rows, cols = self._table.column("row")[new], self._table.column("col")[new]
            grid = (int(rows.max()) + 1, int(cols.max()) + 1)
            model = replace(model, grid=grid, tokens_per_frame=grid[0] * grid[1])
            self.writer.amend(model, step.run.policy.config(), str(step.run.positions))
        self.writer.write_step(step.snapshot, self._table, step.pictures)


def _model(described: Mapping[str, Any]) -> ModelInfo:
    """What a manifest says of the model before the first frame tells its grid."""
    return ModelInfo(
        name=str(described["model"]),
        family=str(described["family"]),
        layers=int(described["layers"]),
        query_heads=int(described["query_heads"]),
        kv_heads=int(described["kv_heads"]),
        head_dim=int(described["head_dim"]),
        tokens_per_frame=0,
        grid=(0, 0),
        revision=described["revision"],
    )

"""From a session to its recording: the manifest, and what each step hands to the writer."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hermes_lab.errors import RecordingError
from hermes_lab.recording.attention import RowFilter
from hermes_lab.recording.format import Manifest, ModelInfo, SourceInfo
from hermes_lab.recording.journal import WriteRefusedError
from hermes_lab.recording.writer import RecordingWriter
from hermes_lab.snapshot import Answer, Snapshot

if TYPE_CHECKING:
    from hermes_lab.stream.session import StreamSession


MOST_DUE = 64  # steps; more of them would fill the memory of a stream whose disk stays full
Picture = npt.NDArray[np.uint8]
Due = tuple[Snapshot, Sequence[Picture] | None]

_LOG = logging.getLogger(__name__)


def open_recorder(
    session: StreamSession,
    folder: Path,
    source: Mapping[str, Any],
    fps: float | None,
    overwrite: bool,
) -> Recorder:
    """Start the recording of a session.

    Raises:
        RecordingError: the folder is in the way or cannot be written.
    """
    described = session.lab.describe()
    manifest = Manifest(
        model=_model(session, (0, 0)),
        policy=session.policy.config(),
        positions=str(session.positions),
        source=SourceInfo(
            str(source.get("name", "frames")),
            str(source.get("kind", "arrays")),
            source.get("sha256"),
        ),
        chunk_frames=session.chunk_frames,
        fps=None if fps is None else float(fps),
        dtype=str(described["dtype"]),
        device=str(described["device"]),
        seed=session.seed,
        prefix_tokens=session.protected_tokens,
    )
    level = session.record_level
    writer = RecordingWriter(folder, manifest, level=level, rows=RowFilter(), overwrite=overwrite)
    return Recorder(session, writer)


class Recorder:
    """Writes the steps of a session, each once and in their order.

    A step that could not be written, because the disk refused or a Ctrl-C came, waits and is written before the
    next one, so that no step is missing.

    Attributes:
        writer: of the recording.
        due: steps that happened and are not known to be written, oldest first; at most `MOST_DUE`.
    """

    def __init__(self, session: StreamSession, writer: RecordingWriter) -> None:
        self.writer = writer
        self.due: tuple[Due, ...] = ()
        self._session = session

    @property
    def closed(self) -> bool:
        """Whether nothing more can be written."""
        return self.writer.closed

    def owe(self, snapshot: Snapshot, images: Sequence[Picture] | None) -> None:
        """Take note of a step that happened; nothing is written yet."""
        self.due = (*self.due, (snapshot, images))[-MOST_DUE:]

    def pay(self) -> None:
        """Write what is due.

        Raises:
            WriteRefusedError: the disk is full or refuses; what is due stays due, without its pictures.
            RecordingError: a step can never be written; it is left out.
        """
        started = time.perf_counter()
        while self.due:
            snapshot, images = self.due[0]
            last = self.writer.last_step
            try:
                if (
                    last is None or snapshot.step > last
                ):  # else an interrupted call wrote it after all
                    self._write(snapshot, images)
            except WriteRefusedError:
                self.due = tuple((step, None) for step, _ in self.due)
                raise
            except RecordingError:
                self.due = self.due[1:]
                raise
            self.due = self.due[1:]
        self._session.record_s = time.perf_counter() - started

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

    def _write(self, snapshot: Snapshot, images: Sequence[Picture] | None) -> None:
        """One step; the first one also tells the manifest the token grid of a frame and the budget."""
        table = self._session.table
        if self.writer.manifest.model.tokens_per_frame == 0:
            new = snapshot.new_ids
            rows, cols = table.column("row")[new], table.column("col")[new]
            if len(new):
                session = self._session
                model = _model(session, (int(rows.max()) + 1, int(cols.max()) + 1))
                self.writer.amend(model, session.policy.config(), str(session.positions))
        self.writer.write_step(snapshot, table, images)


def _model(session: StreamSession, grid: tuple[int, int]) -> ModelInfo:
    described = session.lab.describe()
    return ModelInfo(
        name=str(described["model"]),
        family=str(described["family"]),
        layers=int(described["layers"]),
        query_heads=int(described["query_heads"]),
        kv_heads=int(described["kv_heads"]),
        head_dim=int(described["head_dim"]),
        tokens_per_frame=grid[0] * grid[1],
        grid=grid,
        revision=described["revision"],
    )

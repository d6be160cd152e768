"""From a session to its recording: the manifest, and what each step hands to the writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hermes_lab.recording.attention import RowFilter
from hermes_lab.recording.format import Manifest, ModelInfo, SourceInfo
from hermes_lab.recording.writer import RecordingWriter
from hermes_lab.snapshot import Snapshot

if TYPE_CHECKING:
    from hermes_lab.session import StreamSession


def open_writer(
    session: StreamSession,
    folder: Path,
    source: Mapping[str, Any],
    fps: float | None,
    overwrite: bool,
) -> RecordingWriter:
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
    return RecordingWriter(folder, manifest, level=level, rows=RowFilter(), overwrite=overwrite)


def record_step(
    session: StreamSession,
    writer: RecordingWriter,
    snapshot: Snapshot,
    images: Sequence[npt.NDArray[np.uint8]] | None,
) -> None:
    """Write one step; the first one also tells the manifest the token grid of a frame and the budget.

    Raises:
        RecordingError: the disk is full or refuses.
    """
    if writer.manifest.model.tokens_per_frame == 0:
        table = session.table
        new = snapshot.new_ids
        rows, cols = table.column("row")[new], table.column("col")[new]
        if len(new):
            model = _model(session, (int(rows.max()) + 1, int(cols.max()) + 1))
            writer.amend(model, session.policy.config(), str(session.positions))
    writer.write_step(snapshot, session.table, images)


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

"""The recordings of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hermes_lab.brief import Brief
from hermes_lab.errors import RecordingError
from hermes_lab.recording.format import MANIFEST, Manifest, PartKind
from hermes_lab.recording.opening import RecordingStatus, event_parts, read_manifest, status_of
from hermes_lab.recording.summary import folder_bytes


@dataclass(frozen=True, repr=False)
class RecordingEntry(Brief):
    """One recording, found without reading its parts; `manifest` is None where `problem` says why.

    Attributes:
        steps, answers: parts on disk.
        size_bytes: of all files.
    """

    folder: Path
    manifest: Manifest | None
    steps: int
    answers: int
    size_bytes: int
    problem: str | None = None

    @property
    def status(self) -> RecordingStatus | None:
        """As `Recording.status`; None where the manifest cannot be read."""
        return None if self.manifest is None else status_of(self.folder, self.manifest)


def list_recordings(folder: str | Path) -> list[RecordingEntry]:
    """Recordings directly inside a folder (or the folder itself), newest first, then by name.

    A folder in it that cannot be looked into may be one, and is listed with its problem.

    Raises:
        RecordingError: the folder itself cannot be looked into.
    """
    folder = Path(folder)
    try:
        if (folder / MANIFEST).exists():
            return [_entry(folder)]
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise RecordingError(f"The folder {folder} cannot be read: {error.strerror}.") from error
    found = [entry for path in inside if (entry := _entry_or_problem(path)) is not None]
    return sorted(found, key=lambda e: e.manifest.created if e.manifest else "", reverse=True)


def _entry_or_problem(path: Path) -> RecordingEntry | None:
    """The recording at a path, None where there is none."""
    try:
        return _entry(path) if (path / MANIFEST).exists() else None
    except OSError as error:
        problem = f"The recording {str(path)!r} cannot be read: {error.strerror}."
        return RecordingEntry(path, None, 0, 0, 0, problem)


def _entry(folder: Path) -> RecordingEntry:
    manifest = problem = None
    kinds: list[PartKind] = []
    try:
        kinds = [kind for _, kind, _ in event_parts(folder)]
        manifest = read_manifest(folder)
    except RecordingError as error:
        problem = str(error)
    return RecordingEntry(
        folder,
        manifest,
        kinds.count("step"),
        kinds.count("answer"),
        folder_bytes(folder),
        problem,
    )

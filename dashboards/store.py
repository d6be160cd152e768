"""The recordings that pages may read: those directly inside one folder, and the bundled one. No other path."""

from __future__ import annotations

import io
import os
import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dashboards.state import BUNDLED
from hermes_lab.errors import RecordingError, nearest
from hermes_lab.recording import Recording, RecordingEntry, list_recordings
from hermes_lab.recording.format import MANIFEST, PARTS

FOLDER_VARIABLE = "HERMES_LAB_RECORDINGS"
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,79}")


@dataclass(frozen=True)
class Store:
    """One folder of recordings."""

    root: Path

    @classmethod
    def from_environment(cls) -> Store:
        """The folder that the command line named, or `runs` where the app was started."""
        return cls(Path(os.environ.get(FOLDER_VARIABLE, "runs")).resolve())

    def entries(self) -> list[RecordingEntry]:
        """Recordings in the folder, newest first; links out of it are left out."""
        return [e for e in list_recordings(self.root) if self._inside(e.folder)]

    def names(self) -> list[str]:
        """What can be opened: the bundled recording first, where there is one."""
        own = [e.folder.name for e in self.entries() if e.manifest is not None]
        return [*([BUNDLED] if bundled_path() else []), *own]

    def path(self, name: str) -> Path:
        """The folder of a recording by name.

        Raises:
            RecordingError: there is none of that name, or the name tries to leave the folder.
        """
        if name == BUNDLED and (found := bundled_path()):
            return found
        folder = self.root / name
        if not _NAME.fullmatch(name) or not self._inside(folder):
            raise RecordingError(
                f"{name!r} is not the name of a recording in {str(self.root)!r}; choose one from the list."
            )
        if not (folder / MANIFEST).is_file():
            raise RecordingError(f"There is no recording {name!r}; {nearest(name, self.names())}")
        return folder

    def new_path(self, name: str) -> Path:
        """Where a new recording of that name goes.

        Raises:
            RecordingError: the name is no plain file name, or is taken.
        """
        if not _NAME.fullmatch(name) or name == BUNDLED:
            raise RecordingError(
                f"{name!r} cannot name a recording; use letters, digits, dots, dashes and underscores."
            )
        if (self.root / name).exists():
            raise RecordingError(f"There is a recording {name!r} already; choose another name.")
        return self.root / name

    def delete(self, name: str) -> None:
        """Remove a recording from disk; anything in its folder that is not part of a recording is refused.

        Raises:
            RecordingError: unknown, bundled, or a folder that holds something else.
        """
        if name == BUNDLED:
            raise RecordingError("The bundled recording belongs to the package; it is not deleted.")
        folder = self.path(name)
        foreign = [p.name for p in folder.iterdir() if p.name not in (MANIFEST, PARTS)]
        if foreign:
            raise RecordingError(
                f"{str(folder)!r} holds {foreign[0]!r}, which is not part of a recording; delete it by hand."
            )
        shutil.rmtree(folder)

    def zipped(self, name: str) -> bytes:
        """A recording as a zip file whose single folder has the recording's name.

        Raises:
            RecordingError: as for `path`.
        """
        folder = self.path(name)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    archive.write(path, Path(name) / path.relative_to(folder))
        return out.getvalue()

    def _inside(self, folder: Path) -> bool:
        return folder.resolve().parent == self.root.resolve()


def bundled_path() -> Path | None:
    """The recording that travels with the package."""
    from hermes_lab import bundled

    path = bundled.recording_path()
    return path if (path / MANIFEST).is_file() else None


def stamp(folder: Path) -> tuple[str, int, int]:
    """Something that changes when a recording grows or is replaced, to know when to read it again."""
    parts = folder / PARTS
    count = sum(1 for _ in parts.iterdir()) if parts.is_dir() else 0
    return str(folder), count, (folder / MANIFEST).stat().st_mtime_ns


def open_recording(folder: Path) -> Recording:
    """Open a recording, with whatever can be saved of a damaged one."""
    return Recording.open(folder, salvage=True)

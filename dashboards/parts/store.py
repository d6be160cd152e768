"""The recordings that pages may read: those directly inside one folder, and the bundled one. No other path."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dashboards.parts.plain_text import called, portable
from dashboards.parts.state import BUNDLED
from hermes_lab.errors import RecordingError, nearest
from hermes_lab.recording import Recording, RecordingEntry, list_recordings
from hermes_lab.recording.format import MANIFEST, PARTS, TEMPORARY_SUFFIX, parse_part_name

FOLDER_VARIABLE = "HERMES_LAB_RECORDINGS"


@dataclass(frozen=True)
class Store:
    """One folder of recordings."""

    root: Path

    @classmethod
    def from_environment(cls) -> Store:
        """The folder that the command line named, or `runs` where the app was started."""
        return cls(Path(os.environ.get(FOLDER_VARIABLE, "runs")).resolve())

    def folders(self) -> dict[str, Path]:
        """Recordings in the folder, by the names that pages call them by; links out of it are left out."""
        try:
            inside = sorted(self.root.iterdir())
        except OSError:
            return {}
        return called(
            (p for p in inside if os.path.isfile(p / MANIFEST) and self._inside(p)), {BUNDLED}
        )

    def listing(self) -> list[tuple[str, RecordingEntry]]:
        """Every recording with its name: the bundled one first, where there is one, then the newest."""
        own = [(name, _entry(folder)) for name, folder in self.folders().items()]
        own.sort(
            key=lambda n: "" if n[1].manifest is None else str(n[1].manifest.created), reverse=True
        )
        bundled = bundled_path()
        return [*([(BUNDLED, _entry(bundled))] if bundled else []), *own]

    def names(self) -> list[str]:
        """What can be opened, in the order of `listing`."""
        return [name for name, entry in self.listing() if entry.manifest is not None]

    def path(self, name: str) -> Path:
        """The folder of a recording by name.

        Raises:
            RecordingError: there is none of that name.
        """
        folders = self.folders()
        if name == BUNDLED and (found := bundled_path()):
            return found
        if name not in folders:
            raise RecordingError(
                f"There is no recording {name!r} in {str(self.root)!r}; {nearest(name, folders)}"
            )
        return folders[name]

    def reserve(self, name: str) -> Path:
        """A new, empty folder for a recording, which nobody else is given: of that name, or with a number after it.

        Raises:
            RecordingError: the folder of recordings cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            folder, number = self.root / name, 1
            while not _made(folder):
                number += 1
                folder = self.root / f"{name}-{number}"
        except OSError as error:
            raise RecordingError(
                f"{str(self.root)!r} cannot be written ({error.strerror or error}); start the dashboard with another "
                "folder for --recordings, or switch recording off."
            ) from error
        return folder

    def delete(self, name: str) -> None:
        """Remove a recording from disk; anything in its folder that is not part of a recording is refused.

        Raises:
            RecordingError: unknown, bundled, or a folder that holds something else.
        """
        if name == BUNDLED:
            raise RecordingError("The bundled recording belongs to the package; it is not deleted.")
        folder = self.path(name)
        _, foreign = _sorted_out(folder)
        if foreign:
            raise RecordingError(
                f"{str(folder)!r} holds {str(foreign[0])!r}, which is not part of a recording; delete it by hand."
            )
        shutil.rmtree(folder)

    def zipped(self, name: str) -> bytes:
        """A recording as a zip file whose single folder has the recording's name; links are not followed.

        Raises:
            RecordingError: as for `path`.
        """
        folder = self.path(name)
        out = io.BytesIO()
        parts, _ = _sorted_out(folder)
        with zipfile.ZipFile(
            out, "w", zipfile.ZIP_DEFLATED, compresslevel=1, strict_timestamps=False
        ) as archive:
            for part in parts:
                archive.write(folder / part, Path(portable(name)) / part)
        return out.getvalue()

    def left_out(self, name: str) -> list[Path]:
        """What a recording's folder holds beside the recording, which `zipped` leaves out.

        Raises:
            RecordingError: as for `path`.
        """
        return _sorted_out(self.path(name))[1]

    def _inside(self, folder: Path) -> bool:
        return folder.resolve().parent == self.root.resolve()


def _entry(folder: Path) -> RecordingEntry:
    """What the list says of one recording; trouble with one of them is said there, and spares the others."""
    try:
        (entry,) = list_recordings(folder)
    except (OSError, ValueError) as error:
        return RecordingEntry(folder, None, 0, 0, 0, f"It cannot be read ({error}).")
    return entry


def _made(folder: Path) -> bool:
    """Whether the folder is new; two that ask for one name are not both told so."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _sorted_out(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files of a recording and whatever else lies in its folder, by their paths in it; links are something else.

    What a killed process left half-written is neither.
    """
    own: list[Path] = []
    foreign: list[Path] = []
    inside = sorted(folder.iterdir())
    parts = folder / PARTS
    if parts in inside and parts.is_dir() and not parts.is_symlink():
        inside.remove(parts)
        inside += sorted(parts.iterdir())
    for path in inside:
        known = path == folder / MANIFEST or (path.parent == parts and parse_part_name(path.name))
        if known and path.is_file() and not path.is_symlink():
            own.append(path.relative_to(folder))
        elif not path.name.endswith(TEMPORARY_SUFFIX) or path.is_symlink():
            foreign.append(path.relative_to(folder))
    return own, foreign


def bundled_path() -> Path | None:
    """The recording that travels with the package."""
    from hermes_lab import bundled

    path = bundled.recording_path()
    return path if (path / MANIFEST).is_file() else None


Stamp = tuple[bytes, int, int]


def stamp(folder: Path) -> Stamp:
    """Something that changes when a recording grows or is replaced, to know when to read it again.

    The folder is in it as bytes: Streamlit keeps no value under a key that is not UTF-8.
    """
    parts = folder / PARTS
    count = sum(1 for _ in parts.iterdir()) if parts.is_dir() else 0
    return os.fsencode(folder), count, (folder / MANIFEST).stat().st_mtime_ns


def open_recording(folder: Path) -> Recording:
    """Open a recording, with whatever can be saved of a damaged one."""
    return Recording.open(folder, salvage=True)

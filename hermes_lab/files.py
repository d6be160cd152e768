"""Paths that people name, and files that are either whole or absent; what the system refuses is one sentence."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from hermes_lab.errors import LabError
from hermes_lab.processes import sweep


def why(error: OSError) -> str:
    """The system's reason, as the end of a sentence."""
    return error.strerror or str(error) or type(error).__name__


def named(text: str | os.PathLike[str]) -> Path:
    """The path that a person named: as it is if something is there, else with `~` as a home folder, if there is one."""
    path = Path(text)
    if not str(path).startswith("~") or os.path.lexists(path):
        return path
    try:
        return path.expanduser()
    except RuntimeError:  # there is no such user
        return path


def looked_up(path: Path, error: type[LabError] = LabError) -> os.stat_result | None:
    """What is at a path, None where nothing is.

    Raises:
        LabError: of the type given, where that cannot be told: a folder on the way may not be entered, the name is
            too long.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
        return None
    except OSError as refused:
        raise error(f"{path} cannot be looked up: {why(refused)}.") from refused


def is_folder(path: Path, error: type[LabError] = LabError) -> bool:
    """Whether a folder is at a path; raises as `looked_up` does."""
    found = looked_up(path, error)
    return found is not None and stat.S_ISDIR(found.st_mode)


def write_whole(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file so that it is there complete or not at all, whatever happens to the process; folders are made.

    Args:
        path: the file; what killed processes left of earlier tries is removed.
        data: all of it.
        durable: wait until the disk has it, so that this also holds when the power fails.

    Raises:
        OSError: the disk is full or refuses; a file that was there before is as it was, and nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    # the beginning of the name, so that a name that just fits does not fail for its temporary file
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file by renaming a finished temporary one into place; a device or a pipe is written as it is.

    Raises:
        LabError: it cannot be written there; a file that was there before is as it was.
    """
    try:
        if _is_special(path):
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
        else:
            data = text.encode("utf-8", "backslashreplace")
            write_whole(path.resolve() if path.is_symlink() else path, data, durable=False)
    except OSError as error:
        raise LabError(f"{path} cannot be written: {why(error)}.") from error


def try_file(path: Path) -> None:
    """Find out, before work whose result goes there, whether a file can be written; missing folders are made.

    Raises:
        LabError: it cannot.
    """
    if is_folder(path):
        raise LabError(f"{path} is a folder; name a file in it.")
    try:
        if not _is_special(path):
            _try((path.resolve() if path.is_symlink() else path).parent)
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise LabError(f"{path} cannot be written: {why(error)}.") from error


def try_folder(path: Path) -> None:
    """Find out, before work whose results go there, whether files can be written in a folder; it is made if missing.

    Raises:
        LabError: they cannot.
    """
    try:
        _try(path)
    except OSError as error:
        raise LabError(f"The folder {path} cannot be written: {why(error)}.") from error


def _is_special(path: Path) -> bool:
    """A device, pipe or socket must not be replaced by a file."""
    found = looked_up(path)
    return found is not None and not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode))


def _try(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".hermes-lab.{os.getpid()}.tmp"
    try:
        probe.write_text("Is there room for a file?")
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)

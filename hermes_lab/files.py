"""Paths that people name, files that are written whole or not at all, and the one way in for files of others.

What the system refuses is one sentence.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from hermes_lab.brief import bytes_text
from hermes_lab.errors import LabError
from hermes_lab.processes import sweep

MOST_NESTED = 64
"""Levels of lists and objects in a JSON file; what reads them takes several frames of the interpreter for each."""


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
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: Path, *, durable: bool = True, tidy: bool = True) -> Generator[Path]:
    """A temporary file to write instead; it takes the file's place when the block ends well.

    Args:
        path, durable: as for `write_whole`.
        tidy: make the folder, and remove what killed processes left there of the same file.

    Raises:
        OSError: as for `write_whole`.
    """
    if tidy:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
    # the beginning of the name, so that a name that just fits does not fail for its temporary file
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}.tmp")
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until the disk has a file.

    Raises:
        OSError: it refuses.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


# --- files of others ------------------------------------------------------------------------
def check_file(
    path: Path, *, at_most: int, links: bool = True, error: type[LabError] = LabError
) -> None:
    """Look at a file before it is opened: a pipe would be waited for, a device may never end.

    Args:
        at_most: bytes.
        links: whether the file may be a symbolic link.

    Raises:
        LabError: of the type given: nothing there, no regular file, a link where none may be, or too large.
    """
    try:
        found = path.stat() if links else path.lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as missing:
        raise error(f"There is no file {path}.") from missing
    except OSError as refused:
        raise error(f"{path} cannot be read: {why(refused)}.") from refused
    if stat.S_ISLNK(found.st_mode):
        raise error(f"{path} is a link, which is not followed here; put the file itself there.")
    if not stat.S_ISREG(found.st_mode):
        raise error(f"{path} is not a file that can be read: it is {_kind(found.st_mode)}.")
    if found.st_size > at_most:
        raise error(_too_large(path, at_most))


def read_bytes(
    path: Path, *, at_most: int, links: bool = True, error: type[LabError] = LabError
) -> bytes:
    """A file that others may have written, at once; takes and raises what `check_file` does."""
    check_file(path, at_most=at_most, links=links, error=error)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(
            os.open(path, flags | (0 if links else getattr(os, "O_NOFOLLOW", 0))), "rb"
        ) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # changed since
                raise error(f"{path} is not a file that can be read.")
            data = file.read(at_most + 1)
    except OSError as refused:
        raise error(f"{path} cannot be read: {why(refused)}.") from refused
    if len(data) > at_most:
        raise error(_too_large(path, at_most))
    return data


def read_text(
    path: Path, *, at_most: int, links: bool = True, error: type[LabError] = LabError
) -> str:
    """A text file in UTF-8; takes and raises what `check_file` does."""
    data = read_bytes(path, at_most=at_most, links=links, error=error)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        raise error(
            f"{path} is not text in UTF-8 (byte {wrong.start} of it); it is damaged or another kind of file."
        ) from wrong


def read_json(
    path: Path, *, at_most: int, links: bool = True, error: type[LabError] = LabError
) -> Any:
    """What a JSON file holds; takes and raises what `check_file` does, and raises as `parse_json` does."""
    text = read_text(path, at_most=at_most, links=links, error=error)
    return parse_json(text, str(path), error)


def parse_json(text: str | bytes, what: str, error: type[LabError] = LabError) -> Any:
    """What a JSON text holds.

    Args:
        what: where it comes from, as the sentence begins.

    Raises:
        LabError: of the type given: not JSON, or nested more than `MOST_NESTED` levels deep.
    """
    try:
        value = json.loads(text)
    except RecursionError as deep:
        raise error(_too_deep(what)) from deep
    except ValueError as wrong:
        raise error(f"{what} is not valid JSON: {wrong}.") from wrong
    if depth_beyond(value, MOST_NESTED):
        raise error(_too_deep(what))
    return value


def depth_beyond(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in more than so many levels; found without recursion."""
    within = [value]
    for _ in range(levels):
        within = [
            child
            for one in within
            if isinstance(one, (list, dict))
            for child in (one.values() if isinstance(one, dict) else cast("list[Any]", one))
            if isinstance(child, (list, dict))
        ]
        if not within:
            return False
    return True


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or a socket"


def _too_large(path: Path, at_most: int) -> str:
    return f"{path} is larger than the {bytes_text(at_most)} that such a file may have."


def _too_deep(what: str) -> str:
    return f"{what} cannot be used: its lists and objects are nested more than {MOST_NESTED} levels deep."


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

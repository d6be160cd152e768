"""Room for a new recording: what may be in its folder already, and what of that may go."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from hermes_lab.errors import RecordingError
from hermes_lab.recording.format import (
    MANIFEST,
    PARTS,
    TEMPORARY_SUFFIX,
    Manifest,
    parse_part_name,
)
from hermes_lab.recording.opening import read_manifest
from hermes_lab.recording.owner import Claim, in_use


def make_room(folder: Path, overwrite: bool) -> Claim:
    """Claim a folder for this process, made or cleared of an earlier recording and of nothing else.

    What a start that was killed left behind is cleared in any case.

    Raises:
        RecordingError: the folder is in use, holds a recording, or something that is not part of one.
        OSError: it cannot be made, read or cleared.
    """
    _refuse_what_is_there(folder, overwrite)
    _refuse_use(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        claim = Claim(folder)
    except BlockingIOError as error:
        raise RecordingError(_in_use(folder)) from error
    try:
        _refuse_what_is_there(folder, overwrite)  # somebody may have been here in the meantime
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except BaseException:
        claim.release()
        raise
    return claim


def is_temporary(name: str) -> bool:
    """Whether a file of that name is one that was being written when its process ended."""
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)


def foreign(folder: Path) -> list[str]:
    """What is in a recording folder and not part of a recording, by its path in the folder."""
    found: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.name == PARTS and path.is_dir() and not path.is_symlink():
            inside = (entry.name for entry in sorted(path.iterdir()))
            found += [
                os.path.join(PARTS, name)
                for name in inside
                if not (parse_part_name(name) or is_temporary(name))
            ]
        elif path.name != MANIFEST and not is_temporary(path.name):
            found.append(path.name)
    return found


def _refuse_what_is_there(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RecordingError(
            f"{str(folder)!r} is a file; name a folder to record into with --record."
        )
    if _is_leftover(folder):
        return
    if not overwrite:
        raise RecordingError(
            f"The recording folder {str(folder)!r} exists and is not empty; "
            "name another one with --record, or replace it with --overwrite."
        )
    if names := foreign(folder):
        raise RecordingError(
            f"{str(folder)!r} holds {names[0]!r}, which is not part of a recording; "
            "it is not overwritten, so name another folder with --record."
        )


def _refuse_use(folder: Path) -> None:
    """Where there are no locks, the manifest must say whether somebody writes there."""
    manifest = _manifest(folder)
    owner = None if manifest is None or manifest.status != "open" else manifest.owner
    if owner is None:
        return
    here = owner.host == platform.node()
    used = in_use(folder, owner)
    if used or (used is None and not here):
        if here and owner.pid == os.getpid():
            return  # whoever opens a second one himself means it
        raise RecordingError(_in_use(folder))


def _is_leftover(folder: Path) -> bool:
    """Whether nothing is there but what a start leaves that was killed before it had a manifest."""
    for path in folder.iterdir():
        if path.name == PARTS and path.is_dir() and not path.is_symlink():
            if not all(is_temporary(entry.name) for entry in path.iterdir()):
                return False
        elif not is_temporary(path.name):
            return False
    return True


def _manifest(folder: Path) -> Manifest | None:
    """The manifest that is there, if it can be read."""
    try:
        return read_manifest(folder)
    except RecordingError:
        return None


def _in_use(folder: Path) -> str:
    manifest = _manifest(folder)
    owner = None if manifest is None else manifest.owner
    who = "another process" if owner is None else f"process {owner.pid} on {owner.host!r}"
    return (
        f"The recording folder {str(folder)!r} is being written by {who}; "
        "wait until that has ended, or name another folder with --record."
    )

"""Who is writing into a recording folder: noted in its manifest, and locked where the system has locks.

The lock is on the folder itself: it leaves no file behind, and it goes when its process goes, however that ends.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import weakref
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

from hermes_lab.processes import is_running
from hermes_lab.recording.format import Owner

if sys.platform != "win32":
    import fcntl

_WAIT_S = 0.5  # a reader looks at a lock by holding it for a moment


def this_process() -> Owner:
    """A new owner: this process, with a token that nobody else has."""
    return Owner(os.getpid(), platform.node(), uuid4().hex)


class Claim:
    """A folder that this process writes into, until it is released or forgotten.

    A second claim of the same process takes the folder over; its first one is then told by the manifest, in which
    another token stands.

    Raises:
        BlockingIOError: another process writes there.
        OSError: the folder cannot be opened.
    """

    _all: ClassVar[weakref.WeakValueDictionary[str, Claim]] = weakref.WeakValueDictionary()

    def __init__(self, folder: Path) -> None:
        self.pid = os.getpid()
        key = str(folder.resolve())
        if (earlier := self._all.get(key)) is not None:
            earlier.release()
        descriptor = _locked(folder)
        self._lock = None if descriptor is None else weakref.finalize(self, os.close, descriptor)
        self._all[key] = self

    def release(self) -> None:
        """Let others write there; a second time it does nothing."""
        if self._lock is not None:
            self._lock()

    @classmethod
    def release_all(cls) -> None:
        """In a child process: the locks are its parent's, and must not outlive it here."""
        for claim in list(cls._all.values()):
            claim.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Claim.release_all)


def in_use(folder: Path, owner: Owner | None) -> bool | None:
    """Whether a process is writing into a folder now; None where that cannot be known.

    Args:
        owner: whom the manifest names; None where an older version wrote it.
    """
    here = owner is not None and owner.host == platform.node()
    try:
        descriptor = _open(folder)
        if descriptor is not None:
            try:
                _lock(descriptor, shared=True)
            finally:
                os.close(descriptor)
            return False if here else None  # whoever wrote it elsewhere may not see our locks
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks, or a folder that may not be read
        pass
    return is_running(owner.pid) if owner is not None and here else None


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the lock of a folder; None where there are no locks."""
    try:
        descriptor = _open(folder)
    except PermissionError:  # a folder that may be written but not read
        return None
    if descriptor is None:
        return None
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            _lock(descriptor, shared=False)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise
            time.sleep(0.02)
        except OSError:
            os.close(descriptor)
            return None


def _open(folder: Path) -> int | None:
    return None if sys.platform == "win32" else os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def _lock(descriptor: int, *, shared: bool) -> None:
    if sys.platform != "win32":
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)

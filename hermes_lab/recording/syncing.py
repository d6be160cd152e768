"""Have the disk keep what was written, behind the back of who wrote it.

A file that was renamed into place outlives its process at once. To outlive a power failure the disk must have
it too, and waiting for that takes longer than all else that recording a step does.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path


class Syncer:
    """Syncs one file at a time; the next one waits, so that never more than one is not yet on disk."""

    def __init__(self) -> None:
        self._worker: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def wait(self) -> None:
        """Wait until the disk has everything.

        Raises:
            OSError: the disk refused the file before; it is told once.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def start(self, path: Path) -> None:
        """Sync a file, after `wait`."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "recording-sync")
        self._pending = self._worker.submit(_sync, path)

    def close(self) -> None:
        """Wait, and let the thread go.

        Raises:
            OSError: as `wait`.
        """
        try:
            self.wait()
        finally:
            if self._worker is not None:
                self._worker.shutdown()
                self._worker = None


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)

"""The folder of a recording that is being written: numbered parts, the manifest, and nobody else's hands on them."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hermes_lab.errors import RecordingError
from hermes_lab.recording.format import MANIFEST, PARTS, Manifest, part_name
from hermes_lab.recording.owner import this_process
from hermes_lab.recording.parts import write_whole
from hermes_lab.recording.room import make_room
from hermes_lab.recording.syncing import Syncer

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class WriteRefusedError(RecordingError):
    """The disk is at fault, not what was to be written: the same call may succeed later."""


@dataclass(frozen=True)
class Written:
    """What is in its place; steps and answers share one running number."""

    steps: int = 0
    answers: int = 0
    bytes: int = 0

    def and_one(self, kind: Literal["step", "answer"], size: int) -> Written:
        """One part more."""
        return Written(
            self.steps + (kind == "step"), self.answers + (kind == "answer"), self.bytes + size
        )


class Journal:
    """Appends parts; what a call was given is in its place when it returns, or not at all when it raises.

    All of its work is done in one thread (see `syncing`), so parts are numbered one after the other whoever calls,
    and an interrupted call finishes in the background.

    Args:
        folder: is made; must be empty or absent unless `overwrite`.
        manifest: written at once, with this process as owner.

    Attributes:
        manifest: as it stands on disk.
        written: what is in its place.

    Raises:
        RecordingError: the folder is in the way, in use, or cannot be written.
    """

    def __init__(self, folder: Path, manifest: Manifest, overwrite: bool) -> None:
        self.folder = folder
        self.manifest = replace(manifest, owner=this_process())
        self.written = Written()
        self.closed = False
        self._lost = False
        self._syncer = Syncer()
        self._lock = threading.RLock()
        text = self.manifest.to_json()
        try:
            self._claim = make_room(folder, overwrite)
            try:
                # in the thread already: from now on no Ctrl-C comes in the way of its start
                self._syncer.run(lambda: write_whole(folder / MANIFEST, text.encode()))
                (folder / PARTS).mkdir()
            except BaseException:
                self._claim.release()
                raise
        except OSError as error:
            raise RecordingError(
                f"The recording folder {str(folder)!r} cannot be written "
                f"({error.strerror or error}); name another one with --record."
            ) from error

    def append(
        self,
        kind: Literal["step", "answer"],
        data: bytes,
        then: Callable[[], None],
        pictures: bytes | None = None,
    ) -> None:
        """Write a part under the next number.

        Args:
            then: called when it is in its place, before anything else can happen to the recording.
            pictures: the part of kind "frames" that goes with it.

        Raises:
            WriteRefusedError: the disk refuses this part or, again, the one before.
            RecordingError: the recording is closed, was replaced, or belongs to another process.
        """

        def work() -> None:
            number = self.written.steps + self.written.answers
            parts = self.folder / PARTS
            frames = parts / part_name(number, "frames")
            self._check_ours()
            self._syncer.settle()
            if pictures is not None:
                write_whole(frames, pictures, durable=False)  # pictures are not worth a wait
            try:
                self._syncer.write(parts / part_name(number, kind), data)
            except OSError:
                frames.unlink(missing_ok=True)
                raise
            self.written = self.written.and_one(kind, len(data) + len(pictures or b""))
            then()

        self._do(work)

    def rewrite(self, manifest: Manifest) -> None:
        """Replace the manifest.

        Raises:
            RecordingError: as for `append`.
        """

        def work() -> None:
            self._check_ours()
            self._put(manifest)

        self._do(work)

    def close(self, manifest: Manifest) -> None:
        """Write the last manifest and let the folder go; what was closed already, or is a parent's, is left alone.

        Raises:
            RecordingError: as for `append`.
        """
        if self._claim.pid != os.getpid():
            return

        def work() -> None:
            try:
                self._check_ours()
                self._syncer.settle()
                self._put(replace(manifest, owner=None))
            finally:
                self.closed = True
                self._claim.release()

        with self._lock:
            self._syncer.drain()
            if self.closed:
                return
            try:
                self._do(work)
            finally:
                if self.closed:
                    self._syncer.close()

    def drain(self) -> None:
        """Wait for a call that was interrupted and finishes in the background."""
        self._syncer.drain()

    def check_open(self) -> None:
        """Wait as `drain` does, then see that something may be written.

        Raises:
            RecordingError: the recording is closed, or belongs to a parent of this process.
        """
        if self._claim.pid != os.getpid():
            raise RecordingError(
                f"The recording {str(self.folder)!r} belongs to process {self._claim.pid}, not to its child; "
                "record the child's stream into a folder of its own."
            )
        self._syncer.drain()
        if self.closed:
            raise RecordingError(
                f"The recording {str(self.folder)!r} is closed; start another one to go on recording."
            )

    def _put(self, manifest: Manifest) -> None:
        write_whole(self.folder / MANIFEST, manifest.to_json().encode())
        self.manifest = manifest

    def _do(self, work: Callable[[], None]) -> None:
        with self._lock:
            self.check_open()
            try:
                self._syncer.run(work)
            except OSError as error:
                raise self._refusal(error) from error

    def _check_ours(self) -> None:
        """Look whether the folder is still the one that was started.

        Raises:
            RecordingError: it was removed, or somebody else records there.
        """
        assert self.manifest.owner is not None
        try:
            text = "" if self._lost else (self.folder / MANIFEST).read_text("utf-8", "replace")
        except (FileNotFoundError, NotADirectoryError):
            text = ""
        if self.manifest.owner.token not in text:
            self._lost = True
            raise RecordingError(
                f"The recording {str(self.folder)!r} was removed or replaced while it was being written "
                f"({self._so_far()} had been saved); record into another folder with --record."
            )

    def _so_far(self) -> str:
        return f"{self.written.steps} steps and {self.written.answers} answers"

    def _refusal(self, error: OSError) -> RecordingError:
        saved = f"{self._so_far()} are saved and readable"
        if self._syncer.unsure is not None:
            saved += ", the last of them not safely on disk yet"
        if error.errno in _FULL_DISK:
            return WriteRefusedError(
                f"The disk is full while recording to {str(self.folder)!r}: {saved}; "
                "free some space, or record elsewhere with --record."
            )
        return WriteRefusedError(
            f"Cannot record to {str(self.folder)!r} ({error.strerror or error}): {saved}; "
            "record elsewhere with --record."
        )

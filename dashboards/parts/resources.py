"""What belongs to one browser session and ends with it: its stream, its temporary files, its open recordings."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from dashboards.parts import keys, state
from dashboards.parts.job import Job, Progress
from dashboards.parts.page_parts import caution, refuse
from dashboards.parts.plain_text import plain
from dashboards.parts.store import Stamp, Store, open_recording, stamp
from hermes_lab.errors import LabError, VideoError
from hermes_lab.recording import Recording, Retention

if TYPE_CHECKING:
    from dashboards.live.worker import StreamSettings, StreamWorker

_LOG = logging.getLogger(__name__)


class SessionResources:
    """The stream and the uploads of one browser session."""

    def __init__(self) -> None:
        self.worker: StreamWorker | None = None
        self.job: Job[Any] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="hermes-lab-")
        self.uploads = Path(self._folder.name)

    def start(self, settings: StreamSettings) -> StreamWorker:
        """Run a stream in place of the one that runs."""
        from dashboards.live.worker import StreamWorker
        from dashboards.parts.models import shared_lab  # torch takes seconds to import

        self.stop()
        self.worker = StreamWorker(settings, shared_lab)
        return self.worker

    def stop(self) -> None:
        """End the stream, if there is one."""
        if self.worker is not None:
            self.worker.stop()
            self.worker = None

    def start_job(self, work: Callable[[Progress], Any]) -> Job[Any]:
        """Run long work in place of what runs."""
        if self.job is not None:
            self.job.cancel()
        self.job = Job(work)
        return self.job

    def keep_upload(self, name: str, data: bytes) -> Path:
        """Write an upload where only this session finds it; earlier uploads are removed.

        Raises:
            VideoError: too large, or no video that can be opened.
        """
        from dashboards.parts.limits import limits
        from hermes_lab import video

        limits().check_bytes(name, len(data))
        for old in self.uploads.iterdir():
            old.unlink()
        suffix = re.sub(r"[^.a-z0-9]", "", Path(name).suffix.lower())[:8]
        path = self.uploads / f"upload{suffix}"
        path.write_bytes(data)
        try:
            with video.open(path, limits=limits()) as source:
                next(iter(source))
        except VideoError as error:
            path.unlink()
            said = str(error).replace(str(path), name).replace(path.name, name)
            raise VideoError(said) from error
        return path

    def close(self) -> None:
        """Stop the stream and the job, and remove every file."""
        self.stop()
        if self.job is not None:
            self.job.cancel()
        self._folder.cleanup()
        _LOG.info("A browser session ended; its stream is stopped and its files are gone.")


@st.cache_resource(scope="session", on_release=SessionResources.close, show_spinner=False)
def session_resources() -> SessionResources:
    """This browser session's stream and files."""
    return SessionResources()


@st.cache_resource(scope="session", max_entries=2, show_spinner=False)  # one to compare with
def _opened(key: Stamp) -> Recording:
    return open_recording(Path(os.fsdecode(key[0])))


def recording_of(name: str) -> Recording:
    """A recording by name, opened once a session, and again when it grew.

    Raises:
        RecordingError: as for `Store.path` and `Recording.open`.
    """
    return _opened(stamp(Store.from_environment().path(name)))


@st.cache_resource(scope="session", max_entries=1, show_spinner=False)  # 190 MB for 10,000 frames
def _retention(key: Stamp) -> Retention:
    return _opened(key).retention()


def retention_of(recording: Recording) -> Retention:
    """A recording's retention arrays, computed once a session."""
    return _retention(stamp(recording.folder))


def being_made(name: str) -> bool:
    """Whether this recording is one that the running stream is about to begin, with a sentence on the page."""
    worker = session_resources().worker
    record = worker.settings.record if worker is not None and worker.alive else None
    if record is None or record.name != name:
        return False
    st.info("The recording of the running stream begins once its model is loaded; look again then.")
    return True


def chosen_recording(view: state.ViewState) -> Recording | None:
    """Let the person choose a recording; None, with a sentence on the page, where there is none to show."""
    names = Store.from_environment().names()
    if not names:
        st.info(
            "There is no recording yet. Run one on the Live page, or with `hermes-lab run --record runs/first`."
        )
        return None
    wanted = view.recording
    if wanted not in names and being_made(wanted):
        return None
    if wanted not in names:
        caution(f"There is no recording {wanted!r} here; showing {names[0]!r} instead.")
        wanted = names[0]
    state.initial(keys.RECORDING, wanted, among=names)
    name = st.selectbox("Recording", names, key=keys.RECORDING)
    if name != view.recording:
        state.change_recording(name)
    try:
        recording = recording_of(name)
    except LabError as error:
        refuse(error)
        return None
    for problem in recording.problems:
        caution(problem)
    if not len(recording.steps):
        st.info(f"The recording {plain(repr(name))} has no step yet.")
        return None
    return recording

"""From what a person names as a source to the frame source that reads it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from hermes_lab.errors import VideoError
from hermes_lab.video.arrays import ArraySource, PictureLike
from hermes_lab.video.camera import open_camera
from hermes_lab.video.container import ContainerSource
from hermes_lab.video.demux import open_file, open_url
from hermes_lab.video.folder import FolderSource
from hermes_lab.video.live import LiveSource
from hermes_lab.video.live_clock import is_clockless
from hermes_lab.video.shown import shown, without_password
from hermes_lab.video.source import FrameSource, Limits, ReadOptions
from hermes_lab.video.world import WorldSource

_URL_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https")

Source = str | os.PathLike[str] | NDArray[np.uint8] | Iterable[PictureLike]


def open_source(
    source: Source,
    *,
    fps: float | None = 1.0,
    max_frames: int | None = None,
    start_s: float = 0.0,
    max_side_px: int | None = None,
    square_pixels: bool = True,
    limits: Limits | None = None,
    timeout_s: float = 10.0,
) -> FrameSource:
    """Open a source of frames and check that it can be read.

    A source is a video file, a folder of images, a camera (`"0"`, `"camera:0"`, or
    `"camera:/dev/video2"`; a folder that is called 0 is `"./0"`), an RTSP, RTMP or HTTP(S) URL, a
    procedural world (`"world:seed=7,frames=120"`), or frames in Python (an array [frames, height,
    width, 3] or an iterable of pictures).

    Args:
        source: what to read.
        fps: frames to take per second of presentation time; None takes every frame. Folders,
            worlds and frames in Python have no times of their own: there it is their spacing.
        max_frames: stop after so many sampled frames.
        start_s: presentation time of the first sample, in seconds from the source's first frame.
        max_side_px: scale frames down until the longer side has at most so many pixels.
        square_pixels: stretch frames whose pixels are not square until they are, as a player
            does; False keeps the stored grid.
        limits: refuse an input above these; None sets no limits.
        timeout_s: how long to wait for a URL or a camera before giving up.

    Raises:
        VideoError: one sentence on what was wrong with the source or an option, and what to do.
    """
    options = ReadOptions(
        fps, max_frames, start_s, max_side_px, square_pixels, Limits() if limits is None else limits
    )
    if isinstance(source, str):
        return _open_named(source, options, timeout_s)
    if isinstance(source, os.PathLike):
        return _open_path(Path(source), options)
    return ArraySource(source, options)


def from_arrays(
    frames: NDArray[np.uint8] | Iterable[PictureLike],
    *,
    fps: float | None = 1.0,
    name: str = "arrays",
    max_frames: int | None = None,
    start_s: float = 0.0,
    max_side_px: int | None = None,
) -> FrameSource:
    """Make a source of frames in Python, `1 / fps` seconds apart.

    Raises:
        VideoError: bad options; while iterating, a frame that is not uint8 RGB.
    """
    return ArraySource(frames, ReadOptions(fps, max_frames, start_s, max_side_px), name=name)


def _open_named(source: str, options: ReadOptions, timeout_s: float) -> FrameSource:
    text = source.strip()
    if not text:
        raise VideoError("The source is empty: name a video file, a folder, a camera or a URL.")
    if text.startswith("world:"):
        return WorldSource(text, options)
    if text.isdecimal() or text.startswith("camera:"):
        camera = text.removeprefix("camera:") or "0"
        return LiveSource(
            partial(open_camera, camera, timeout_s),
            options,
            name=f"camera {shown(camera)}",
            kind="camera",
            timeout_s=timeout_s,
        )
    scheme, separator, rest = source.partition("://")
    if separator and scheme.lower() in _URL_SCHEMES:
        return _open_url(text, options, timeout_s)
    if separator and scheme.lower() == "file":
        return _open_path(_path_of(rest), options)
    if not os.path.lexists(source):
        _check_scheme(text, scheme if separator else text.partition(":")[0], separator)
    return _open_path(_at_home(Path(source)), options)


def _check_scheme(text: str, scheme: str, separator: str) -> None:
    """Refuse what is meant to be an address and is none."""
    if separator:
        raise VideoError(
            f"{without_password(text)} has the unknown scheme {scheme!r}: "
            f"use one of {', '.join(_URL_SCHEMES)}, or a path."
        )
    if scheme.lower() in _URL_SCHEMES and ":" in text:
        raise VideoError(
            f"An address needs two slashes after its scheme: write {scheme}:// and then the host."
        )


def _path_of(file_url: str) -> Path:
    """The path of a `file://` address, as written or with its %20 and the like decoded."""
    text = file_url.removeprefix("localhost")
    return Path(text) if os.path.lexists(text) else Path(unquote(text))


def _at_home(path: Path) -> Path:
    """The path with `~` filled in; as it is where there is no such user (a file may be called that)."""
    try:
        return path if os.path.lexists(path) else path.expanduser()
    except RuntimeError:
        return path


def _open_url(url: str, options: ReadOptions, timeout_s: float) -> FrameSource:
    """A URL whose container declares a duration is recorded video, and so is one of known size in a
    format without times; any other one is live."""
    name = without_password(url)
    opener = partial(open_url, url, timeout_s)
    container = opener()
    stored = is_clockless(container.format.name) and container.size > 0
    if container.duration is not None or stored:
        container.close()
        return ContainerSource(opener, options, name=name, kind="url")
    reopened = iter((container,))
    return LiveSource(lambda: next(reopened), options, name=name, kind="url", timeout_s=timeout_s)


def _open_path(path: Path, options: ReadOptions) -> FrameSource:
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise VideoError(f"{shown(path):.200} cannot be read: {error.strerror}.") from error
    if is_folder:
        return FolderSource(path, options)
    if not exists:
        raise VideoError(f"There is no file {shown(path)}{_near(path)}.")
    return ContainerSource(
        partial(open_file, path, options.limits),
        options,
        name=shown(path.name),
        kind="file",
        path=path,
    )


def _near(path: Path) -> str:
    """The tail of the sentence on a missing file: names in its folder that are close to it."""
    folder = path.parent
    try:
        if not folder.is_dir():
            return f", nor a folder {shown(folder)}"
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return ""
    by_folded = {name.casefold(): shown(name) for name in names}
    close = difflib.get_close_matches(path.name.casefold(), list(by_folded), n=3, cutoff=0.6)
    if not close:
        return ": check the name and the folder"
    return "; near names there: " + ", ".join(by_folded[name] for name in close)

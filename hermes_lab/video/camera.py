"""Cameras by index: which FFmpeg device an index means on each system."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.device import enumerate_input_devices

from hermes_lab.errors import VideoError
from hermes_lab.video.demux import FAULTS, reason


class CameraInput(NamedTuple):
    """What PyAV is asked to open: a device name and the FFmpeg input format that knows it."""

    device: str
    format: str


def camera_input(camera: str, platform: str = sys.platform) -> CameraInput:
    """Name the device of a camera index (or pass a device name through) on this platform.

    Linux uses Video4Linux2, macOS AVFoundation, Windows DirectShow (whose devices have names, so
    that the index counts them in the order in which Windows lists them).

    Raises:
        VideoError: the platform has no known camera interface, or lists no camera of that index.
    """
    numbered = camera.isdecimal()
    if platform.startswith("linux"):
        return CameraInput(f"/dev/video{int(camera)}" if numbered else camera, "v4l2")
    if platform == "darwin":
        return CameraInput(f"{camera}:none", "avfoundation")
    if platform == "win32":
        return CameraInput(f"video={_windows_name(camera) if numbered else camera}", "dshow")
    raise VideoError(f"Cameras cannot be opened on {platform}: give a file, a folder or a URL.")


def open_camera(camera: str, timeout_s: float) -> InputContainer:
    """Open a camera by index or device name.

    Raises:
        VideoError: it is not there, is in use, or may not be used.
    """
    device, input_format = camera_input(camera)
    if input_format == "v4l2" and not Path(device).exists():
        found = ", ".join(str(path) for path in sorted(Path("/dev").glob("video*"))) or "none"
        raise VideoError(
            f"Camera {camera} cannot be opened: there is no {device} (cameras found: {found})."
        )
    try:
        return av.open(
            device,
            mode="r",
            format=input_format,
            timeout=(timeout_s, timeout_s),
            metadata_errors="replace",
        )
    except FAULTS as error:
        raise VideoError(
            f"Camera {camera} ({device}) cannot be opened: {reason(error)}; check that it is plugged "
            "in, not in use by another program, and that this program may use it."
        ) from error


def _windows_name(index: str) -> str:
    cameras = [
        device.name for device in enumerate_input_devices("dshow") if "video" in device.media_types
    ]
    if int(index) >= len(cameras):
        raise VideoError(
            f"Camera {index} cannot be opened: this computer has {len(cameras)} "
            f"(found: {', '.join(cameras) or 'none'})."
        )
    return cameras[int(index)]

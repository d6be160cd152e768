"""Frame sources: video files, folders of images, cameras, URLs, procedural worlds, and arrays.

`video.open("clip.mp4", fps=1).chunks(16)` yields chunks of RGB frames with presentation times.
What gives frames enters; what a model makes of them does not.
"""

from __future__ import annotations

from hermes_lab.errors import VideoError
from hermes_lab.video.opening import from_arrays
from hermes_lab.video.opening import open_source as open
from hermes_lab.video.picture import Picture
from hermes_lab.video.source import Chunk, Frame, FrameSource, Limits
from hermes_lab.video.write import write

__all__ = [
    "Chunk",
    "Frame",
    "FrameSource",
    "Limits",
    "Picture",
    "VideoError",
    "from_arrays",
    "open",
    "write",
]

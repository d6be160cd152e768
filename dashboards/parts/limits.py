"""What an upload, and a form beside it, may ask for at most."""

from __future__ import annotations

from collections.abc import Iterator

from hermes_lab.errors import VideoError
from hermes_lab.video import Chunk, Frame, FrameSource, Limits

LARGEST_UPLOAD_BYTES = 200_000_000
LARGEST_CHUNK_BYTES = 2**30


def limits() -> Limits:
    """Limits of every source that a page opens: 200 MB, 4096 x 2304 pixels, four hours."""
    return Limits(max_bytes=LARGEST_UPLOAD_BYTES, max_pixels=4096 * 2304, max_duration_s=4 * 3600)


def check_chunk(frame: Frame, chunk_frames: int) -> None:
    """Refuse chunks whose frames do not fit beside each other in 1 GiB: they wait at full size until the last one comes.

    Raises:
        VideoError: so many frames of this size take more.
    """
    if frame.image.nbytes * chunk_frames > LARGEST_CHUNK_BYTES:
        high, wide = frame.image.shape[:2]
        most = LARGEST_CHUNK_BYTES // frame.image.nbytes
        raise VideoError(
            f"{chunk_frames} frames of {wide} x {high} pixels at once take more than "
            f"{LARGEST_CHUNK_BYTES / 2**30:g} GiB of memory; choose at most {most} frames per chunk."
        )


def bounded_chunks(source: FrameSource, chunk_frames: int) -> Iterator[Chunk]:
    """`source.chunks(chunk_frames)`, checked at the first frame.

    Raises:
        VideoError: as for `check_chunk`, and for the source.
    """
    waiting: list[Frame] = []
    for frame in source:
        if frame.index == 0:
            check_chunk(frame, chunk_frames)
        waiting.append(frame)
        if len(waiting) == chunk_frames:
            yield Chunk(waiting)
            waiting = []
    if waiting:
        yield Chunk(waiting)

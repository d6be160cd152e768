"""What an upload may ask for at most."""

from __future__ import annotations

from hermes_lab.video import Limits

LARGEST_UPLOAD_BYTES = 200_000_000


def limits() -> Limits:
    """Limits of every source that a page opens: 200 MB, 4096 x 2304 pixels, four hours."""
    return Limits(max_bytes=LARGEST_UPLOAD_BYTES, max_pixels=4096 * 2304, max_duration_s=4 * 3600)

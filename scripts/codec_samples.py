"""Write the one-picture videos with which `hermes-lab doctor` tries each codec: the left half white, the right half black.

python scripts/codec_samples.py

Needs a PyAV whose FFmpeg has all five encoders, as the wheels on PyPI have.
"""

from __future__ import annotations

from typing import Any, cast

import av
import numpy as np

from hermes_lab.environment.codecs import SAMPLES, SIDE_PX

ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"crf": "30"}),
    "hevc": ("libx265", {"crf": "30", "x265-params": "info=0:log-level=none"}),
    "vp9": ("libvpx-vp9", {"crf": "40"}),
    "av1": ("libsvtav1", {"crf": "50", "preset": "10"}),
    "mjpeg": ("mjpeg", {"color_range": "pc"}),
}


def main() -> None:
    """Write all five."""
    picture = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    picture[:, : SIDE_PX // 2] = 255
    SAMPLES.mkdir(exist_ok=True)
    for codec, (encoder, options) in ENCODERS.items():
        with av.open(str(SAMPLES / f"{codec}.mkv"), "w") as file:
            stream = cast(Any, file.add_stream(encoder, rate=1, options=options))
            stream.width = stream.height = SIDE_PX
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            file.mux(stream.encode())


if __name__ == "__main__":
    main()

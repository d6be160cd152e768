"""Which codecs can be read here: one picture of each is decoded. PyAV brings FFmpeg; no ffmpeg program is needed."""

from __future__ import annotations

from pathlib import Path

from hermes_lab.environment.checks import Check, State, first_line, install
from hermes_lab.environment.versions import allowed

SAMPLES = Path(__file__).parent / "samples"
"""One-picture videos, made by `scripts/codec_samples.py`: the left half white, the right half black."""
SIDE_PX = 64
CODECS = ("h264", "hevc", "vp9", "av1", "mjpeg")
NEEDED = "h264"
"""The bundled clip and the videos that `hermes-lab world` writes are H.264."""


def codecs() -> list[Check]:
    """FFmpeg as PyAV has it, and the codecs."""
    # the wheels on PyPI decode all five
    fix = install("av" + allowed().get("av", "")).replace("install", "install --force-reinstall")
    try:
        import av
    except Exception as error:  # a missing shared library surfaces as OSError
        return [Check("PyAV", "broken", first_line(error), "can be imported", fix, True)]
    libraries = {k: ".".join(map(str, v)) for k, v in av.library_versions.items()}
    ffmpeg = Check(
        "FFmpeg", "ok", f"libavcodec {libraries['libavcodec']} in PyAV {av.__version__}; "
        "an ffmpeg program is not needed", facts={"pyav": av.__version__, **libraries},
    )  # fmt: skip
    return [ffmpeg, *(_codec(name, fix) for name in CODECS)]


def _codec(name: str, fix: str) -> Check:
    needed = name == NEEDED
    try:
        decoder = _decode(SAMPLES / f"{name}.mkv")
    except Exception as error:  # whatever happens, this codec cannot be read here
        state: State = "broken" if needed else "absent"
        return Check(name, state, first_line(error), "can be decoded", fix, needed)
    return Check(name, "ok", f"decoded by {decoder}", needed=needed, facts={"decoder": decoder})


def _decode(path: Path) -> str:
    """Name of the decoder that gave the right picture.

    Raises:
        ValueError: it gave another one.
    """
    import av

    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        grey = next(file.decode(stream)).to_ndarray(format="gray")
        middle = SIDE_PX // 2
        left, right = float(grey[:, : middle - 8].mean()), float(grey[:, middle + 8 :].mean())
        if grey.shape != (SIDE_PX, SIDE_PX) or not left > 200 > 60 > right:
            raise ValueError("it decodes to a wrong picture")
        return stream.codec_context.codec.name

"""What ships with the package to look at: a clip, and a small recording of a stream over it."""

from __future__ import annotations

from pathlib import Path


def recording_path() -> Path:
    """Folder of the bundled recording (made by `scripts/bundle_recording.py`)."""
    return Path(__file__).parent / "recording"


def clip_path() -> Path:
    """The bundled clip: two minutes of a procedural world at one frame per second."""
    from hermes_lab.worlds import bundled

    return bundled.clip_path()

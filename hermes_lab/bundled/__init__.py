"""The small recording that ships with the package, so that the dashboard opens on something real at once.

Its files enter, made by a script, and where they lie.
"""

from __future__ import annotations

from pathlib import Path


def recording_path() -> Path:
    """Folder of the bundled recording (made by `scripts/bundle_recording.py`)."""
    return Path(__file__).parent / "recording"

"""The clip that ships with the package: two minutes of a held-out world, with its questions.

Its files enter, made by a command, and where they lie.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from hermes_lab.worlds.questions import Horizon

SEED = 42
FRAMES = 120
FPS = 1.0
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class DemoQuestion:
    """A question to ask when the clip has played for `time_s` seconds, and its right answer."""

    text: str
    answer: str
    time_s: float
    type: str
    horizon: Horizon


def clip_path() -> Path:
    """The video; one frame per second gives exactly the world's frames."""
    return _FOLDER / "clip.mp4"


def truth_path() -> Path:
    """Its events and questions."""
    return _FOLDER / "clip.json"


def demo_questions() -> list[DemoQuestion]:
    """Two questions of each horizon, of six types, spread over the clip."""
    told = json.loads(truth_path().read_text(encoding="utf-8"))["questions"]
    wanted = [
        "now_colour",
        "recent_appeared",
        "long_first",
        "long_colour",
        "recent_left",
        "now_kind",
    ]
    found: list[DemoQuestion] = []
    for place, type_ in enumerate(wanted):
        due = FRAMES * (place + 1) / len(wanted)
        fitting = [q for q in told if q["type"] == type_ and q["answer"] != "none"]
        best = min(fitting, key=lambda q: abs(q["time_frame"] + 1 - due))
        text = str(best["text"]).capitalize() + "?"
        time_s = best["time_frame"] / FPS
        found.append(DemoQuestion(text, best["answer"], time_s, type_, best["horizon"]))
    return sorted(found, key=lambda q: q.time_s)


def rebuild() -> None:
    """Write the two files again from the seed."""
    from hermes_lab.worlds.export import export

    made = export(SEED, FRAMES / FPS / 60, _FOLDER, fps=FPS)
    made.video.replace(clip_path())
    made.questions.replace(truth_path())

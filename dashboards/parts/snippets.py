"""The Python that pages offer to copy: each text names everything it uses and runs as it stands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WORKBENCH = """import sys

from hermes_lab.cli.dashboard import workbench

sys.path.insert(0, str(workbench("dashboards")))  # where the pages' own modules lie
"""


def literal(value: Any) -> str:
    """A value as Python source that needs no import: arrays as lists, and numbers that are none in words."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        inside = ", ".join(literal(v) for v in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, list):
        return "[" + ", ".join(literal(v) for v in value) + "]"
    if hasattr(value, "tolist"):
        return literal(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def stream(
    source: str, model: str, policy: str, *, fps: float = 1.0, chunk_frames: int, max_frames: int | None = None,
    record: str = "", keep_visual: bool = False, imports: Sequence[str] = (),
) -> str:  # fmt: skip
    """Python that feeds a stream to a new `session`.

    Args:
        policy: in one line of text.
        max_frames: where to stop; None feeds all there is.
        record: how the name of a new recording begins, whose `folder` is then defined; "" records nothing.
        imports: further lines of the form `from a import b`.
    """
    first = ["import hermes_lab"]
    more = {
        "from hermes_lab import StreamSession, video",
        *imports,
    }
    options, before = "", ""
    if record:
        first = ["from datetime import datetime", "from pathlib import Path", "", *first]
        before, options = folder_line(record), ", record=folder"
    if keep_visual:
        options += ", keep_visual=True"
    end = "" if max_frames is None else f", max_frames={max_frames}"
    return (
        "\n".join([*first, *sorted(more)]) + f"\n\nlab = hermes_lab.load({model!r})\n{before}"
        f"session = StreamSession(lab, {policy!r}, chunk_frames={chunk_frames}{options})\n{_caution(source)}"
        f"for chunk in video.open({source!r}, fps={fps:g}{end}).chunks({chunk_frames}):\n"
        "    session.feed(chunk)\n"
    )


def folder_line(name: str) -> str:
    """Python that names a new folder for a recording; needs `Path` and `datetime`."""
    return f'folder = Path("runs") / f"{name}-{{datetime.now():%Y%m%d-%H%M%S}}"\n'


def contest(
    source: str, model: str, policies: Mapping[str, str], budget_tokens: int, *, chunk_frames: int,
    worlds: Sequence[tuple[int, int, str]], questions: Sequence[str], max_frames: int | None,
) -> str:  # fmt: skip
    """Python that holds the policy lab's comparison again, as `result`."""
    field = "\n".join(f"    {name!r}: policies.get({spec!r})," for name, spec in policies.items())
    streams = "\n".join(f"    World.generate({s}, {f}, {c!r})," for s, f, c in worlds)
    return (
        f"import hermes_lab\n{WORKBENCH}from dashboards.lab import contest\n"
        "from hermes_lab import figures, policies\nfrom hermes_lab.worlds import World\n\n"
        f"contestants = {{\n{field}\n}}\n"
        + (f"worlds = [\n{streams}\n]\n" if worlds else "worlds = []\n")
        + _caution(source)
        + f"result = contest.hold(\n    hermes_lab.load({model!r}), contestants, {budget_tokens},\n"
        f"    source={source!r}, fps=1.0, chunk_frames={chunk_frames}, worlds=worlds,\n"
        f"    questions={literal(tuple(questions))}, max_frames={max_frames},\n"
        "    progress=lambda share, what: print(f'{share:.0%} {what}'),\n)\n"
    )


def report(path: Path, imports: str = "") -> str:
    """Python that reads a report, as `report`."""
    more = f"{imports}\n" if imports else ""
    return (
        f"from pathlib import Path\n{WORKBENCH}from analysis.report import read\n{more}\n"
        f"report = read(Path({str(path)!r}))\n"
    )


def study(path: Path, name: str, imports: str = "") -> str:
    """Python that reads one study of a report, as `result`."""
    return (
        f"{report(path, imports)}result = next(s for s in report.studies if s.study == {name!r})\n"
    )


def filmstrip(
    recording: str, *, step: int | None, layer: int | None, count: int, newest: bool
) -> str:
    """Python that draws the filmstrip of a recording, as `picture`."""
    at = "" if step is None else f"{step}"
    seen = "-1" if step is None else f"list(recording.timeline.step).index({step})"
    return (
        "from PIL import Image\n\nfrom hermes_lab import figures\nfrom hermes_lab.recording import Recording\n\n"
        f"recording = Recording.open({recording!r})\n"
        "retention, table = recording.retention(), recording.tokens\n"
        f"frames_seen = recording.steps[{seen}].frames_seen\n"
        f"frames = figures.choose_frames(frames_seen, {count}, newest={newest})\n"
        'frame, row, col = (table.column(c)[retention.ids] for c in ("frame", "row", "col"))\n'
        f"shares = figures.surviving_share(\n    retention.state({at}), frame, row, col, frames, "
        f"recording.manifest.model.grid, {layer}\n)\n"
        "captions = [f'frame {f}: {s.mean():.0%}' for f, s in zip(frames, shares)]\n"
        "pictures = [recording.thumbnail(f) for f in frames]\n"
        "picture, spans = figures.filmstrip(pictures, shares, captions, height_px=92)\n"
        "Image.fromarray(picture).show()\n"
    )


def _caution(source: str) -> str:
    if Path(source).stem == "upload":
        return "# an upload goes with its browser session: name your own copy of the file here\n"
    if source.startswith("camera:"):
        return "# a camera has no end, and shows something else each time\n"
    return ""

"""Pictures of what each policy keeps on the bundled clip, and docs/policies.md with them.

    python scripts/policy_pictures.py                  all of them, the legend and the page
    python scripts/policy_pictures.py hermes snapkv    these two only, and the page
    python scripts/policy_pictures.py --list           what can be named, and how each is run
    python scripts/policy_pictures.py --only-page      the page again, with the pictures there are

The clip (120 frames, 1920 tokens) is streamed into the model in chunks of 12 frames under every policy at one budget of
512 tokens per layer. A picture has layers from top to bottom (gaps between shallow, middle and deep ones), frames from
left to right, and the share of each frame's tokens that a layer holds at the end, mean over its KV heads. A policy with
a gate before the decoder has a strip above with what enters; one that retrieves tokens or prefills frames again has a
second panel with what a question at the end of the clip reads. Numbers go to kept.json, of which the page makes its words.

Run it again whenever the weights of the model change; it takes half a minute of one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import hermes_lab
from hermes_lab import video
from hermes_lab.engine.passes import Wants
from hermes_lab.errors import LabError, nearest
from hermes_lab.figures.frame_share import Panel, draw, draw_legend, frame_shares, small
from hermes_lab.lab import Lab
from hermes_lab.policies import registry
from hermes_lab.policies.parts.scoring import band_of
from hermes_lab.segment import Segment
from hermes_lab.stream.session import StreamSession
from hermes_lab.tokens import Role
from hermes_lab.worlds import bundled as clip
from scripts import policy_catalogue as catalogue
from scripts import policy_pictured as pictured
from scripts.policy_pictured import UNPICTURED, Band, Pictured, measured

ROOT = Path(__file__).resolve().parents[1]
BUDGET_TOKENS = 512
CHUNK_FRAMES = 12
LARGEST_BYTES = 15_000
BANDS = ("shallow", "middle", "deep")
Ids = list[npt.NDArray[np.int64]]

# Fields other than the budget, where a default is made for longer streams or larger frames than the clip's.
FIELDS = {
    "rekv": "recall_frames=32",  # as many tokens as the budget
    "streammem": "similarity=None",  # its filter leaves so little of this clip that nothing is evicted
    "streamingtom": "frame_tokens=8, recall_tokens=256",  # half of a frame's 16, half of the budget
    "instant": "inner=hermes",
    "with_budget": "inner=snapkv, weights=(1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 2, 2), by=layer",
    "shared_heads": "inner=snapkv",
    "prefiltered": "inner=hermes, gate=every_nth",
    "banded": "shallow=fifo, middle=h2o, deep=uniform",
    "layered": "parts=(" + ", ".join(['"fifo"', '"uniform"'] * 6) + ")",
    "composed": 'parts=("uniform(budget_tokens=600)", "snapkv")',
}


def specs() -> dict[str, str]:
    """How each pictured policy is asked for."""
    found: dict[str, str] = {}
    for name in registry.BUILTIN:
        if name not in UNPICTURED:
            budget = "" if name == "full" else f"budget_tokens={BUDGET_TOKENS}"
            inside = ", ".join(filter(None, (budget, FIELDS.get(name))))
            found[name] = f"{name}({inside})" if inside else name
    return found


def encoded(lab: Lab) -> list[Segment]:
    """The clip's chunks after the vision tower, so that every policy takes them as they are."""
    session = StreamSession(lab, "full", chunk_frames=CHUNK_FRAMES, keep_visual=True)
    with video.open(clip.clip_path(), fps=1, max_side_px=96) as source:
        for chunk in source.chunks(CHUNK_FRAMES):
            session.feed(chunk)
    return [chunk.segment for chunk in session.stream.chunks]


def question() -> str:
    """What is asked at the end, and what `oracle` knows in advance: of the clip's beginning."""
    return next(q.text for q in clip.demo_questions() if q.type == "long_first")


def visual_ids(session: StreamSession, layers: Ids) -> Ids:
    """Only the frames' own tokens: no prompt, markers, tokens made by a merge, or question."""
    role = session.table.column("role")
    found: Ids = []
    for ids in layers:
        wanted = (ids >= 0) & (role[np.clip(ids, 0, len(role) - 1)] == Role.VISUAL)
        rows = [row[own] for row, own in zip(ids, wanted, strict=True)]
        fewest = min(len(row) for row in rows)
        found.append(np.stack([row[len(row) - fewest :] for row in rows]))
    return found


def make(lab: Lab, spec: str, segments: list[Segment]) -> tuple[list[Panel], Pictured]:
    """Stream the clip under one policy and measure what is held."""
    session = StreamSession(lab, spec, chunk_frames=CHUNK_FRAMES, evaluation=True)
    session.future_question = question()
    snapshot = [session.feed_segment(segment) for segment in segments][-1]
    frames, role = snapshot.frames_seen, session.table.column("role")
    tokens = sum(int((np.asarray(s.role) == Role.VISUAL).sum()) for s in segments)
    each = tokens // frames
    # ids beyond the table stand for all tokens of each frame, also of those that never entered
    known = len(session.table)
    frame = np.concatenate([session.table.column("frame"), np.repeat(np.arange(frames), each)])
    of = [band_of(layer, lab.layers) for layer in range(lab.layers)]
    edges = tuple(layer for layer in range(1, lab.layers) if of[layer] != of[layer - 1])
    made = [float((role[ids] == Role.SUMMARY).sum() / len(ids)) for ids in snapshot.held]

    def panel(label: str, layers: Ids) -> Panel:
        return Panel(label, frame_shares(layers, frame, frames, each), edges)

    def bands(layers: Ids) -> tuple[Band, ...]:
        return tuple(
            measured(
                BANDS[number],
                [layers[i] for i in range(lab.layers) if of[i] == number],
                frame,
                frames,
                float(np.mean([made[i] for i in range(lab.layers) if of[i] == number])),
            )
            for number in sorted(set(of))
        )

    held = visual_ids(session, list(snapshot.held))
    panels = [panel("cache", held)]
    entered, read = None, None
    everything = np.flatnonzero(role == Role.VISUAL)
    if len(everything) < tokens:
        entered = len(everything) / tokens
        panels.insert(0, Panel("enters", frame_shares([everything[None]], frame, frames, each)))
    fresh = session.policy.read_plan().recent_frames
    if session.policy.recalls or fresh:
        stream = session.reading_stream()
        session.prefill_question(question(), Wants(), stream)
        seen = visual_ids(session, [state.ids.cpu().numpy() for state in stream.cache.states])
        if fresh:  # whole, as they came: a gate does not act on them, so that not all have ids
            last = known + np.arange((frames - fresh) * each, frames * each)
            older = [[row[frame[row] < frames - fresh] for row in ids] for ids in seen]
            seen = [np.stack([np.concatenate([row, last]) for row in rows]) for rows in older]
        panels.append(panel("question", seen))
        read = bands(seen)
    return panels, Pictured(spec, frames, tokens, entered, fresh, bands(held), read)


def chosen(names: list[str]) -> dict[str, str]:
    """The policies to picture.

    Raises:
        LabError: a name that has no picture.
    """
    known = specs()
    for name in names:
        if name in UNPICTURED:
            raise LabError(f"Policy {name!r} has no picture: it {UNPICTURED[name]}.")
        if name not in known:
            raise LabError(f"There is no policy {name!r} to picture; {nearest(name, known)}")
    return {name: known[name] for name in names} if names else known


def picture(options: argparse.Namespace, console: Console) -> int:
    """Do what was asked for; the exit status.

    Raises:
        LabError: an unknown name or model, or damaged numbers of earlier pictures.
    """
    wanted = chosen(options.names)
    if options.list:
        for name, spec in wanted.items():
            console.print(f"{name:16s}{spec}", markup=False, soft_wrap=True)
        return 0
    if options.only_page:
        catalogue.write(options.page)
        return 0
    folder = catalogue.pictures_of(options.page)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = pictured.load(folder) if options.names else {}
    lab = hermes_lab.load(options.model)
    segments = encoded(lab)
    large: list[str] = []
    for name, spec in track(wanted.items(), "Streaming the clip", console=console):
        panels, numbers[name] = make(lab, spec, segments)
        path = folder / f"{name}.png"
        small(draw(panels)).save(path, optimize=True)
        if path.stat().st_size > LARGEST_BYTES:
            large.append(f"{path.name} ({path.stat().st_size} bytes)")
    small(draw_legend()).save(folder / pictured.LEGEND, optimize=True)
    pictured.save(folder, {name: numbers[name] for name in specs() if name in numbers})
    catalogue.write(options.page)
    size = sum(path.stat().st_size for path in folder.glob("*.png"))
    console.print(
        f"{len(wanted)} made, all together {size / 1000:.0f} kB: {folder}", soft_wrap=True
    )
    console.print(f"Page: {options.page}", soft_wrap=True)
    if large:
        console.print(f"Larger than {LARGEST_BYTES} bytes: {', '.join(large)}.")
    return 1 if large else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="policies to picture; none: all")
    parser.add_argument(
        "--list", action="store_true", help="print how each policy is run, and stop"
    )
    parser.add_argument("--only-page", action="store_true", help="write the page, draw nothing")
    parser.add_argument("--model", default="pocket", help="model to stream into (default: pocket)")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "policies.md",
                        help="page to write; pictures go to images/policies beside it")  # fmt: skip
    torch.set_num_threads(1)
    try:
        return picture(parser.parse_args(), Console(highlight=False))
    except LabError as error:
        Console(stderr=True, highlight=False).print(f"[bold red]Error:[/] {error}", soft_wrap=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())

"""Write down what every policy decides on the default model, bit for bit, and compare two such files.

    python scripts/compare_decisions.py write before.json    # in one checkout
    python scripts/compare_decisions.py write after.json     # in another
    python scripts/compare_decisions.py compare before.json after.json

For every policy that is shipped, and some combinations: after each step of one stream the ids, positions, keys and values
of all layers, and the logits of two questions, as SHA-256. Meant for moves and clean-ups that must change nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

import hermes_lab
from hermes_lab import StreamSession, policies, video
from hermes_lab.errors import LabError
from hermes_lab.lab import Lab

SOURCE, CHUNK, BUDGET = "world:seed=7,frames=40", 8, 96
QUESTIONS = ("what was the first object", "what colour is the cloud now")
MADE_OF_OTHERS = {"banded", "composed", "instant", "kvpress", "layered", "oracle", "prefiltered",
                  "shared_heads", "with_budget", "with_positions", "with_summary"}  # fmt: skip
INNER = f"(budget_tokens={BUDGET})"
COMBINED = (
    f"with_summary(inner=fifo{INNER}, layers=all)",
    f"with_positions(inner=hermes{INNER}, rule=eager)",
    f"prefiltered(inner=hermes{INNER}, gate=every_nth)",
    f"banded(shallow=fifo{INNER}, middle=h2o{INNER}, deep=hermes{INNER})",
    f"instant(inner=hermes{INNER}, recent_frames=2)",
    f"shared_heads(inner=snapkv{INNER})",
    f"with_budget(inner=snapkv{INNER}, weights=(1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 2, 2), by=layer)",
)


def texts() -> list[str]:
    """Policies to run, each with a budget where it takes one; those made of others follow as COMBINED."""
    alone = [name for name in policies.names() if name not in MADE_OF_OTHERS]
    return [*(with_budget(name) for name in alone), *COMBINED]


def with_budget(name: str) -> str:
    """The policy with the common budget, or bare where it takes none."""
    budgeted = f"{name}(budget_tokens={BUDGET})"
    try:
        policies.get(budgeted)
    except LabError:
        policies.get(name)
        return name
    return budgeted


def digest(tensors: Iterable[torch.Tensor | None]) -> str:
    """SHA-256 of tensors' shapes and bytes."""
    seen = hashlib.sha256()
    for tensor in tensors:
        if tensor is not None:
            seen.update(str(tuple(tensor.shape)).encode())
            seen.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()[:16]


def follow(lab: Lab, text: str) -> list[str]:
    """Digests of one policy's stream, step by step, and of the questions at its end."""
    session = StreamSession(lab, text)
    found: list[str] = []
    for chunk in video.open(SOURCE).chunks(CHUNK):
        session.feed(chunk)
        states = session.stream.cache.states
        found.append(digest(t for s in states for t in (s.ids, s.positions, s.keys, s.values)))
    return found + [digest([session.question_logits(q)]) for q in QUESTIONS]


def write(path: Path) -> None:
    """Follow every policy and write the digests."""
    torch.set_num_threads(1)  # sums depend on how many threads share them
    lab = hermes_lab.load("pocket")
    result: dict[str, list[str]] = {}
    for text in texts():
        try:
            result[text] = follow(lab, text)
        except LabError as error:
            result[text] = [f"refused: {error}"]
        print(f"{text}: {result[text][-1]}", file=sys.stderr)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def compare(before: Path, after: Path) -> int:
    """Print what differs; the number of policies that do."""
    old, new = (json.loads(p.read_text("utf-8")) for p in (before, after))
    differ = [name for name in old if new.get(name) != old[name]]
    for name in differ:
        print(f"differs: {name}")
    print(f"{len(old) - len(differ)} of {len(old)} policies decide the same, bit for bit.")
    return len(differ)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("write").add_argument("file", type=Path)
    pair = verbs.add_parser("compare")
    pair.add_argument("before", type=Path)
    pair.add_argument("after", type=Path)
    options = parser.parse_args()
    if options.verb == "write":
        write(options.file)
    else:
        sys.exit(1 if compare(options.before, options.after) else 0)


if __name__ == "__main__":
    main()

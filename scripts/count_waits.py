"""Count how often a feed step waits for the device: copies of tensors to the host, by policy and recording level.

On a GPU each of them makes the processor wait until everything queued before it is done. The model is `pocket` on
the processor, where nothing waits; what is counted are the calls that would: `Tensor.cpu`, `item`, `tolist`, `bool`,
`int` and `float` of a tensor, and `torch.equal`; one inside another (`int` calls `item`) counts once. Not counted:
`nonzero` and indexing with masks, which wait as well, `Tensor.to`, which nobody can tell from a move to the model's
own device here, and calls that PyTorch makes below Python. `pocket` has 12 layers.

    python scripts/count_waits.py --policies full fifo hermes --frames 16
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import hermes_lab
from hermes_lab import StreamSession, video
from hermes_lab.lab import Lab

METHODS = ("cpu", "item", "tolist", "__bool__", "__int__", "__float__", "__index__")
WARM_UP = 3  # steps, until the budget is full and every step decides
STEPS = 3


@contextmanager
def counted() -> Generator[Counter[str]]:
    """Count the calls inside the block, by name."""
    found: Counter[str] = Counter()
    depth = 0

    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal depth
            found[name] += not depth
            depth += 1
            try:
                return original(*args, **options)
            finally:
                depth -= 1

        return call

    places = [*((Tensor, name) for name in METHODS), (torch, "equal")]
    patches = [
        mock.patch.object(owner, name, watched(name, getattr(owner, name)))
        for owner, name in places
    ]
    for patch in patches:
        patch.start()
    try:
        yield found
    finally:
        for patch in patches:
            patch.stop()


def waits(lab: Lab, policy: str, frames: int, record: Path | None) -> Counter[str]:
    """Calls per step once every step decides."""
    session = StreamSession(lab, policy, record=record)
    chunks = video.open(f"world:seed=1,frames={frames * (WARM_UP + STEPS)}").chunks(frames)
    total: Counter[str] = Counter()
    for number, chunk in enumerate(chunks):
        with counted() as found:
            session.feed(chunk)
        if number >= WARM_UP:
            total += found
    session.close()
    return Counter({name: round(count / STEPS) for name, count in total.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policies", nargs="+", default=["full", "fifo", "hermes"])
    parser.add_argument("--frames", type=int, default=16, help="frames per chunk")
    arguments = parser.parse_args()
    lab = hermes_lab.load("pocket")
    print(f"{'policy':20} {'recording':10} {'waits per step':>14}  of which")
    for policy in arguments.policies:
        for level in ("off", "summary"):
            with TemporaryDirectory() as folder:
                record = Path(folder) / "run" if level != "off" else None
                found = waits(lab, policy, arguments.frames, record)
            parts = ", ".join(f"{name} {count}" for name, count in found.most_common())
            print(f"{policy:20} {level:10} {sum(found.values()):14}  {parts}")


if __name__ == "__main__":
    main()

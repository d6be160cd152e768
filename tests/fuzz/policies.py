"""Policies: lines of text from links and manifests, and classes whose methods answer what they like."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hermes_lab
from hermes_lab import StreamSession, policies
from hermes_lab.policies.base import Policy, Scores
from tests.checkpoints import write_checkpoint
from tests.fuzz.cases import Case, Fault, Target
from tests.fuzz.mutators import damaged, damaged_json

_LINES = (
    "hermes(budget_tokens=64)", "h2o(budget_tokens=64)", "uniform(budget_tokens=64, by=token)",
    "banded(shallow=fifo(budget_tokens=8), middle=h2o(budget_tokens=8), deep=hermes(budget_tokens=8))", "hermes:released",
    "random(budget_tokens=64, seed=3)",
)  # fmt: skip
_INSIDE = (
    "9" * 400,
    "-" * 3000,
    "(" * 300,
    "1e999",
    "'\\ud800'",
    "fifo(",
    "budget_tokens=",
    ",",
    "=",
    "\0",
    "None",
)


_ANSWERS: dict[str, Callable[[torch.Tensor], Any]] = {
    "right": lambda x: x, "none": lambda x: None, "text": lambda x: "x", "list": lambda x: x.tolist(),
    "nan": lambda x: x * float("nan"), "inf": lambda x: x + float("inf"), "short": lambda x: x[..., :-1],
    "long": lambda x: torch.cat([x, x], -1), "empty": lambda x: x[..., :0], "ints": lambda x: x.int(),
    "complex": lambda x: x.to(torch.complex64), "bool": lambda x: x > 0, "half": lambda x: x.half(),
    "double": lambda x: x.double(), "sparse": lambda x: x.to_sparse(), "meta": lambda x: x.to("meta"),
    "numpy": lambda x: x.numpy(), "flat": lambda x: x.flatten(), "deep": lambda x: x[None, None],
    "grad": lambda x: x.clone().requires_grad_(), "zero": lambda x: x.new_zeros(()), "huge": lambda x: x * 1e38,
    "raise": lambda x: (_ for _ in ()).throw(RuntimeError("no\nreally")), "exit": lambda x: {}[1],
    "recursion": lambda x: (_ for _ in ()).throw(RecursionError()), "object": lambda x: object(),
    "nested": lambda x: Scores(total=Scores(total=x)),  # type: ignore[arg-type] -- what is wrong is the point
    "writes": lambda x: x.fill_(3),
}  # fmt: skip
_METHODS = ("score", "budgets", "due", "select", "observe")


class Policies(Target):
    """Text, a manifest's entry, or a class."""

    name = "policy"

    def prepare(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.lab = hermes_lab.load(write_checkpoint("llava_onevision", folder / "tiny", layers=2))
        rng = np.random.default_rng(0)
        self.frames = rng.integers(0, 256, (3, 4, 48, 48, 3), dtype=np.uint8)

    def draw(self, rng: random.Random) -> Case:
        kind = rng.random()
        if kind < 0.3:
            line = rng.choice(_LINES)
            at = rng.randrange(len(line))
            line = line[:at] + rng.choice(_INSIDE) + line[at + rng.randint(0, 3) :]
            if rng.random() < 0.3:
                line = damaged(line.encode(), rng).decode("utf-8", "replace")
            return {"line": line.encode("utf-8", "surrogatepass")}
        if kind < 0.5:
            config = policies.get(rng.choice(_LINES)).config()
            return {"config": json.dumps(damaged_json(config, rng)).encode()}
        chosen = {
            rng.choice(_METHODS): rng.choice(sorted(_ANSWERS)) for _ in range(rng.randint(1, 2))
        }
        return {"methods": json.dumps(chosen).encode()}

    def run(self, case: Case, folder: Path) -> None:
        if "line" in case:
            policy: Policy = policies.get(case["line"].decode("utf-8", "replace"))
        elif "config" in case:
            policy = policies.from_config(json.loads(case["config"]))
        else:
            policy = _odd(json.loads(case["methods"]))
        session = StreamSession(self.lab, "fifo(budget_tokens=20)")
        session.feed(self.frames[0])
        before = _held(session)
        try:
            session.set_policy(policy)
            for frames in self.frames[1:]:
                session.feed(frames)
                before = _held(session)
        except Exception:
            if not all(map(np.array_equal, _held(session), before)):
                raise Fault("a refused step changed what is held") from None
            session.set_policy("fifo(budget_tokens=20)")
            session.feed(self.frames[2])
            raise
        if not np.isfinite(
            [chance for _, chance in session.ask("what is it", max_new_tokens=1).top]
        ).all():
            raise Fault("an answer with a chance that is no number")


def _held(session: StreamSession) -> list[np.ndarray]:
    assert session.snapshot is not None
    return [np.array(ids) for ids in session.snapshot.held]


def _odd(methods: dict[str, str]) -> Policy:
    """A policy that keeps the newest, but for methods that answer something else."""

    def score(self: Policy, view: Any) -> Any:
        ages = torch.arange(view.ids.shape[-1], dtype=torch.float32)[None]
        answer = _ANSWERS[methods.get("score", "right")](ages)
        return answer if isinstance(answer, Scores) else Scores(total=answer)

    body: dict[str, Any] = {"name": "odd", "score": score}
    for method in set(methods) - {"score"}:
        made = _ANSWERS[methods[method]]
        body[method] = lambda self, *given, made=made: made(torch.arange(8, dtype=torch.float32))
    kind = dataclass(frozen=True, kw_only=True)(type("Odd", (Policy,), body))
    return kind(budget_tokens=12)

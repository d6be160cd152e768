"""One process of a training run: its model, its clock, and what it shares with the other processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from hermes_lab.training import checkpoint, perception
from hermes_lab.training.build import build
from hermes_lab.training.config import PocketConfig, Recipe
from hermes_lab.training.dense import DenseTargets
from hermes_lab.training.families import family
from hermes_lab.training.optim import Average, Pair
from hermes_lab.training.warm import take_over, take_tower
from hermes_lab.worlds.seeds import train_seed

PROGRESS = "progress.jsonl"


class Process:
    """What both phases of a run need.

    Attributes:
        rank, count: number of this process, and of all.
        heads, dense: readouts that only training has.
        clock: where the run stands.
    """

    def __init__(self, config: PocketConfig, out: Path, rank: int, count: int, device: str) -> None:
        self.config, self.out, self.rank, self.count, self.device = config, out, rank, count, device
        self.recipe: Recipe = config.recipe
        self.family = family(config.family)
        self.model = build(config).to(device)
        torch.manual_seed(config.seed + 1)
        self.heads = perception.Heads(config.text.width).to(device)
        self.dense = DenseTargets(config.text.width, config.text.layers).to(device)
        self.clock = checkpoint.Clock()
        self._loaded = checkpoint.load(out)
        if self._loaded:
            self.clock, groups = self._loaded
            cast(nn.Module, self.model).load_state_dict(groups["model"], strict=False)
            self.heads.load_state_dict(groups["heads"])
            for name, target in self.dense.items():
                target.load_state_dict(groups.get(name, {}), strict=False)
        else:
            if config.init_from:
                take_over(self.model, config.init_from)
            if config.tower_from:
                take_tower(self.model, config.tower_from)
        self.clock.training = config.training
        self.model.tie_weights()

    def restore(self, optimiser: Pair, average: Average | None = None) -> None:
        """Give a phase's optimiser and average what the checkpoint holds for them, once."""
        if self._loaded:
            groups = self._loaded[1]
            optimiser.load(groups.get("optimiser", {}))
            if average and "average" in groups:
                known = {k: v for k, v in groups["average"].items() if k in average.values}
                average.values.update({k: v.to(self.device) for k, v in known.items()})
                average.steps = self.clock.step
        self._loaded = None

    def save(self, optimiser: Pair | None, average: Average | None) -> None:
        """Write a checkpoint, from the first process."""
        if self.rank == 0:
            weights = {k: v for k, v in self.model.state_dict().items() if k != "lm_head.weight"}
            groups = {"model": weights, "heads": dict(self.heads.state_dict())}
            groups |= {name: dict(target.state_dict()) for name, target in self.dense.items()}
            if optimiser:
                groups["optimiser"] = optimiser.state()
            if average:
                groups["average"] = average.values
            checkpoint.save(self.out, self.clock, groups)

    def log(self, **line: Any) -> None:
        """Add a line to the run's progress, from the first process."""
        if self.rank == 0:
            with (self.out / PROGRESS).open("a") as file:
                file.write(json.dumps(line) + "\n")

    def first(self, value: float) -> float:
        """The first process's value, for all."""
        box = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(box, 0)
        return float(box)

    def mean_gradients(
        self, parameters: list[nn.Parameter], extra: Tensor | None = None
    ) -> Tensor | None:
        """Average gradients over processes; `extra` is summed along in the same message."""
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        if self.count == 1:
            return extra
        grads = [cast(Tensor, p.grad) for p in parameters]
        flat = torch.cat([g.flatten() for g in grads] + ([extra] if extra is not None else []))
        dist.all_reduce(flat)
        at = 0
        for g in grads:
            g.copy_(flat[at : at + g.numel()].view_as(g)).div_(self.count)
            at += g.numel()
        return flat[at:] if extra is not None else None

    def done(self, spent_s: float, minutes: float, steps: int) -> float:
        """Share of a phase that is over, by steps where their number is given, else by CPU time."""
        if steps:
            return self.clock.step / steps
        return self.first(spent_s / (minutes * 60)) if minutes else 1.0

    def due(self, silent_s: float, steps: int) -> bool:
        """Whether to report: first and last steps of a counted phase always."""
        return silent_s > self.recipe.report_s or (steps > 0 and self.clock.step in (1, steps))

    def rate(self, share: float) -> float:
        """What rates are multiplied by: warm up, hold, then fall linearly."""
        recipe, start = self.recipe, self.recipe.decay_from
        fall = 1.0 if share < start else max(recipe.lowest_rate, (1 - share) / (1 - start))
        return min(1.0, (self.clock.step + 1) / recipe.warmup_steps) * fall

    def seeds(self, n: int) -> list[int]:
        """The next `n` worlds of this process."""
        start = self.clock.drawn
        self.clock.drawn += n
        return [train_seed(self.config.seed, self.rank, start + i) for i in range(n)]

    def autocast(self) -> torch.autocast:
        """Bfloat16 where it pays."""
        return torch.autocast(self.device, torch.bfloat16)

    def features(
        self, frames: Float[Tensor, "stream frame 3 side side"]
    ) -> Float[Tensor, "stream token width"]:
        """Visual tokens of streams."""
        return self.family.features(self.model, frames.to(self.device)).float()

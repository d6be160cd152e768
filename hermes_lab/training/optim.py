"""Muon for the matrices, AdamW for the rest, and a running average of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

_ITERATIONS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Newton-Schulz quintic of Jordan et al., "Muon" (2024)."""


def _orthogonal(matrices: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly; shape (matrix, rows, columns)."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix updates are orthogonalised, scaled to the RMS of an Adam update.

    Matrices of one shape are orthogonalised together, which is what makes many small layers cheap.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, decay: float = 0.01) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": 0.95, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in cast(list[nn.Parameter], group["params"]):
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, members in by_shape.items():
                self._update(members, shape, group)

    def _update(
        self, members: list[nn.Parameter], shape: torch.Size, group: dict[str, Any]
    ) -> None:
        directions: list[Tensor] = []
        for parameter in members:
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            gradient = cast(Tensor, parameter.grad)
            momentum = cast(Tensor, state["momentum"]).lerp_(gradient, 1 - group["momentum"])
            directions.append(gradient.lerp(momentum, group["momentum"]))
        updates = _orthogonal(torch.stack(directions))
        rate = group["lr"]
        scale = 0.2 * max(shape) ** 0.5
        for parameter, update in zip(members, updates, strict=True):
            parameter.mul_(1 - rate * group["decay"]).add_(update, alpha=-rate * scale)


class Pair:
    """Both optimisers over one set of named parameters, with one schedule and flat, named state."""

    def __init__(
        self, named: dict[str, nn.Parameter], muon_names: set[str], muon_lr: float, adam_lr: float
    ) -> None:
        self.named = named
        self.muon = Muon([p for n, p in named.items() if n in muon_names], muon_lr)
        rest = [p for n, p in named.items() if n not in muon_names]
        self.adam = torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
        self._rates = [(g, float(g["lr"])) for o in (self.muon, self.adam) for g in o.param_groups]

    def step(self, scale: float) -> None:
        """Update with both rates times `scale`, and clear the gradients."""
        for group, rate in self._rates:
            group["lr"] = rate * scale
        for optimiser in (self.muon, self.adam):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Optimiser state by parameter name, as tensors."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.named.items():
            for optimiser in (self.muon, self.adam):
                for key, value in optimiser.state.get(parameter, {}).items():
                    found[f"{name}|{key}"] = cast(Tensor, value).detach().clone()
        return found

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up saved state; parameters without any start fresh."""
        mine = {id(p) for g in self.muon.param_groups for p in g["params"]}
        for key, value in state.items():
            name, slot = key.rsplit("|", 1)
            if name in self.named:
                parameter = self.named[name]
                optimiser = self.muon if id(parameter) in mine else self.adam
                optimiser.state[parameter][slot] = value.clone()


class Average:
    """An exponential running average of parameters; early steps count as a plain mean."""

    def __init__(self, named: dict[str, nn.Parameter], half_life_steps: float) -> None:
        self.named = named
        self.keep = 0.5 ** (1 / half_life_steps)
        self.steps = 0
        self.values = {n: p.detach().clone() for n, p in named.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the current parameters."""
        self.steps += 1
        keep = min(self.keep, self.steps / (self.steps + 10))
        for name, parameter in self.named.items():
            self.values[name].lerp_(parameter, 1 - keep)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange parameters and averages; call again to undo."""
        for name, parameter in self.named.items():
            held = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name] = held

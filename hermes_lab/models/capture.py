"""Reading what passes through a vision tower while it runs, without changing it."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass
class Call:
    """The arguments of a module's last call."""

    module: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def hidden(self) -> Tensor:
        """The tensor that the module was called on, positional or named `hidden_states`."""
        return self.args[0] if self.args else self.kwargs["hidden_states"]


@contextmanager
def watching(module: nn.Module) -> Generator[Call]:
    """Keep the arguments of this thread's last call of the module inside the block."""
    call, owner = Call(module), threading.get_ident()

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == owner:  # other threads may share the model
            call.args, call.kwargs = args, dict(kwargs)

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield call
    finally:
        handle.remove()


def attention_received(
    query: Float[Tensor, "heads patches width"],
    key: Float[Tensor, "heads patches width"],
    scale: float,
) -> Float[Tensor, " patches"]:
    """Attention that each patch receives, averaged over heads and queries; sums to 1."""
    scores = query.float() @ key.float().transpose(-1, -2) * scale
    return torch.softmax(scores, dim=-1).mean(dim=(0, 1))

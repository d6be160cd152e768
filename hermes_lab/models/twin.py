"""A second module tree on the same weights, for tools that wrap modules in place."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


def twin_of(model: nn.Module) -> Any:
    """A copy of a model's modules and configuration whose parameters and buffers are the model's own tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})

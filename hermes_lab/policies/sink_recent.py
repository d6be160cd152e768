"""Attention sinks and a recent window (StreamingLLM)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import LayerView, Policy, Scores, setting


@dataclass(frozen=True, kw_only=True)
class SinkRecent(Policy):
    """Keep the first video tokens and the newest. Source: StreamingLLM (arXiv 2309.17453), §3.2.

    The system prompt, where a model's sinks usually are, is protected anyway: these sinks come on top of it.
    """

    sink_tokens: int = setting(
        4, "Tokens kept from the start of the video (4 in arXiv 2309.17453, Table 2).", minimum=0
    )

    title = "first and newest tokens"
    source = "StreamingLLM (arXiv 2309.17453)"
    licence = "MIT"
    default_positions = "contiguous"  # positions within the cache, §3.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget_tokens is not None and self.budget_tokens <= self.sink_tokens:
            raise PolicyError(
                f"Policy 'sink_recent' needs a budget above its {self.sink_tokens} sink tokens, "
                f"got {self.budget_tokens}; raise budget_tokens or lower sink_tokens."
            )

    def score(self, view: LayerView) -> Scores:
        """Age in temporal order, with the oldest tokens (always the first of the video) on top."""
        order = torch.arange(view.tokens, device=view.ids.device)
        recency = ((order + 1) / view.tokens).expand(view.ids.shape)
        sink = (order < self.sink_tokens).float().expand(view.ids.shape)
        return Scores(recency + sink, {"recency": recency, "sink": sink})

"""StreamingVLM's cache: first text, recent text, and the vision of the last seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hermes_lab.policies.base import (
    UNBOUNDED,
    LayerView,
    Policy,
    Scores,
    setting,
    top_newest,
)
from hermes_lab.policies.parts.blocks import owner_places
from hermes_lab.policies.parts.scoring import lifted
from hermes_lab.tokens import Role


@dataclass(frozen=True, kw_only=True)
class StreamingVLM(Policy):
    """Keep the first and the last tokens of text, and all vision of the last seconds, renumbered without gaps.

    The limit is in seconds; a budget, if set, cuts the oldest of what would stay. The original model is fine-tuned for
    this cache; here only the cache is used. The protected system prompt is not counted among the first text.
    Source: StreamingVLM (arXiv 2510.09608).
    """

    sink_text_tokens: int = setting(512, "First text tokens that stay (paper).", minimum=0)
    recent_text_tokens: int = setting(512, "Last text tokens that stay (paper).", minimum=0)
    window_s: float = setting(16.0, "Seconds of vision that stay (paper).", minimum=0.0)

    title = "first text, recent text, vision of the last seconds"
    source = "StreamingVLM (arXiv 2510.09608)"
    licence = "MIT"
    default_positions = "eager"

    def budgets(self, layers: int) -> list[int] | None:
        """The budget, if any; the limit itself is in seconds."""
        return [self.budget_tokens or UNBOUNDED] * layers

    def due(self, tokens: Sequence[int], budgets: Sequence[int]) -> bool:
        """After every chunk, since time has passed."""
        return True

    def score(self, view: LayerView) -> Scores:
        """Recency, with what the three windows hold above the rest."""
        rank = torch.arange(view.tokens, dtype=torch.float32, device=view.ids.device)
        order = rank.expand(view.ids.shape)
        inside = torch.stack([self._inside(view, head) for head in range(view.ids.shape[0])])
        return Scores(lifted(order, inside), {"recency": order, "inside": inside.float()})

    def select(self, scores: Scores, count: int, view: LayerView) -> Int[Tensor, "head kept"]:
        """What the windows hold, and no more, even where the budget allows it."""
        held = int((scores.terms["inside"] > 0).sum(-1).min())
        return top_newest(scores.total, min(count, held))

    def _inside(self, view: LayerView, head: int) -> Bool[Tensor, " token"]:
        text = view.role[head] == int(Role.TEXT)
        number = text.cumsum(0)
        first = text & (number <= self.sink_text_tokens)
        last = text & (number > int(text.sum()) - self.recent_text_tokens)
        time_s = view.time_s[head][owner_places(view.frame[head])]
        return first | last | (~text & (time_s > view.now_s - self.window_s))

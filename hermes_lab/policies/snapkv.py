"""SnapKV: keep what the newest queries attend to, smoothed over neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import LayerView, Need, Policy, Scores, setting
from hermes_lab.policies.parts.scoring import average_pool, by_head, lifted, newest, rows_of


@dataclass(frozen=True, kw_only=True)
class SnapKV(Policy):
    """Keep the tokens that an observation window of the newest queries attends to, and the window itself.

    s_j = avgpool(mean over the window's queries of a_ij), mean over the query heads of a KV group. The window is
    made of the chunk's last visual tokens, since a stream has no question yet. Source: SnapKV (arXiv 2404.14469).
    """

    window_tokens: int = setting(
        64, "Queries of the observation window, always kept (kvpress 0.5).", minimum=1
    )
    kernel: int = setting(
        5, "Odd width of the average pooling, in tokens (kvpress 0.5).", minimum=1
    )

    title = "attention of the newest queries, pooled"
    source = "SnapKV (arXiv 2404.14469)"
    licence = "Apache-2.0 (kvpress)"
    needs = frozenset({Need.CHUNK_ATTENTION})
    per_head = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise PolicyError(
                f"Field 'kernel' of policy {self.name!r} must be odd, got {self.kernel}."
            )

    @property
    def window_queries(self) -> int | None:
        """The observation window."""
        return self.window_tokens

    def score(self, view: LayerView) -> Scores:
        """Pooled attention of the window on everything before it; the window stands above all."""
        rows = rows_of(view, "chunk")[:, -self.window_tokens :]
        window = min(rows.shape[1], view.tokens)
        before = by_head(average_pool(rows[..., : view.tokens - window].mean(1), self.kernel), view)
        pooled = torch.cat([before, before.new_zeros(before.shape[0], window)], -1)
        inside = newest(window, pooled)
        return Scores(
            lifted(pooled, inside), {"attention": pooled, "window": inside.to(pooled.dtype)}
        )

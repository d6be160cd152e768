"""InfiniPot-V: drop what is redundant in time, keep what carries value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hermes_lab.policies.base import LayerView, Need, Policy, Scores, setting, top_newest
from hermes_lab.policies.parts.scoring import by_head, keys_of, lifted, values_of


@dataclass(frozen=True, kw_only=True)
class InfiniPotV(Policy):
    """Keep the recent frames, past tokens unlike them (TaR), and tokens of large value norm (VaN), per KV head.

    With C the tokens that stay, p those of a frame and r recent frames: TaR gives a past token j the score
    -mean over recent frames t of cos(k_j, k_t at the cell of j); all r p recent tokens and the best (α C - r p) past
    ones stay; VaN, ‖v_j‖₂, fills the rest. Source: InfiniPot-V (arXiv 2506.15745).

    Not offered: the layer-adaptive pooling of VaN, which the released scripts switch off and which needs whole frames.
    """

    grid: Literal["true", "rank"] = setting(
        "true",
        "Cell of a token: as stored with it, or its rank in the cache modulo p as in the released code, which holds only "
        "for frames that were never compressed.",
    )
    tar_share: float = setting(
        0.5,
        "α: share of the kept tokens that TaR may fill, recent frames included (released scripts).",
        minimum=0.0,
        maximum=1.0,
    )
    recent_share: float = setting(
        0.25,
        "Recent frames as a share of the frames' worth of tokens in the cache (released scripts).",
        minimum=0.0,
        maximum=1.0,
    )
    keep_share: float = setting(
        0.75,
        "Tokens left after a compression as a share of the budget (released scripts: 24 of 32 frames); 1: all of it.",
        minimum=0.01,
        maximum=1.0,
    )

    title = "unlike recent frames (TaR), then large values (VaN)"
    source = "InfiniPot-V (arXiv 2506.15745)"
    licence = "no licence file"
    needs = frozenset({Need.KEYS, Need.VALUES})
    per_head = True

    def score(self, view: LayerView) -> Scores:
        """VaN, with the tokens that TaR chooses lifted above all others."""
        keys = F.normalize(keys_of(view), dim=-1)
        heads = view.ids.shape[0]
        frames = max(1, int(self.recent_share * (view.tokens // view.tokens_per_frame)))
        if self.grid == "true":
            recent, cell = _recent(view, frames), _cells(view)
        else:
            back = torch.arange(view.tokens - 1, -1, -1, device=keys.device).expand(heads, -1)
            recent = back < frames * view.tokens_per_frame
            cell = view.tokens_per_frame - 1 - back % view.tokens_per_frame
        redundancy = -_likeness(keys, recent, cell)
        tar = by_head(redundancy, view)
        van = by_head(values_of(view).norm(dim=-1), view)
        chosen = self._chosen(tar, recent, self._left(view.budget(self.budget_tokens), view))
        terms = {"tar": tar, "van": van, "recent": recent.float(), "tar_choice": chosen.float()}
        return Scores(lifted(van, chosen), terms)

    def select(self, scores: Scores, count: int, view: LayerView) -> Int[Tensor, "head kept"]:
        """The best `keep_share` of what the budget allows, once there is more than the budget."""
        return top_newest(scores.total, self._left(count, view))

    def _left(self, budget: int, view: LayerView) -> int:
        if budget >= view.tokens:
            return view.tokens
        return max(1, int(self.keep_share * budget))

    def _chosen(
        self, tar: Float[Tensor, "head token"], recent: Bool[Tensor, "head token"], left: int
    ) -> Bool[Tensor, "head token"]:
        """The recent tokens, and in each head the best past ones of TaR's quota that they leave."""
        quota = left - round((1 - self.tar_share) * left)
        chosen = recent.clone()
        for head in range(tar.shape[0]):
            past = max(0, min(quota - int(recent[head].sum()), int((~recent[head]).sum())))
            best = top_newest(tar[head : head + 1].masked_fill(recent[head], -torch.inf), past)
            chosen[head, best[0]] = True
        return chosen


def _recent(view: LayerView, frames: int) -> Bool[Tensor, "head token"]:
    """Tokens of the newest frames of each head."""
    rows = [row >= row.unique()[-frames:][0] for row in view.frame]
    return torch.stack(rows) & (view.frame >= 0)


def _cells(view: LayerView) -> Int[Tensor, "head token"]:
    """Number of each token's cell, -1 where it has none."""
    columns = int(view.col.max()) + 1
    return torch.where(view.row >= 0, view.row * columns + view.col, -1)


def _likeness(
    keys: Float[Tensor, "kv_head token dim"],
    recent: Bool[Tensor, "head token"],
    cell: Int[Tensor, "head token"],
) -> Float[Tensor, "kv_head token"]:
    """Mean cosine between each (normalised) key and the recent ones of its cell; 0 where there are none."""
    rows: list[Tensor] = []
    for head, head_keys in enumerate(keys):
        own = min(head, cell.shape[0] - 1)
        valid = recent[own] & (cell[own] >= 0)
        sums = head_keys.new_zeros(int(cell.max()) + 2, head_keys.shape[1])
        sums.index_add_(0, cell[own][valid], head_keys[valid])
        counts = head_keys.new_zeros(len(sums)).index_add_(
            0, cell[own][valid], head_keys.new_ones(int(valid.sum()))
        )
        means = (
            sums / counts.clamp_min(1)[:, None]
        )  # the last row stays zero, for tokens without a cell
        rows.append((head_keys * means[cell[own]]).sum(-1))
    return torch.stack(rows)

"""LiveVLM: vision sink bucketing, and paged retrieval at the question."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hermes_lab.policies.base import (
    LayerView,
    Need,
    Policy,
    RecallView,
    Scores,
    setting,
    top_newest,
)
from hermes_lab.policies.parts.blocks import Blocks, block_means, order_newest
from hermes_lab.policies.parts.scoring import lifted, newest, rows_of


@dataclass(frozen=True, kw_only=True)
class LiveVLM(Policy):
    """Keep the newest tokens whole, and of the rest the most attended ones, spread over buckets of positions.

    S_j is the mean attention of the last visual queries. The candidates are cut into N buckets of `bucket_tokens` places
    (N · B = the long-term budget M): the best `free_share` · M tokens stay wherever they are, the others follow in
    order of score as long as their bucket is not full. A question reads the newest tokens, and of the rest the best
    `recall_share` of pages of `page_tokens` tokens, scored by the attention of its queries on mean un-rotated keys.
    Source: LiveVLM (arXiv 2505.15269).

    Not disclosed in the paper: the number of queries (here those of the newest frame), `free_share`, and the size of the
    short-term memory, here a share of the budget so that all methods hold as many tokens.
    """

    short_share: float = setting(
        0.25, "Share of the budget held by the newest tokens, kept whole (undisclosed).",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    free_share: float = setting(
        0.5, "R / M: share of the long-term budget filled regardless of buckets (undisclosed).",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    bucket_tokens: int = setting(1, "B: capacity of a bucket (paper).", minimum=1)
    page_tokens: int = setting(16, "C: tokens of a page at the question (paper).", minimum=1)
    recall_share: float = setting(
        0.4, "Share of the pages that a question reads (paper); 1: all.", minimum=0.01, maximum=1.0
    )

    title = "attention of the newest frame, spread over buckets"
    source = "LiveVLM (arXiv 2505.15269)"
    licence = "none published"
    needs = frozenset({Need.CHUNK_ATTENTION, Need.KEYS})
    recalls = True
    attention_detail = "mean"

    def score(self, view: LayerView) -> Scores:
        """Mean attention of the last visual queries; short-term tokens stand above all."""
        attention = rows_of(view, "chunk").mean((0, 1))[None]
        short = newest(int(self.short_share * view.budget(self.budget_tokens)), attention)
        return Scores(
            lifted(attention, short), {"attention": attention, "short_term": short.to(attention)}
        )

    def select(self, scores: Scores, count: int, view: LayerView) -> Int[Tensor, "head kept"]:
        """Short-term tokens, then the two phases of bucketing over the others."""
        if count >= view.tokens:
            return top_newest(scores.total, count)
        short = scores.terms["short_term"][0] > 0
        if int(short.sum()) >= count:
            return top_newest(scores.total, count)
        older = view.tokens - int(short.sum())
        long = bucketed(
            scores.terms["attention"][0, :older],
            count - int(short.sum()),
            self.bucket_tokens,
            self.free_share,
        )
        return torch.cat([long, short[older:]]).nonzero()[:, 0][None]

    def recall(self, question: RecallView) -> Int[Tensor, "head recalled"] | None:
        """Short-term tokens and the best pages of the others; the newest page is short by what does not fill it."""
        view = question.view
        older = max(0, view.tokens - int(self.short_share * view.budget(self.budget_tokens)))
        if self.recall_share == 1.0 or older == 0:
            return None
        of = torch.arange(older, device=view.ids.device) // self.page_tokens
        pages = Blocks(of, torch.full_like(of.unique(), -1), of.bincount())
        means = block_means(view.keys_unrotated()[:, :older].float(), pages)
        query = question.queries.float()
        means = means.repeat_interleave(query.shape[0] // means.shape[0], 0)
        logits = torch.einsum("hrd,hpd->hrp", query, means) / math.sqrt(query.shape[-1])
        best = order_newest(logits.softmax(-1).mean((0, 1)))
        chosen = torch.zeros(len(pages), dtype=torch.bool, device=of.device)
        chosen[best[: math.ceil(self.recall_share * len(pages))]] = True
        short = torch.arange(older, view.tokens, device=of.device)
        return torch.cat([pages.tokens(chosen), short])[None]


def bucketed(
    score: Float[Tensor, " token"], count: int, capacity: int, free_share: float
) -> Bool[Tensor, " token"]:
    """Which `count` tokens stay: the best `free_share` of them anywhere, the rest one bucket's `capacity` at most."""
    tokens, free = len(score), int(free_share * count)
    buckets = max(1, count // capacity)
    bucket = torch.arange(tokens, device=score.device) * buckets // tokens
    order = order_newest(score)
    rest = order[free:]
    held = bucket[order[:free]].bincount(minlength=buckets)
    grouped = bucket[rest].argsort(stable=True)  # best first within each bucket
    sizes = bucket[rest].bincount(minlength=buckets)
    starts = (sizes.cumsum(0) - sizes)[bucket[rest[grouped]]]
    place = torch.empty_like(rest)
    place[grouped] = torch.arange(len(rest), device=score.device) - starts
    fits = place + held[bucket[rest]] < capacity
    # a capacity that does not divide the budget leaves some places: they go to the best of what was passed over
    queue = torch.cat([order[:free], rest[fits], rest[~fits]])
    kept = torch.zeros(tokens, dtype=torch.bool, device=score.device)
    kept[queue[:count]] = True
    return kept

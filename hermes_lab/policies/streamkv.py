"""StreamKV: whole frames that match a guidance prompt, with layer budgets shared out by one global top-p."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import (
    Admission,
    Arrival,
    Guidance,
    LayerView,
    Need,
    Policy,
    RecallView,
    Scores,
    setting,
    top_newest,
)
from hermes_lab.policies.parts.blocks import (
    Blocks,
    block_means,
    fitting,
    frame_blocks,
    match,
    order_newest,
)
from hermes_lab.policies.parts.frames import frames_of, visual_features
from hermes_lab.policies.parts.scoring import lifted


@dataclass(frozen=True, kw_only=True)
class StreamKV(Policy):
    """Keep the frames whose mean key matches the mean query of a guidance prompt; layers share one total.

    π_b = softmax over frames b of cos(mean query, mean un-rotated key of b). Sorted downwards, layer l keeps the
    fewest frames whose π reach p; one p for all layers is searched so that the total budget is used. Frames of the
    open segment stay; a segment ends where adjacent frames' features differ. A question reads the best frames of each
    layer by the same match. Source: StreamKV (arXiv 2511.07278).

    Deviations: the budget is fixed (the paper keeps a share of every segment); the summary frame of each segment is not
    built (compose with `with_summary`); every layer recalls the same number of frames (the paper shares these by top-p
    too). The released code, beside what `matching` offers, pulls layer budgets into a range around their mean, and
    averages the two most alike frames of a segment that is too long where the paper ends it; its guidance prompt is a
    paragraph that asks for objects, actions, text, causes and counts.
    """

    prompt: str = setting(
        "Describe what happens in this video.", "Guidance prompt (ours; the paper prints none)."
    )
    matching: Literal["cosine", "standardised"] = setting(
        "cosine",
        "π from cosines (paper), or from dot products less their mean over their deviation in the layer (released code).",
    )
    similarity: float = setting(
        0.99,
        "Cosine of adjacent frames below which a segment ends (paper).",
        minimum=-1.0,
        maximum=1.0,
    )
    shortest_frames: int = setting(4, "Frames that a segment has at least (paper).", minimum=1)
    longest_frames: int = setting(64, "Frames that a segment has at most (paper).", minimum=1)
    recall_frames: int | None = setting(
        8, "Frames that a question reads in each layer (paper: on average); None: all.", minimum=1
    )

    title = "frames that match a prompt, budgets by global top-p"
    source = "StreamKV (arXiv 2511.07278)"
    licence = "no licence file seen"
    needs = frozenset({Need.GUIDANCE, Need.QUERIES, Need.KEYS, Need.FEATURES})
    recalls = True
    granularity = "frame"
    attention_detail = "mean"

    def guidance(self, history: Sequence[tuple[str, str]]) -> tuple[Guidance, ...]:
        """The guidance prompt."""
        return (Guidance(name="guide", text=self.prompt),)

    def admit(self, arrival: Arrival, memory: dict[str, Any]) -> Admission | None:
        """Everything enters; the number of each token's segment is carried with it."""
        frames, cells = frames_of(arrival)
        means = F.normalize(visual_features(arrival)[cells].mean(1), dim=-1)
        segment = torch.full(arrival.frame.shape, torch.nan, device=means.device)
        for frame, mean in zip(frames.tolist(), means, strict=True):
            before = memory.get("mean")
            length = int(memory.get("length", 0))
            changed = before is not None and float(before @ mean) < self.similarity
            if (changed and length >= self.shortest_frames) or length >= self.longest_frames:
                memory["segment"] = int(memory.get("segment", 0)) + 1
                length = 0
            memory["mean"], memory["length"] = mean, length + 1
            segment[arrival.frame == frame] = float(memory.get("segment", 0))
        everything = torch.arange(len(arrival.frame), device=means.device)
        return Admission(everything, terms={"segment": segment})

    def score(self, view: LayerView) -> Scores:
        """π of each token's frame; the open segment stands above."""
        if "guide" not in view.queries:
            raise PolicyError("Policy 'streamkv' reads the queries of its prompt, but got none.")
        blocks = frame_blocks(view.frame[0])
        keys = block_means(view.keys_unrotated().float(), blocks)
        pi = self._shares(match(view.queries["guide"], keys, cosine=self.matching == "cosine"))
        pi = pi[blocks.of][None]
        segment = view.carried.get("segment")
        is_open = torch.zeros_like(pi, dtype=torch.bool)
        if segment is not None and not bool(segment.isnan().all()):
            newest = segment[:1].nan_to_num(-1.0)
            members = torch.isin(blocks.of, blocks.of[newest[0] == newest.max()])
            is_open = members[None]
        return Scores(lifted(pi, is_open), {"match": pi, "open_segment": is_open.float()})

    def _shares(self, score: Float[Tensor, " block"]) -> Float[Tensor, " block"]:
        """π of each frame, which sums to 1 over the layer."""
        if self.matching == "standardised" and len(score) > 1:
            score = (score - score.mean()) / score.std().clamp_min(1e-12)
        return score.softmax(0)

    def adapt_budgets(
        self, budgets: list[int], scores: Sequence[Scores], views: Sequence[LayerView]
    ) -> list[int]:
        """Tokens per layer under the largest common p whose total fits; unchanged if open segments alone exceed it."""
        layers = [_LayerFrames.read(s, v) for s, v in zip(scores, views, strict=True)]
        total = min(sum(budgets), sum(view.tokens for view in views))
        if sum(layer.held(0.0) for layer in layers) > total:
            return budgets
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            if sum(layer.held(middle) for layer in layers) <= total:
                low = middle
            else:
                high = middle
        return [layer.held(low) for layer in layers]

    def select(self, scores: Scores, count: int, view: LayerView) -> Int[Tensor, "head kept"]:
        """Whole frames in order of score, as many as fit; part of the best one if not even that fits."""
        if count >= view.tokens:
            return top_newest(scores.total, count)
        blocks = frame_blocks(view.frame[0])
        order = order_newest(_per_block(scores.total[0], blocks)).tolist()
        taken = fitting(order, blocks.sizes.tolist(), count)
        chosen = torch.zeros(len(blocks), dtype=torch.bool, device=view.ids.device)
        chosen[taken or order[:1]] = True
        return blocks.tokens(chosen)[None, -count:] if count else blocks.tokens(chosen)[None, :0]

    def recall(self, question: RecallView) -> Int[Tensor, "head recalled"] | None:
        """The frames that match the question best."""
        if self.recall_frames is None or question.view.tokens == 0:
            return None
        blocks = frame_blocks(question.view.frame[0])
        keys = block_means(question.view.keys_unrotated().float(), blocks)
        score = match(question.queries, keys, cosine=self.matching == "cosine")
        best = order_newest(score)[: self.recall_frames]
        chosen = torch.zeros(len(blocks), dtype=torch.bool, device=best.device)
        chosen[best] = True
        return blocks.tokens(chosen)[None]


@dataclass(frozen=True)
class _LayerFrames:
    """One layer's closed frames in order of π, and the tokens of its open segment."""

    open_tokens: int
    shares: list[float]  # cumulative π, renormalised over the closed frames
    tokens: list[int]  # cumulative tokens

    @classmethod
    def read(cls, scores: Scores, view: LayerView) -> _LayerFrames:
        blocks = frame_blocks(view.frame[0])
        is_open = _per_block(scores.terms["open_segment"][0], blocks) > 0
        pi = _per_block(scores.terms["match"][0], blocks).double()
        order = order_newest(pi)
        order = order[~is_open[order]]
        shares = pi[order].cumsum(0) / pi[order].sum().clamp_min(1e-12)
        return cls(
            int(blocks.sizes[is_open].sum()),
            shares.tolist(),
            blocks.sizes[order].cumsum(0).tolist(),
        )

    def held(self, p: float) -> int:
        """Tokens of the open segment and of the fewest closed frames whose π reach `p`."""
        if p <= 0 or not self.tokens:
            return self.open_tokens
        enough = min(bisect_left(self.shares, p - 1e-12), len(self.shares) - 1)
        return self.open_tokens + self.tokens[enough]


def _per_block(values: Tensor, blocks: Blocks) -> Tensor:
    """The value that all tokens of a block share."""
    return values.new_zeros(len(blocks)).index_copy_(0, blocks.of, values)

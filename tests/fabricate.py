"""Layer views and streams made up for tests of policies: no model, everything seeded.

`layer_view` and `model_views` make one moment of a stream; `decide` runs the steps of a decision on it the way
the contract in `hermes_lab.policies.base` words them; `FakeStream` feeds, decides and forgets over many steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from hermes_lab.policies.base import LayerView, Merged, Policy, Scores
from hermes_lab.tokens import Role

BASE = 10_000.0


def rotate_1d(keys: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Rotary embedding from old to new positions, half-split layout, in double precision.

    Channel pair i turns by `BASE ** (-2i / dim)` a position; with several axes pair i reads axis `i % axes`.

    Args:
        keys: [kv_head, token, dim].
        old, new: [head, axis, token]; head is 1 or kv_head.
    """
    half = keys.shape[-1] // 2
    inverse = BASE ** (-torch.arange(half, dtype=torch.float64) / half)
    axis = torch.arange(half) % old.shape[1]
    moved = (new - old).double().transpose(1, 2)[..., axis]  # [head, token, half]
    angle = moved * inverse
    first, second = keys.double()[..., :half], keys.double()[..., half:]
    cos, sin = angle.cos(), angle.sin()
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    return turned.to(keys.dtype)


def softmax_rows(query_heads: int, rows: int, tokens: int, rng: torch.Generator) -> Tensor:
    """Random post-softmax attention rows with some mass left for the prefix, [query_head, row, token]."""
    logits = 2 * torch.randn(query_heads, rows, tokens, generator=rng)
    return 0.7 * logits.softmax(-1)


def layer_view(
    *,
    layer: int = 0,
    layers: int = 4,
    frames: int = 4,
    grid: tuple[int, int] = (2, 2),
    kv_heads: int = 2,
    group: int = 2,
    dim: int = 8,
    axes: int = 1,
    per_head: bool = False,
    keep: int | None = None,
    guidance: Sequence[str] = ("local", "global", "mixed"),
    rows: int = 3,
    prefix_tokens: int = 5,
    first_frame: int = 0,
    fps: float = 1.0,
    step: int = 0,
    seed: int = 0,
    **changes: Any,
) -> LayerView:
    """One layer's view of `frames` frames of `grid` tokens, all inputs that a policy can need filled in.

    Args:
        group: query heads per KV head.
        axes: 1, or 3 for M-RoPE positions (time, row, column).
        per_head: each KV head holds its own tokens.
        keep: hold only so many tokens, a random subset in temporal order (as after earlier evictions).
        guidance: names of the pseudo-queries whose attention is there, `rows` rows each, beside "chunk".
        changes: attributes of the view to replace.
    """
    rng = torch.Generator().manual_seed(1_000_003 * seed + 101 * layer + step)
    per_frame = grid[0] * grid[1]
    total = frames * per_frame
    heads = kv_heads if per_head else 1
    count = total if keep is None else min(keep, total)
    picks = torch.stack(
        [torch.randperm(total, generator=rng)[:count].sort().values for _ in range(heads)]
    )
    frame = picks // per_frame
    row, col = picks % per_frame // grid[1], picks % grid[1]
    positions = picks[:, None] + prefix_tokens
    if axes == 3:
        positions = torch.stack([frame, frame + row, frame + col], 1) + prefix_tokens
    query_heads = kv_heads * group
    attention = {name: softmax_rows(query_heads, rows, count, rng) for name in (*guidance, "chunk")}
    view = LayerView(
        layer=layer,
        layers=layers,
        ids=picks + prefix_tokens + first_frame * per_frame,
        positions=positions,
        frame=frame + first_frame,
        row=row,
        col=col,
        role=torch.full_like(picks, int(Role.VISUAL)),
        time_s=(frame + first_frame).float() / fps,
        tokens_per_frame=per_frame,
        kv_heads=kv_heads,
        query_heads=query_heads,
        step=step,
        now_s=(first_frame + frames - 1) / fps,
        frames_seen=first_frame + frames,
        keys=torch.randn(kv_heads, count, dim, generator=rng),
        values=torch.randn(kv_heads, count, dim, generator=rng),
        attention=attention,
        received=softmax_rows(query_heads, per_frame, count, rng).sum(1),
        received_queries=torch.full((count,), float(per_frame)),
        queries={name: torch.randn(query_heads, rows, dim, generator=rng) for name in guidance},
        rotate=rotate_1d,
        rng=torch.Generator().manual_seed(seed + layer),
    )
    return replace(view, **changes)


def model_views(
    layers: int = 4, lengths: Sequence[int] | None = None, **options: Any
) -> list[LayerView]:
    """One view per layer; `lengths` gives each layer its own number of tokens."""
    keeps = [None] * layers if lengths is None else list(lengths)
    return [layer_view(layer=i, layers=layers, keep=k, **options) for i, k in enumerate(keeps)]


@dataclass(frozen=True)
class Decision:
    """What `decide` found for one layer: indices kept [head, kept], tokens made, and the numbers behind."""

    kept: Tensor
    merged: Merged | None
    scores: Scores
    budget: int


def decide(policy: Policy, views: Sequence[LayerView]) -> list[Decision]:
    """One compression by a policy, step by step as the contract says and the engine does.

    Every layer is asked to select, those within their budget too; where a layer is over it, the slots that the
    policy reserves are taken off first, and `merge` fills them.
    """
    budgets = policy.budgets(len(views)) or [view.tokens for view in views]
    views = [replace(v, budget_tokens=b) for v, b in zip(views, budgets, strict=True)]
    scores = [policy.score(view) for view in views]
    scores = policy.mix([s if isinstance(s, Scores) else Scores(s) for s in scores], views)
    budgets = policy.adapt_budgets(budgets, scores, views)
    decisions: list[Decision] = []
    for view, score, budget in zip(views, scores, budgets, strict=True):
        reserved = policy.reserve(view.layer, view.layers) if view.tokens > budget else 0
        kept = policy.select(score, max(budget - reserved, 0), view)
        made = policy.merge(view, kept, score) if kept.shape[-1] < view.tokens else None
        decisions.append(Decision(kept, made, score, budget))
    return decisions


def gather(values: Tensor, kept: Tensor) -> Tensor:
    """Rows of the token axis that survive: values [head, ..., token] or [kv_head, token, dim]; kept [head, kept]."""
    index = kept if kept.shape[0] == values.shape[0] else kept.expand(values.shape[0], -1)
    return torch.stack([v[..., i] for v, i in zip(values, index, strict=True)])


def survivors(view: LayerView, decision: Decision, summary_id: int) -> LayerView:
    """The view after a decision: kept tokens gathered, made tokens put in their place."""
    kept, made = decision.kept, decision.merged
    columns = {
        name: gather(getattr(view, name), kept)
        for name in ("ids", "positions", "frame", "row", "col", "role", "time_s")
    }
    assert view.keys is not None
    assert view.values is not None
    keys = gather(view.keys.transpose(1, 2), kept).transpose(1, 2)
    values = gather(view.values.transpose(1, 2), kept).transpose(1, 2)
    carried = {name: gather(state, kept) for name, state in view.carried.items()}
    if made is not None:
        count, heads = made.keys.shape[1], kept.shape[0]
        fills: dict[str, float] = {"frame": -1, "row": -1, "col": -1, "role": int(Role.SUMMARY)}
        new = {n: torch.full((heads, count), v).to(columns[n].dtype) for n, v in fills.items()}
        new["ids"] = (summary_id + torch.arange(count)).expand(heads, count)
        new["positions"] = made.positions.expand(heads, -1, -1)
        new["time_s"] = torch.full((heads, count), torch.nan)
        columns = {n: torch.cat([columns[n], new[n]], -1) for n in columns}
        keys, values = torch.cat([keys, made.keys], 1), torch.cat([values, made.values], 1)
        nothing = torch.full((heads, count), torch.nan)
        carried = {n: torch.cat([state, nothing], -1) for n, state in carried.items()}
        if made.place == "sorted":
            order = columns["positions"][:, 0].sort(dim=-1, stable=True).indices
            columns = {n: gather(c, order) for n, c in columns.items()}
            keys = gather(keys.transpose(1, 2), order).transpose(1, 2)
            values = gather(values.transpose(1, 2), order).transpose(1, 2)
            carried = {n: gather(c, order) for n, c in carried.items()}
    return replace(view, **columns, keys=keys, values=values, carried=carried)


@dataclass
class FakeStream:
    """A stream of made-up tokens under a policy: feed chunks, and see what each layer holds.

    Attributes:
        options: arguments of `layer_view` (grid, kv_heads, axes, guidance, ...).
        views: what each layer holds now; empty before the first chunk.
        decisions: of the last step; None where the policy saw no need.
    """

    policy: Policy
    layers: int = 4
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seed: int = 0
    step: int = 0
    frames_seen: int = 0
    views: list[LayerView] = field(default_factory=list[LayerView])
    decisions: list[Decision] | None = None

    def feed(self, frames: int = 2) -> list[LayerView]:
        """One chunk: append, observe, decide, forget. Returns the views after it."""
        asked = [guidance.name for guidance in self.policy.guidance(())]
        options: dict[str, Any] = {"guidance": asked, **self.options, "frames": frames}
        arrived = [
            layer_view(
                layer=i, layers=self.layers, first_frame=self.frames_seen,
                step=self.step, seed=self.seed, **options,
            )
            for i in range(self.layers)
        ]  # fmt: skip
        self.frames_seen += frames
        held = self.views or [None] * self.layers
        views = [self._join(old, new) for old, new in zip(held, arrived, strict=True)]
        views = [self._observe(view) for view in views]
        budgets = self.policy.budgets(self.layers)
        self.decisions = None
        if budgets is not None and self.policy.due([v.tokens for v in views], budgets):
            self.decisions = decide(self.policy, views)
            summary = 1_000_000 + 1000 * self.step
            pairs = zip(views, self.decisions, strict=True)
            views = [survivors(view, decision, summary + view.layer) for view, decision in pairs]
        self.views = views
        self.step += 1
        return views

    def _join(self, old: LayerView | None, new: LayerView) -> LayerView:
        """What is held followed by what arrives, under fresh attention rows."""
        heads = new.kv_heads if self.policy.per_head else 1
        columns = ("ids", "frame", "row", "col", "role", "time_s", "positions")
        fresh = {n: getattr(new, n).expand(heads, *getattr(new, n).shape[1:]) for n in columns}
        a_frame = new.tokens_per_frame if new.positions.shape[1] == 1 else 1  # in positions
        fresh["positions"] = fresh["positions"] + int(new.frame.min()) * a_frame
        keys, values, carried = new.keys, new.values, {}
        if old is not None:
            assert old.keys is not None
            assert old.values is not None
            fresh = {n: torch.cat([getattr(old, n), fresh[n]], -1) for n in columns}
            keys = torch.cat([old.keys, new.keys], 1)
            values = torch.cat([old.values, new.values], 1)
            blank = torch.full((heads, new.tokens), torch.nan)
            carried = {n: torch.cat([state, blank], -1) for n, state in old.carried.items()}
        rng = torch.Generator().manual_seed(7 * self.seed + 31 * self.step + new.layer)
        tokens = fresh["ids"].shape[-1]
        attention = {
            name: softmax_rows(new.query_heads, rows.shape[1], tokens, rng)
            for name, rows in new.attention.items()
        }
        received = softmax_rows(new.query_heads, new.tokens, tokens, rng).sum(1)
        return replace(
            new, **fresh, keys=keys, values=values, carried=carried, attention=attention,
            received=received, received_queries=torch.full((tokens,), float(new.tokens)),
            frames_seen=self.frames_seen,
        )  # fmt: skip

    def _observe(self, view: LayerView) -> LayerView:
        return replace(view, carried={**view.carried, **self.policy.observe(view)})

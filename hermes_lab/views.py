"""What a policy is shown: the candidates of every layer, with what was read for them in this step.

Everything in a view is a copy, or was read for the policy alone: what a policy writes into it, now or steps later,
reaches neither the cache nor a fork.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.alike import alike
from hermes_lab.cache import LayerState
from hermes_lab.engine import Engine
from hermes_lab.policies.base import LayerView, Need, Policy
from hermes_lab.stream_state import StreamState


@dataclass
class Evidence:
    """What was read for a policy in this step, per layer."""

    attention: list[dict[str, Tensor]] = field(default_factory=list[dict[str, Tensor]])
    queries: list[dict[str, Tensor]] = field(default_factory=list[dict[str, Tensor]])
    received: list[Tensor | None] = field(default_factory=list[Tensor | None])
    new_tokens: int = 0

    @classmethod
    def empty(cls, layers: int) -> Evidence:
        return cls([{} for _ in range(layers)], [{} for _ in range(layers)], [None] * layers)


def views_of(
    engine: Engine,
    stream: StreamState,
    states: Sequence[LayerState],
    *,
    policy: Policy,
    evidence: Evidence,
    seed: int,
    budgets: Sequence[int] | None = None,
) -> list[LayerView]:
    """The candidates of every layer as a policy sees them: what a layer holds behind the protected prefix.

    A per-head policy sees one row for each KV head from the start, also while all heads still hold the same tokens.
    """
    heads = engine.kv_heads if policy.per_head else 1
    candidates = [
        state.ids[:, stream.protected :].expand(max(state.ids.shape[0], heads), -1)
        for state in states
    ]
    described = _describe(stream, candidates)
    return [
        _view(
            engine, stream, state, layer, described[layer],
            policy=policy, evidence=evidence, seed=seed,
            budget=None if budgets is None else budgets[layer],
        )
        for layer, state in enumerate(states)
    ]  # fmt: skip


def view_of(
    engine: Engine,
    stream: StreamState,
    state: LayerState,
    layer: int,
    *,
    policy: Policy,
    evidence: Evidence,
    seed: int,
) -> LayerView:
    """One layer's share of `views_of`, for a state that need not be the cache's."""
    heads = max(state.ids.shape[0], engine.kv_heads if policy.per_head else 1)
    ids = state.ids[:, stream.protected :].expand(heads, -1)
    return _view(
        engine, stream, state, layer, _describe(stream, [ids])[0],
        policy=policy, evidence=evidence, seed=seed, budget=None,
    )  # fmt: skip


def _describe(
    stream: StreamState, candidates: Sequence[Int[Tensor, "head token"]]
) -> list[dict[str, Tensor]]:
    """What the candidates are, their ids included; layers with token sets of one shape are looked up together."""
    found: list[dict[str, Tensor]] = [{} for _ in candidates]
    for layers in alike((ids.shape, ids.device) for ids in candidates):
        together = torch.stack([candidates[n] for n in layers])
        for layer, ids in zip(layers, together.unbind(), strict=True):
            found[layer]["ids"] = ids
        known = together.clamp(min=0).cpu().numpy()
        for name in ("frame", "row", "col", "role", "time_s"):
            values = torch.as_tensor(stream.table.column(name).take(known), device=together.device)
            values = values.to(torch.float32 if name == "time_s" else torch.long)
            for layer, value in zip(layers, values.unbind(), strict=True):
                found[layer][name] = value
    return found


def _view(
    engine: Engine,
    stream: StreamState,
    state: LayerState,
    layer: int,
    described: Mapping[str, Tensor],
    *,
    policy: Policy,
    evidence: Evidence,
    seed: int,
    budget: int | None,
) -> LayerView:
    ids, start = described["ids"], stream.protected
    heads = ids.shape[0]
    received = evidence.received[layer]
    return LayerView(
        layer=layer,
        layers=engine.layers,
        positions=state.positions[..., start:].clone().expand(heads, -1, -1),
        **described,
        tokens_per_frame=stream.tokens_per_frame,
        kv_heads=engine.kv_heads,
        query_heads=engine.query_heads,
        step=stream.step,
        now_s=stream.now_s,
        frames_seen=stream.frames_seen,
        keys=_copy(state.keys, start) if Need.KEYS in policy.needs else None,
        values=_copy(state.values, start) if Need.VALUES in policy.needs else None,
        attention=MappingProxyType(
            {name: rows[..., start:] for name, rows in evidence.attention[layer].items()}
        ),
        received=None if received is None else received[:, start:],
        received_queries=None if received is None else _queries_that_see(ids, evidence.new_tokens),
        queries=MappingProxyType(evidence.queries[layer]),
        carried=MappingProxyType(
            {n: value[:, start:].clone().expand(heads, -1) for n, value in state.carried.items()}
        ),
        budget_tokens=budget,
        rotate=lambda keys, old, new: engine.rope.rotate(keys, old, new, layer),
        rng=torch.Generator().manual_seed(
            ((seed * 1_000_003 + stream.step) * 1_009 + layer) % 2**63
        ),
    )


def _copy(
    states: Float[Tensor, "1 kv_head held dim"] | None, start: int
) -> Callable[[], Float[Tensor, "kv_head token dim"]] | None:
    """What copies keys or values of the candidates. The prefix is copied with them, so that strides, and with them
    the last bits of sums over them, are those of the cache."""
    return None if states is None else lambda: states[0].clone()[:, start:]


def _queries_that_see(ids: Tensor, new: int) -> Float[Tensor, " token"]:
    """How many of the chunk's queries could see each candidate: all, or those from its own on."""
    count = torch.full((ids.shape[1],), float(new), device=ids.device)
    if new:
        count[ids.shape[1] - new :] = torch.arange(new, 0, -1, device=ids.device).float()
    return count

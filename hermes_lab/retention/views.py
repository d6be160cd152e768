"""What a policy is shown: the candidates of every layer, with what was read for them in this step.

Everything in a view is a copy, or was read for the policy alone: what a policy writes into it, now or steps later,
reaches neither the cache nor a fork.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.engine.batches import batches
from hermes_lab.engine.cache import LayerState
from hermes_lab.engine.forward import Engine
from hermes_lab.policies.base import LayerView, Need, Policy
from hermes_lab.retention.standing import Standing
from hermes_lab.tokens import TokenTable

COLUMNS_SHOWN = ("frame", "row", "col", "role", "time_s")  # of the token table


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
    stream: Standing,
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
    described = _describe(stream, states, engine.kv_heads if policy.per_head else 1)
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
    stream: Standing,
    state: LayerState,
    layer: int,
    *,
    policy: Policy,
    evidence: Evidence,
    seed: int,
) -> LayerView:
    """One layer's share of `views_of`, for a state that need not be the cache's."""
    [described] = _describe(stream, [state], engine.kv_heads if policy.per_head else 1)
    return _view(
        engine, stream, state, layer, described,
        policy=policy, evidence=evidence, seed=seed, budget=None,
    )  # fmt: skip


@dataclass
class _Together:
    """Layers with token sets of one shape, looked up in the table together when one of them is looked at."""

    table: TokenTable
    ids: Int[Tensor, "layer head token"]
    found: dict[str, tuple[Tensor, ...]] = field(default_factory=dict[str, tuple[Tensor, ...]])

    def column(self, name: str, place: int) -> Tensor:
        """A column of the table for the tokens of one of the layers, [head, token]."""
        if name not in self.found:
            known = self.ids.clamp(min=0).cpu().numpy()
            values = torch.as_tensor(self.table.column(name).take(known))
            kind = torch.float32 if name == "time_s" else torch.long
            self.found[name] = values.to(self.ids.device, kind).unbind()
        return self.found[name][place]


def _describe(stream: Standing, states: Sequence[LayerState], heads: int) -> list[dict[str, Any]]:
    """What the candidates are, in at least so many rows."""
    start = stream.protected
    rows = [max(state.ids.shape[0], heads) for state in states]
    ids = [s.ids[:, start:].expand(n, -1) for s, n in zip(states, rows, strict=True)]
    places = [s.positions[..., start:].expand(n, -1, -1) for s, n in zip(states, rows, strict=True)]
    found: list[dict[str, Any]] = [{} for _ in states]
    for layers in batches((known.shape, known.device) for known in ids):
        together = _Together(stream.table, torch.stack([ids[n] for n in layers]))
        positions = torch.stack([places[n] for n in layers]).unbind()
        for place, layer in enumerate(layers):
            late = {n: partial(together.column, n, place) for n in COLUMNS_SHOWN}
            found[layer] = {
                "ids": together.ids[place], "positions": positions[place], **late,
            }  # fmt: skip
    return found


def _view(
    engine: Engine,
    stream: Standing,
    state: LayerState,
    layer: int,
    described: Mapping[str, Any],
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
        rng=partial(_generator, seed, stream.step, layer),
    )


def _generator(seed: int, step: int, layer: int) -> torch.Generator:
    return torch.Generator().manual_seed(((seed * 1_000_003 + step) * 1_009 + layer) % 2**63)


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

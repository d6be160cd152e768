"""One compression: show every layer to the policy, check what it answers, and apply it to the cache.

Nothing is applied before every layer's answer has been checked, so that a faulty policy cannot leave the
cache half pruned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.cache import Archive, LayerState
from hermes_lab.contract import (
    call,
    check_budgets,
    check_indices,
    check_merged,
    check_scores,
    expect,
    name_of,
)
from hermes_lab.engine import Engine
from hermes_lab.errors import PolicyError
from hermes_lab.models.cursor import Cursor
from hermes_lab.policies.base import LayerView, Merged, Need, Policy, Scores
from hermes_lab.positions import behind
from hermes_lab.recording.idsets import ascending
from hermes_lab.snapshot import LayerDecision, MergeRecord
from hermes_lab.stream_state import StreamState
from hermes_lab.tokens import Role


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


@dataclass(frozen=True)
class LayerPlan:
    """A checked answer for one layer."""

    layer: int
    view: LayerView
    scores: Scores
    kept: Int[Tensor, "head kept"]
    merged: Merged | None
    budget: int


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
            engine, stream, state, layer, candidates[layer], described[layer],
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
        engine, stream, state, layer, ids, _describe(stream, [ids])[0],
        policy=policy, evidence=evidence, seed=seed, budget=None,
    )  # fmt: skip


def _describe(
    stream: StreamState, candidates: Sequence[Int[Tensor, "head token"]]
) -> list[dict[str, Tensor]]:
    """What the candidates are; layers with token sets of one shape are looked up together."""
    alike: dict[tuple[torch.Size, torch.device], list[int]] = {}
    for layer, ids in enumerate(candidates):
        alike.setdefault((ids.shape, ids.device), []).append(layer)
    found: list[dict[str, Tensor]] = [{} for _ in candidates]
    for (_, device), layers in alike.items():
        known = torch.stack([candidates[n] for n in layers]).clamp_(min=0).cpu().numpy()
        for name in ("frame", "row", "col", "role", "time_s"):
            values = torch.as_tensor(stream.table.column(name).take(known), device=device)
            values = values.to(torch.float32 if name == "time_s" else torch.long)
            for layer, value in zip(layers, values.unbind(), strict=True):
                found[layer][name] = value
    return found


def _view(
    engine: Engine,
    stream: StreamState,
    state: LayerState,
    layer: int,
    ids: Int[Tensor, "head token"],
    described: Mapping[str, Tensor],
    *,
    policy: Policy,
    evidence: Evidence,
    seed: int,
    budget: int | None,
) -> LayerView:
    heads, start = ids.shape[0], stream.protected
    wants_keys = Need.KEYS in policy.needs and state.keys is not None
    wants_values = Need.VALUES in policy.needs and state.values is not None
    received = evidence.received[layer]
    return LayerView(
        layer=layer,
        layers=engine.layers,
        ids=ids,
        positions=state.positions[..., start:].expand(heads, -1, -1),
        **described,
        tokens_per_frame=stream.tokens_per_frame,
        kv_heads=engine.kv_heads,
        query_heads=engine.query_heads,
        step=stream.step,
        now_s=stream.now_s,
        frames_seen=stream.frames_seen,
        keys=state.keys[0, :, start:] if wants_keys and state.keys is not None else None,
        values=state.values[0, :, start:] if wants_values and state.values is not None else None,
        attention=MappingProxyType(
            {name: rows[..., start:] for name, rows in evidence.attention[layer].items()}
        ),
        received=None if received is None else received[:, start:],
        received_queries=None if received is None else _queries_that_see(ids, evidence.new_tokens),
        queries=MappingProxyType(evidence.queries[layer]),
        carried=MappingProxyType(
            {n: value[:, start:].expand(heads, -1) for n, value in state.carried.items()}
        ),
        budget_tokens=budget,
        rotate=lambda keys, old, new: engine.rope.rotate(keys, old, new, layer),
        rng=torch.Generator().manual_seed(
            ((seed * 1_000_003 + stream.step) * 1_009 + layer) % 2**63
        ),
    )


def _queries_that_see(ids: Tensor, new: int) -> Float[Tensor, " token"]:
    """How many of the chunk's queries could see each candidate: all, or those from its own on."""
    count = torch.full((ids.shape[1],), float(new), device=ids.device)
    if new:
        count[ids.shape[1] - new :] = torch.arange(new, 0, -1, device=ids.device).float()
    return count


def plan(policy: Policy, views: Sequence[LayerView], budgets: Sequence[int]) -> list[LayerPlan]:
    """Ask the policy about all layers and check its answers.

    Raises:
        PolicyError: it raised, or answered with wrong types or shapes, NaN, bad indices or too many tokens.
    """
    layers = len(views)
    raw = [call(policy, "score", v.layer, lambda v=v: policy.score(v)) for v in views]
    scores = check_scores(policy, "score", views, raw)
    mixed = call(policy, "mix", None, lambda: policy.mix(list(scores), views))
    mixed = expect(policy, "mix", None, mixed, Sequence, "a list of Scores")
    if len(mixed) != layers:
        raise PolicyError(
            f"Policy {name_of(policy)!r} returned {len(mixed)} scores from mix() for {layers} layers."
        )
    if any(new is not old for new, old in zip(mixed, scores, strict=True)):
        scores = check_scores(policy, "mix", views, mixed)
    allowed = call(
        policy, "adapt_budgets", None, lambda: policy.adapt_budgets(list(budgets), scores, views)
    )
    allowed = check_budgets(policy, allowed, layers, limit=sum(budgets))
    plans = [
        _plan_layer(policy, view, score, budget)
        for view, score, budget in zip(views, scores, allowed, strict=True)
    ]
    return [made for made in plans if made is not None]


def _plan_layer(policy: Policy, view: LayerView, scores: Scores, budget: int) -> LayerPlan | None:
    layer, reserved = view.layer, 0
    if view.tokens > budget:
        reserved = call(policy, "reserve", layer, lambda: int(policy.reserve(layer, view.layers)))
    count = max(budget - reserved, 0)
    chosen = call(policy, "select", layer, lambda: policy.select(scores, count, view))
    kept = check_indices(policy, "select", view, chosen, most=count)
    if kept.shape[1] == view.tokens:
        return None
    merged = call(policy, "merge", layer, lambda: policy.merge(view, kept, scores))
    merged = check_merged(policy, view, merged, budget - kept.shape[1])
    return LayerPlan(layer, view, scores, kept, merged, budget)


def apply(
    made: LayerPlan, stream: StreamState, policy: Policy, next_position: str
) -> LayerDecision:
    """Prune one layer by a checked plan; merged tokens get ids of their own."""
    holder = stream.cache.stream_layers[made.layer]
    state = holder.state
    view, kept, protected = made.view, made.kept, stream.protected
    heads = max(kept.shape[0], view.ids.shape[0])
    prefix = torch.arange(protected, device=kept.device).expand(heads, -1)
    chosen = torch.cat([prefix, kept.expand(heads, -1) + protected], 1)
    pruned = state.select(chosen)
    if policy.archives:
        pruned = _archive(state, pruned, made, stream, policy)
    records: tuple[MergeRecord, ...] = ()
    if made.merged is not None and made.merged.positions.shape[-1]:
        pruned, records = _add_merged(pruned, made.merged, stream)
    if next_position == "last_kept":
        pruned = replace(pruned, cursor=behind(pruned, pruned.positions, protected))
    holder.state = pruned
    mask = torch.zeros(heads, view.tokens, dtype=torch.bool, device=kept.device)
    mask.scatter_(1, kept.expand(heads, -1), True)
    return LayerDecision(
        layer=made.layer,
        candidates=view.ids.expand(heads, -1).cpu().numpy().copy(),
        kept=mask.cpu().numpy(),
        scores=_array(made.scores.total),
        terms={name: _array(value) for name, value in made.scores.terms.items()},
        merged=records,
        budget_tokens=made.budget,
    )


def _array(values: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    array = values.detach().float().cpu().numpy()
    array.flags.writeable = False  # a policy may share a term between layers and steps
    return array


def _add_merged(
    state: LayerState, merged: Merged, stream: StreamState
) -> tuple[LayerState, tuple[MergeRecord, ...]]:
    new = merged.positions.shape[-1]
    names = stream.table.append(new, role=Role.SUMMARY, step=stream.step, time_s=stream.now_s)
    device = state.ids.device
    positions = merged.positions.to(device)
    state = state.append(
        merged.keys, merged.values, torch.as_tensor(names, device=device), positions
    )
    if merged.place == "sorted":
        order = state.positions[:, 0].clone()
        order[:, : stream.protected] = -1
        state = state.select(order.argsort(dim=-1, stable=True))
    behind_all = max(state.cursor.next, int(positions.max()) + 1)
    state = replace(state, cursor=Cursor(behind_all, state.cursor.video))
    sources = [source.cpu().numpy().astype(np.int64) for source in merged.sources]
    return state, tuple(
        MergeRecord(name, source if ascending(source) else np.unique(source))
        for name, source in zip(names.tolist(), sources, strict=True)
    )


def _archive(
    before: LayerState, after: LayerState, made: LayerPlan, stream: StreamState, policy: Policy
) -> LayerState:
    """Move the evicted tokens of a layer to the CPU, through the policy's codec."""
    heads = max(made.kept.shape[0], made.view.ids.shape[0])
    gone = torch.ones(heads, made.view.tokens, dtype=torch.bool, device=made.kept.device)
    gone.scatter_(1, made.kept.expand(heads, -1), False)
    index = gone.nonzero()[:, 1].reshape(heads, -1) + stream.protected
    evicted = before.select(index)
    assert evicted.keys is not None and evicted.values is not None
    keys, values = evicted.keys[0].cpu(), evicted.values[0].cpu()
    codec = call(policy, "codec", made.layer, policy.codec)
    size = keys.numel() * keys.element_size() + values.numel() * values.element_size()
    stored: tuple[Any, Any] = keys, values
    if codec is not None:
        group = torch.as_tensor(stream.table.column("frame")[evicted.ids[0].cpu().numpy()].copy())
        encode = codec.encode
        stored = call(
            policy, "codec", made.layer, lambda: (encode(keys, group), encode(values, group))
        )
        size = codec.stored_bytes(stored[0]) + codec.stored_bytes(stored[1])
    block = Archive(
        *stored, positions=evicted.positions.cpu(), ids=evicted.ids.cpu(), bytes=size, codec=codec
    )
    return replace(after, archive=(*before.archive, block))


def carry(state: LayerState, named: Mapping[str, Tensor], start: int) -> LayerState:
    """Put per-token state returned by `observe` beside the candidates it describes."""
    carried = dict(state.carried)
    for name, value in named.items():
        full = value.new_full((value.shape[0], state.tokens), float("nan"), dtype=torch.float32)
        full[:, start:] = value
        carried[name] = full
    return replace(state, carried=MappingProxyType(carried))

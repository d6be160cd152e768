"""Apply checked plans to the cache: all layers of one shape at once, as far as tensors are small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hermes_lab.engine.batches import batches
from hermes_lab.engine.cache import Archive, LayerState, select_layers
from hermes_lab.engine.cursor import Cursor
from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import Merged, Policy
from hermes_lab.retention import plain_answers
from hermes_lab.retention.calling import call, name_of, whole
from hermes_lab.retention.change import Made, StepNotes
from hermes_lab.retention.plan import LayerPlan
from hermes_lab.retention.positions import behind
from hermes_lab.retention.standing import Standing
from hermes_lab.snapshot import IntArray, LayerDecision, MergeRecord
from hermes_lab.tokens import Role


@dataclass(frozen=True)
class _Choice:
    """A plan as the engine applies it: rows for every head that holds tokens of its own.

    Attributes:
        index: what stays of all that the layer holds, the protected prefix included.
        mask, kept: which candidates stay.
        candidates: their global ids.
    """

    index: Int[Tensor, "head held"]
    mask: Bool[Tensor, "head token"]
    kept: npt.NDArray[np.bool_]
    candidates: IntArray


def apply(
    plans: Sequence[LayerPlan],
    stream: Standing,
    policy: Policy,
    next_position: str,
    notes: StepNotes,
) -> tuple[LayerDecision, ...]:
    """Prune layers by checked plans; merged tokens get ids of their own, and `notes` hears of them."""
    states = [stream.cache.stream_layers[made.layer].state for made in plans]
    chosen = _choices(plans, stream.protected)
    pruned = select_layers(states, [choice.index for choice in chosen])
    names = _names(plans, stream)
    records: list[tuple[MergeRecord, ...]] = []
    for n, (made, after) in enumerate(zip(plans, pruned, strict=True)):
        if policy.archives:
            after = _archive(states[n], after, made.layer, chosen[n].mask, stream, policy)
        added: tuple[MergeRecord, ...] = ()
        if made.merged is not None and len(names[n]):
            _check_sources(policy, made, int(names[n][0]))
            after, added, notes.made[made.layer] = _add_merged(after, made.merged, names[n], stream)
        if next_position == "last_kept":
            after = replace(after, cursor=behind(after, after.positions, stream.protected))
        stream.cache.stream_layers[made.layer].state = after
        records.append(added)
    return _decisions(plans, chosen, records)


def _choices(plans: Sequence[LayerPlan], protected: int) -> list[_Choice]:
    found: dict[int, _Choice] = {}
    for group in batches((p.kept.shape, p.ids.shape) for p in plans):
        kept = torch.stack([plans[n].kept for n in group])
        ids = torch.stack([plans[n].ids for n in group])
        layers, heads, tokens = len(group), max(kept.shape[1], ids.shape[1]), ids.shape[2]
        kept = kept.expand(-1, heads, -1)
        prefix = torch.arange(protected, device=kept.device).expand(layers, heads, -1)
        index = torch.cat([prefix, kept + protected], 2)
        mask = torch.zeros(layers, heads, tokens, dtype=torch.bool, device=kept.device)
        mask.scatter_(2, kept, True)
        marked = mask.cpu().numpy()
        candidates = ids.expand(-1, heads, -1).contiguous().cpu().numpy()
        for place, n in enumerate(group):
            found[n] = _Choice(index[place], mask[place], marked[place], candidates[place])
    return [found[n] for n in range(len(plans))]


def _names(plans: Sequence[LayerPlan], stream: Standing) -> list[IntArray]:
    """New ids for the merged tokens of each layer, in the order of the layers."""
    counts = [0 if p.merged is None else int(p.merged.positions.shape[-1]) for p in plans]
    if not any(counts):
        return [_NO_IDS] * len(plans)
    ids = stream.table.append(sum(counts), role=Role.SUMMARY, step=stream.step, time_s=stream.now_s)
    return np.split(ids, np.cumsum(counts[:-1]))


_NO_IDS: IntArray = np.empty(0, np.int64)


def _decisions(
    plans: Sequence[LayerPlan],
    chosen: Sequence[_Choice],
    records: Sequence[tuple[MergeRecord, ...]],
) -> tuple[LayerDecision, ...]:
    """What was decided, as arrays."""
    return tuple(
        LayerDecision(
            layer=made.layer,
            candidates=choice.candidates,
            kept=choice.kept,
            scores=made.scores,
            terms=made.terms,
            merged=merged,
            budget_tokens=made.budget,
        )
        for made, choice, merged in zip(plans, chosen, records, strict=True)
    )


def _check_sources(policy: Policy, made: LayerPlan, new: int) -> None:
    """A merged token is made of tokens that there are: their ids lie below the first `new` one."""
    assert made.merged is not None
    for source in made.merged.sources:
        if source.numel() and (int(source.min()) < 0 or int(source.max()) >= new):
            raise PolicyError(
                f"Policy {name_of(policy)!r} named sources from {int(source.min())} to {int(source.max())} in merge() "
                f"at layer {made.layer}; global ids lie between 0 and {new - 1}."
            )


def _add_merged(
    state: LayerState, merged: Merged, ids: IntArray, stream: Standing
) -> tuple[LayerState, tuple[MergeRecord, ...], Made]:
    device = state.ids.device
    positions = merged.positions.to(device)
    named = torch.as_tensor(ids, device=device)
    state = state.append(merged.keys, merged.values, named, positions)
    order = None
    if merged.place == "sorted":
        clock = state.positions[:, 0].clone()
        clock[:, : stream.protected] = -1
        state = state.select(clock.argsort(dim=-1, stable=True))
        order = state.ids[:, stream.protected :]
    behind_all = max(state.cursor.next, int(positions.max()) + 1)
    state = replace(state, cursor=Cursor(behind_all, state.cursor.video))
    sources = [source.cpu().numpy().astype(np.int64) for source in merged.sources]
    records = tuple(
        MergeRecord(name, np.unique(source))
        for name, source in zip(ids.tolist(), sources, strict=True)
    )
    return state, records, Made(ids, positions.long(), order)


def _archive(
    before: LayerState,
    after: LayerState,
    layer: int,
    kept: Bool[Tensor, "head token"],
    stream: Standing,
    policy: Policy,
) -> LayerState:
    """Move the evicted tokens of a layer to the CPU, through the policy's codec."""
    index = (~kept).nonzero()[:, 1].reshape(kept.shape[0], -1) + stream.protected
    evicted = before.select(index)
    assert evicted.keys is not None and evicted.values is not None
    keys, values = evicted.keys[0].cpu(), evicted.values[0].cpu()
    codec = plain_answers.codec(policy, layer)
    size = keys.numel() * keys.element_size() + values.numel() * values.element_size()
    stored: tuple[Any, Any] = keys, values
    if codec is not None:
        group = torch.as_tensor(stream.table.column("frame")[evicted.ids[0].cpu().numpy()].copy())
        encode, count = codec.encode, codec.stored_bytes
        stored = call(policy, "codec", layer, lambda: (encode(keys, group), encode(values, group)))
        sizes = [call(policy, "codec", layer, lambda part=part: count(part)) for part in stored]
        size = sum(whole(policy, "codec", layer, one) for one in sizes)
    block = Archive(
        *stored, positions=evicted.positions.cpu(), ids=evicted.ids.cpu(), bytes=size, codec=codec
    )
    return replace(after, archive=(*before.archive, block))

"""A gate before the decoder in front of any policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import Admission, Arrival, Policy, computed, settle
from hermes_lab.policies.combine.wrap import Wrapped, resolve


@dataclass(frozen=True, kw_only=True)
class Prefiltered(Wrapped):
    """Let a gate choose what enters the decoder, and any policy decide what stays.

    The gate is a policy with an `admit` step (every_nth, merge_similar, fluxmem, streamingtom, curvestream); only that
    step is used. If the inner policy has one too, it sees what the gate let through. Source: the compositions of
    StreamMem (arXiv 2508.15717) and DSCache (arXiv 2605.01858).
    """

    gate: Policy | str = field(
        metadata={"doc": "The policy whose `admit` comes first, or its name."}
    )

    title = "a gate before the decoder, any policy behind it"
    source = "baseline"
    needs = computed(lambda policy: policy.part.needs | policy.gate.needs)

    def __post_init__(self) -> None:
        super().__post_init__()
        gate = resolve(self.gate)
        if type(gate).admit is Policy.admit:
            raise PolicyError(
                f"Policy {gate.name!r} does not act before the decoder; use a gate such as 'every_nth' or 'fluxmem'."
            )
        settle(self, gate=gate)

    def admit(self, arrival: Arrival, memory: dict[str, Any]) -> Admission | None:
        """The gate's choice, then the inner policy's among what is left."""
        assert isinstance(self.gate, Policy)  # resolved on construction
        first = self.gate.admit(arrival, memory.setdefault("gate", {}))
        inner = memory.setdefault("inner", {})
        if first is None:
            return self.part.admit(arrival, inner)
        left = reduced(arrival, first)
        if len(left.visual) == 0:  # nothing to look at
            return first
        second = self.part.admit(left, inner)
        return first if second is None else chained(first, second, len(arrival.frame))


def reduced(arrival: Arrival, admission: Admission) -> Arrival:
    """A chunk as if only its admitted tokens had arrived."""
    keep = admission.keep
    visual = torch.isin(keep, arrival.visual)
    among = torch.isin(arrival.visual, keep)
    return replace(
        arrival,
        embeds=arrival.embeds[keep] if admission.embeds is None else admission.embeds,
        features=None if arrival.features is None else arrival.features[among],
        saliency=None if arrival.saliency is None else arrival.saliency[among],
        visual=visual.nonzero()[:, 0],
        frame=arrival.frame[keep],
        row=arrival.row[keep],
        col=arrival.col[keep],
        role=arrival.role[keep],
        time_s=arrival.time_s[keep],
    )


def chained(first: Admission, second: Admission, tokens: int) -> Admission:
    """Two admissions as one, in places of the chunk of `tokens` that arrived."""
    embeds = second.embeds
    if embeds is None and first.embeds is not None:
        embeds = first.embeds[second.keep]
    place = first.keep.tolist()
    merged = {place[source]: place[target] for source, target in second.merged_into.items()}
    ends = {source: merged.get(target, target) for source, target in first.merged_into.items()}
    return Admission(
        first.keep[second.keep],
        embeds,
        {**first.terms, **_spread(second.terms, first.keep, tokens)},
        {**ends, **merged},
    )


def _spread(
    terms: Mapping[str, Tensor], keep: Int[Tensor, " kept"], tokens: int
) -> dict[str, Tensor]:
    """Terms of admitted tokens, spread over the chunk; NaN for what the gate refused."""
    spread: dict[str, Tensor] = {}
    for name, values in terms.items():
        spread[name] = values.new_full((tokens,), torch.nan)
        spread[name][keep] = values
    return spread

"""What a policy may answer: everything it returns is checked here before the engine acts on it.

Each check raises a PolicyError whose one sentence names the policy, the method, the layer and what was wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from jaxtyping import Int
from torch import Tensor

from hermes_lab.engine.batches import batches
from hermes_lab.engine.cache import LayerState
from hermes_lab.engine.finite import all_finite
from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import Admission, LayerView, Merged, Policy, Scores
from hermes_lab.retention.calling import (
    FLOATS,
    INDICES,
    NUMBERS,
    call,
    expect,
    is_plain,
    name_of,
    refuse,
    tensor,
    whole,
)
from hermes_lab.retention.plain_answers import check_traits
from hermes_lab.segment import Segment

COLUMNS = NUMBERS | {torch.bool}


@dataclass(frozen=True)
class Candidates:
    """What the engine knows of a layer's candidates by itself, whatever becomes of the view that a policy holds.

    Attributes:
        tokens, kv_heads, axes: of the candidates, of the layer, and of rotary positions.
        widths, dtype: numbers in a key and in a value, and their type; None: not known here.
    """

    layer: int
    layers: int
    tokens: int
    kv_heads: int
    axes: int
    device: torch.device
    widths: tuple[int, int] | None = None
    dtype: torch.dtype | None = None

    @classmethod
    def of(cls, view: LayerView, state: LayerState | None = None) -> Candidates:
        """What a view shows, and its layer holds."""
        axes, device = int(view.positions.shape[1]), view.ids.device
        widths = dtype = None
        if state is not None and state.keys is not None and state.values is not None:
            widths = int(state.keys.shape[-1]), int(state.values.shape[-1])
            dtype = state.keys.dtype
        return cls(view.layer, view.layers, view.tokens, view.kv_heads, axes, device, widths, dtype)


def check_choice(policy: Policy, layers: int, protected: int, evaluation: bool) -> None:
    """Whether a policy may be used here at all: it is one, its budgets fit, and it does not peek."""
    check_traits(policy)
    if policy.evaluation_only and not evaluation:
        raise PolicyError(
            f"Policy {policy.name!r} looks at the future question: it is an upper bound for evaluations "
            "and is refused elsewhere."
        )
    budgets = budgets_of(policy, layers)
    if budgets is not None and min(budgets, default=protected) < protected:
        raise PolicyError(
            f"A budget of {min(budgets)} tokens per layer is smaller than the protected prefix of "
            f"{protected} tokens; give at least {protected}."
        )


def budgets_of(policy: Policy, layers: int) -> list[int] | None:
    """Budgets in tokens, one per layer; None: no limit anywhere.

    Raises:
        PolicyError: it raised, or answered something else.
    """
    answer = call(policy, "budgets", None, lambda: policy.budgets(layers))
    return None if answer is None else check_budgets(policy, answer, layers)


def check_budgets(policy: Policy, budgets: Any, layers: int, limit: int | None = None) -> list[int]:
    """Budgets in tokens, one per layer; with `limit` their total must not exceed it."""
    method = "budgets" if limit is None else "adapt_budgets"
    given = expect(policy, method, None, budgets, Sequence, "a list of numbers")
    listed: list[Any] = call(policy, method, None, lambda: list(given))
    if len(listed) != layers:
        raise PolicyError(
            f"Policy {name_of(policy)!r} gives {len(listed)} budgets, but the model has {layers} layers."
        )
    values = [whole(policy, method, layer, budget) for layer, budget in enumerate(listed)]
    if limit is not None and sum(values) > limit:
        raise PolicyError(
            f"Policy {name_of(policy)!r} raised its budgets from {limit} to {sum(values)} tokens in "
            "adapt_budgets(); the total must not grow."
        )
    return values


def writes(answer: Any) -> list[tuple[Tensor, int]]:
    """The tensors of an answer, each with the number of times that it was written to, as torch counts."""
    tensors = [answer]
    if isinstance(answer, Scores):
        terms = answer.terms.values() if isinstance(answer.terms, Mapping) else ()
        tensors = [answer.total, *terms]
    return [(t, t._version) for t in tensors if isinstance(t, Tensor) and not t.is_inference()]


def check_scores(
    policy: Policy, method: str, layers: Sequence[Candidates], raw: Sequence[Any]
) -> list[Scores]:
    """Scores of all layers, total and terms, each [1 or kv_head, token]; the totals without NaN."""
    checked: list[Scores] = []
    what = "Scores or a tensor [head, token]"
    for layer, answer in zip(layers, raw, strict=True):
        scores = Scores(answer) if isinstance(answer, Tensor) else answer
        expect(policy, method, layer.layer, scores, Scores, what)
        total = _columns(policy, method, layer, {"total": scores.total}, NUMBERS)["total"]
        terms = call(policy, method, layer.layer, lambda scores=scores: dict(scores.terms))
        checked.append(Scores(total, _columns(policy, method, layer, terms, COLUMNS)))
    # one look at all layers: asking each of them would make an accelerator wait as often
    together = torch.cat([s.total.flatten().to(layers[0].device) for s in checked])
    if bool(together.isnan().any()):
        wrong = next(
            n.layer for n, s in zip(layers, checked, strict=True) if bool(s.total.isnan().any())
        )
        raise PolicyError(
            f"Policy {name_of(policy)!r} returned NaN from {method}() at layer {wrong}; "
            "the step was undone, look for a division by zero in its score."
        )
    return checked


def check_observed(policy: Policy, layer: Candidates, named: Any) -> Mapping[str, Tensor]:
    """Per-token state of one layer, each [1 or kv_head, token]."""
    what = "a mapping of names to tensors"
    values = expect(policy, "observe", layer.layer, named, Mapping, what)
    listed = call(policy, "observe", layer.layer, lambda: dict(values))
    return _columns(policy, "observe", layer, listed, COLUMNS)


def _columns(
    policy: Policy,
    method: str,
    layer: Candidates,
    named: Mapping[Any, Any],
    kinds: frozenset[torch.dtype],
) -> dict[str, Tensor]:
    """Named tensors with a number for each candidate, of one head or of each."""
    good = ((1, layer.tokens), (layer.kv_heads, layer.tokens))
    found: dict[str, Tensor] = {}
    for label, value in named.items():
        if not isinstance(label, str):
            refuse(policy, method, layer.layer, f"the name {label!r}", "a text")
        column = value
        if not is_plain(value, kinds):
            what = f"a tensor [head, token] of numbers for {label!r}"
            column = tensor(policy, method, layer.layer, value, what, kinds)
        if column.shape not in good:
            raise PolicyError(
                f"Policy {name_of(policy)!r} returned {label!r} of shape {list(column.shape)} from {method}() "
                f"at layer {layer.layer}; it must be [1 or {layer.kv_heads}, {layer.tokens}]."
            )
        found[label] = column
    return found


def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies that nobody else holds; those of one shape are made at once."""
    found: dict[int, Tensor] = {}
    for group in batches((t.shape, t.dtype, t.device) for t in tensors):
        found |= zip(group, torch.stack([tensors[n] for n in group]).unbind(), strict=True)
    return [found[n] for n in range(len(tensors))]


def check_indices(
    policy: Policy,
    method: str,
    layers: Sequence[Candidates],
    raw: Sequence[Any],
    most: Sequence[int] | None = None,
) -> list[Int[Tensor, "_head _chosen"]]:
    """Ascending indices of tokens of some layers, for all heads alike or one row per KV head; at most `most` of them."""
    what = "a tensor of indices [head, token]"
    indices = [
        tensor(policy, method, layer.layer, index, what)
        for layer, index in zip(layers, raw, strict=True)
    ]
    limits = [None] * len(layers) if most is None else most
    shaped = map(_is_shaped, indices, layers, limits)
    if not all(shaped) or not _in_order(indices, layers):
        _refuse_indices(policy, method, indices, layers, limits)
    return [index.to(n.device).long() for index, n in zip(indices, layers, strict=True)]


def _is_shaped(index: Tensor, layer: Candidates, most: int | None) -> bool:
    rows = index.ndim == 2 and index.shape[0] in (1, layer.kv_heads)
    return index.dtype in INDICES and rows and (most is None or index.shape[1] <= most)


def _in_order(indices: Sequence[Tensor], layers: Sequence[Candidates]) -> bool:
    """Whether indices ascend between 0 and the number of tokens; layers of one shape are looked at together."""
    keys = [(i.shape, i.dtype, i.device, n.tokens) for i, n in zip(indices, layers, strict=True)]
    for group in batches(keys):
        rows = torch.cat([indices[n] for n in group])
        if not rows.numel():
            continue
        rising = bool((rows[:, 1:] > rows[:, :-1]).all())  # then the ends are the extremes
        tokens = layers[group[0]].tokens
        if not rising or int(rows[:, 0].min()) < 0 or int(rows[:, -1].max()) >= tokens:
            return False
    return True


def _refuse_indices(
    policy: Policy,
    method: str,
    indices: Sequence[Tensor],
    layers: Sequence[Candidates],
    limits: Sequence[int | None],
) -> NoReturn:
    """Name the first layer whose indices are wrong."""
    index, layer, most = next(
        (index, layer, most)
        for index, layer, most in zip(indices, layers, limits, strict=True)
        if not _is_shaped(index, layer, most) or not _in_order([index], [layer])
    )
    limit = "" if most is None else f", at most {most}"
    raise PolicyError(
        f"Policy {name_of(policy)!r} returned indices of shape {list(index.shape)} and type {index.dtype} "
        f"from {method}() at layer {layer.layer}; they must be ascending, between 0 and {layer.tokens - 1}"
        f"{limit} for each of 1 or {layer.kv_heads} heads, of type torch.int64."
    )


def check_merged(policy: Policy, layer: Candidates, raw: Any, room: int) -> Merged | None:
    """Tokens made by `merge`, complete and within the room that the budget leaves (see `check_finite`), as copies."""
    if raw is None:
        return None
    merged = expect(policy, "merge", layer.layer, raw, Merged, "Merged or None")
    keys, values = (
        tensor(policy, "merge", layer.layer, value, f"a tensor of numbers for {label!r}", FLOATS)
        for label, value in (("keys", merged.keys), ("values", merged.values))
    )
    what = "a tensor of whole numbers for 'positions'"
    positions = tensor(policy, "merge", layer.layer, merged.positions, what, INDICES)
    what = "a tensor of global ids for each of its 'sources'"
    sources = tuple(
        tensor(policy, "merge", layer.layer, ids, what, INDICES)
        for ids in call(policy, "merge", layer.layer, lambda: tuple(merged.sources))
    )
    new = int(positions.shape[-1]) if positions.ndim else 0
    widths = layer.widths or (int(keys.shape[-1]), int(values.shape[-1]))
    if (
        [tuple(keys.shape), tuple(values.shape)] != [(layer.kv_heads, new, w) for w in widths]
        or tuple(positions.shape) != (layer.axes, new)
        or [ids.ndim for ids in sources] != [1] * new
    ):
        raise PolicyError(
            f"Policy {name_of(policy)!r} returned merged tokens of unequal shapes from merge() at layer "
            f"{layer.layer}: keys {list(keys.shape)}, values {list(values.shape)}, positions "
            f"{list(positions.shape)}, {len(sources)} sources."
        )
    if merged.place not in ("end", "sorted"):
        refuse(policy, "merge", layer.layer, f"the place {merged.place!r}", "end or sorted")
    if new > room:
        raise PolicyError(
            f"Policy {name_of(policy)!r} merged {new} tokens at layer {layer.layer} where its budget leaves "
            f"room for {room}."
        )
    # in the type of the cache, in which a number may be too large
    keys, values = (t.to(layer.dtype or t.dtype, copy=True) for t in (keys, values))
    return Merged(keys, values, positions.clone(), sources, merged.place)


def check_finite(policy: Policy, merged: Mapping[int, Merged]) -> None:
    """Merged tokens by layer: no key or value NaN or infinite, no position negative; one look at all layers."""
    if not all_finite(*(t for one in merged.values() for t in (one.keys, one.values))):
        layer = next(n for n, one in merged.items() if not all_finite(one.keys, one.values))
        raise PolicyError(f"Policy {name_of(policy)!r} returned NaN from merge() at layer {layer}.")
    places = [one.positions.flatten() for one in merged.values()]
    if places and bool((torch.cat([p.to(places[0].device) for p in places]) < 0).any()):
        raise PolicyError(f"Policy {name_of(policy)!r} returned negative positions from merge().")


def check_admission(policy: Policy, raw: Any, segment: Segment) -> Admission | None:
    """What `admit` lets in: ascending indices, embeddings that fit them, terms for every arriving token."""
    if raw is None:
        return None
    admission = expect(policy, "admit", None, raw, Admission, "an Admission or None")
    keep = tensor(policy, "admit", None, admission.keep, "an Admission of a tensor of indices")
    good = keep.ndim == 1 and keep.dtype in INDICES
    if good and keep.numel():
        rising = bool((keep[1:] > keep[:-1]).all())
        good = rising and int(keep[0]) >= 0 and int(keep[-1]) < len(segment)
    if not good:
        raise PolicyError(
            f"Policy {name_of(policy)!r} admitted tokens that are not ascending indices between 0 and "
            f"{len(segment) - 1}."
        )
    embeds = admission.embeds
    if embeds is not None:
        embeds = tensor(policy, "admit", None, embeds, "a tensor of embeddings", FLOATS)
        embeds = embeds.to(segment.embeds)
        fits = tuple(embeds.shape) == (keep.shape[0], segment.embeds.shape[1])
        if not (fits and all_finite(embeds)):
            raise PolicyError(
                f"Policy {name_of(policy)!r} admitted {keep.shape[0]} tokens with embeddings of shape "
                f"{list(embeds.shape)} or with NaN in them."
            )
    terms: Mapping[Any, Any] = call(policy, "admit", None, lambda: dict(admission.terms))
    for label, value in terms.items():
        what = "a tensor of numbers for each of its terms, under a text"
        expect(policy, "admit", None, label, str, what)
        term = tensor(policy, "admit", None, value, what, COLUMNS)
        if tuple(term.shape) != (len(segment),):
            raise PolicyError(
                f"Policy {name_of(policy)!r} explained its admission by {label!r} of shape {list(term.shape)}; "
                f"terms of admit() have one value for each of the {len(segment)} arriving tokens."
            )
    return Admission(keep.long(), embeds, terms, admission.merged_into)

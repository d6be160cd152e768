"""What a policy may answer: everything it returns is checked here before the engine acts on it.

Each check raises a PolicyError whose one sentence names the policy, the method, the layer and what was wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from hermes_lab.alike import alike
from hermes_lab.errors import LabError, PolicyError
from hermes_lab.models.base import Segment
from hermes_lab.policies.base import Admission, LayerView, Merged, Policy, Scores

Answer = TypeVar("Answer")
Kind = TypeVar("Kind")


def name_of(policy: Policy) -> str:
    """What a policy is called in error sentences."""
    return policy.name or type(policy).__name__


def call(policy: Policy, method: str, layer: int | None, function: Callable[[], Answer]) -> Answer:
    """Run a policy's method; whatever it raises becomes one sentence.

    Raises:
        PolicyError: always, when the method raised.
    """
    try:
        return function()
    except LabError:
        raise
    except Exception as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise PolicyError(
            f"Policy {name_of(policy)!r} failed in {method}(){_at(layer)}: {type(error).__name__}: "
            f"{first_line}. Nothing was changed; mend the policy or choose another."
        ) from error


def expect(
    policy: Policy, method: str, layer: int | None, value: Any, kind: type[Kind], what: str
) -> Kind:
    """The value, if it is of the kind that the contract names."""
    if not isinstance(value, kind):
        raise PolicyError(
            f"Policy {name_of(policy)!r} returned a {type(value).__name__} from {method}(){_at(layer)}; "
            f"it must be {what}."
        )
    return value


def check_choice(policy: Policy, layers: int, protected: int, evaluation: bool) -> None:
    """Whether a policy may be used here at all: its budgets fit, and it does not peek."""
    if policy.evaluation_only and not evaluation:
        raise PolicyError(
            f"Policy {policy.name!r} looks at the future question: it is an upper bound for evaluations "
            "and is refused elsewhere."
        )
    budgets = call(policy, "budgets", None, lambda: policy.budgets(layers))
    if budgets is not None and min(check_budgets(policy, budgets, layers)) < protected:
        raise PolicyError(
            f"A budget of {min(budgets)} tokens per layer is smaller than the protected prefix of "
            f"{protected} tokens; give at least {protected}."
        )


def check_budgets(policy: Policy, budgets: Any, layers: int, limit: int | None = None) -> list[int]:
    """Budgets in tokens, one a layer; with `limit` their total must not exceed it."""
    method = "budgets" if limit is None else "adapt_budgets"
    values: list[Any] = list(expect(policy, method, None, budgets, Sequence, "a list of numbers"))
    if len(values) != layers:
        raise PolicyError(
            f"Policy {name_of(policy)!r} gives {len(values)} budgets, but the model has {layers} layers."
        )
    if not all(isinstance(b, int) and b >= 0 for b in values):
        raise PolicyError(
            f"Policy {name_of(policy)!r} returned {values!r} from {method}(); budgets are whole numbers of "
            "tokens, none negative."
        )
    if limit is not None and sum(values) > limit:
        raise PolicyError(
            f"Policy {name_of(policy)!r} raised its budgets from {limit} to {sum(values)} tokens in "
            "adapt_budgets(); the total must not grow."
        )
    return values


def check_scores(
    policy: Policy, method: str, views: Sequence[LayerView], raw: Sequence[Any]
) -> list[Scores]:
    """Scores of all layers, total and terms, each [1 or kv_head, token]; the totals without NaN."""
    checked: list[Scores] = []
    for view, answer in zip(views, raw, strict=True):
        scores = Scores(answer) if isinstance(answer, Tensor) else answer
        expect(policy, method, view.layer, scores, Scores, "Scores or a tensor [head, token]")
        _check_columns(policy, method, view, {"total": scores.total, **scores.terms})
        checked.append(scores)
    # one look at all layers: asking each of them would make an accelerator wait as often
    device = views[0].ids.device
    together = torch.cat([s.total.flatten().to(device) for s in checked])
    if bool(together.isnan().any()):
        layer = next(
            v.layer for v, s in zip(views, checked, strict=True) if bool(s.total.isnan().any())
        )
        raise PolicyError(
            f"Policy {name_of(policy)!r} returned NaN from {method}() at layer {layer}; "
            "the step was undone, look for a division by zero in its score."
        )
    return checked


def check_observed(policy: Policy, view: LayerView, named: Any) -> Mapping[str, Tensor]:
    """Per-token state of one layer, each [1 or kv_head, token]."""
    values = expect(policy, "observe", view.layer, named, Mapping, "a mapping of names to tensors")
    _check_columns(policy, "observe", view, values)
    return values


def _check_columns(policy: Policy, method: str, view: LayerView, named: Mapping[str, Any]) -> None:
    good = ((1, view.tokens), (view.kv_heads, view.tokens))
    for label, value in named.items():
        if not isinstance(value, Tensor):
            what = f"a tensor [head, token] for {label!r}"
            value = expect(policy, method, view.layer, value, Tensor, what)
        if value.shape not in good:
            raise PolicyError(
                f"Policy {name_of(policy)!r} returned {label!r} of shape {list(value.shape)} from {method}() "
                f"at layer {view.layer}; it must be [1 or {view.kv_heads}, {view.tokens}]."
            )


def check_indices(
    policy: Policy,
    method: str,
    views: Sequence[LayerView],
    raw: Sequence[Any],
    most: Sequence[int] | None = None,
) -> list[Int[Tensor, "head chosen"]]:
    """Ascending indices of tokens of some layers, for all heads alike or one row a KV head; at most `most` of them."""
    what = "a tensor of indices [head, token]"
    indices = [
        expect(policy, method, view.layer, index, Tensor, what)
        for view, index in zip(views, raw, strict=True)
    ]
    limits = [None] * len(views) if most is None else most
    shaped = map(_is_shaped, indices, views, limits)
    if not all(shaped) or not _in_order(indices, views):
        _refuse_indices(policy, method, indices, views, limits)
    return [index.to(v.ids.device).long() for index, v in zip(indices, views, strict=True)]


def _is_shaped(index: Tensor, view: LayerView, most: int | None) -> bool:
    whole = not index.is_floating_point() and not index.is_complex() and index.dtype.itemsize > 1
    rows = index.ndim == 2 and index.shape[0] in (1, view.kv_heads)
    return whole and rows and (most is None or index.shape[1] <= most)


def _in_order(indices: Sequence[Tensor], views: Sequence[LayerView]) -> bool:
    """Whether indices ascend between 0 and the number of tokens; layers of one shape are looked at together."""
    keys = [(i.shape, i.dtype, i.device, v.tokens) for i, v in zip(indices, views, strict=True)]
    for layers in alike(keys):
        rows = torch.cat([indices[n] for n in layers])
        if not rows.numel():
            continue
        rising = bool((rows[:, 1:] > rows[:, :-1]).all())  # then the ends are the extremes
        tokens = views[layers[0]].tokens
        if not rising or int(rows[:, 0].min()) < 0 or int(rows[:, -1].max()) >= tokens:
            return False
    return True


def _refuse_indices(
    policy: Policy,
    method: str,
    indices: Sequence[Tensor],
    views: Sequence[LayerView],
    limits: Sequence[int | None],
) -> NoReturn:
    """Name the first layer whose indices are wrong."""
    index, view, most = next(
        (index, view, most)
        for index, view, most in zip(indices, views, limits, strict=True)
        if not _is_shaped(index, view, most) or not _in_order([index], [view])
    )
    limit = "" if most is None else f", at most {most}"
    raise PolicyError(
        f"Policy {name_of(policy)!r} returned indices of shape {list(index.shape)} and type {index.dtype} "
        f"from {method}() at layer {view.layer}; they must be ascending, between 0 and {view.tokens - 1}"
        f"{limit} for each of 1 or {view.kv_heads} heads."
    )


def check_merged(policy: Policy, view: LayerView, raw: Any, room: int) -> Merged | None:
    """Tokens made by `merge`, complete and within the room that the budget leaves (see `check_finite`)."""
    if raw is None:
        return None
    merged = expect(policy, "merge", view.layer, raw, Merged, "Merged or None")
    for label in ("keys", "values", "positions"):
        value = getattr(merged, label)
        expect(policy, "merge", view.layer, value, Tensor, f"a tensor for {label!r}")
    new = int(merged.positions.shape[-1])
    width = None if view.keys is None else view.keys.shape[-1]
    shapes = [
        (view.kv_heads, new, width if width else t.shape[-1]) for t in (merged.keys, merged.values)
    ]
    if (
        [tuple(merged.keys.shape), tuple(merged.values.shape)] != shapes
        or tuple(merged.positions.shape) != (view.positions.shape[1], new)
        or len(merged.sources) != new
    ):
        raise PolicyError(
            f"Policy {name_of(policy)!r} returned merged tokens of unequal shapes from merge() at layer "
            f"{view.layer}: keys {list(merged.keys.shape)}, values {list(merged.values.shape)}, positions "
            f"{list(merged.positions.shape)}, {len(merged.sources)} sources."
        )
    if new > room:
        raise PolicyError(
            f"Policy {name_of(policy)!r} merged {new} tokens at layer {view.layer} where its budget leaves "
            f"room for {room}."
        )
    return merged


def check_finite(policy: Policy, merged: Mapping[int, Merged]) -> None:
    """Keys and values of merged tokens by layer: none may be NaN or infinite; one look at all layers."""
    made = [tensor.flatten() for one in merged.values() for tensor in (one.keys, one.values)]
    if not made or bool(torch.cat([t.to(made[0].device) for t in made]).isfinite().all()):
        return
    layer = next(n for n, one in merged.items() if not _is_finite(one))
    raise PolicyError(f"Policy {name_of(policy)!r} returned NaN from merge() at layer {layer}.")


def _is_finite(merged: Merged) -> bool:
    return bool(merged.keys.isfinite().all() and merged.values.isfinite().all())


def check_admission(policy: Policy, raw: Any, segment: Segment) -> Admission | None:
    """What `admit` lets in: ascending indices, embeddings that fit them, terms for every arriving token."""
    if raw is None:
        return None
    admission = expect(policy, "admit", None, raw, Admission, "an Admission or None")
    keep = expect(
        policy, "admit", None, admission.keep, Tensor, "an Admission of a tensor of indices"
    )
    good = keep.ndim == 1 and not keep.is_floating_point() and keep.dtype.itemsize > 1
    if good and keep.numel():
        rising = bool((keep[1:] > keep[:-1]).all())
        good = rising and int(keep[0]) >= 0 and int(keep[-1]) < len(segment)
    if not good:
        raise PolicyError(
            f"Policy {name_of(policy)!r} admitted tokens that are not ascending indices between 0 and "
            f"{len(segment) - 1}."
        )
    embeds = admission.embeds
    if embeds is not None and (
        embeds.shape != (keep.shape[0], segment.embeds.shape[1])
        or not bool(embeds.isfinite().all())
    ):
        raise PolicyError(
            f"Policy {name_of(policy)!r} admitted {keep.shape[0]} tokens with embeddings of shape "
            f"{list(embeds.shape)} or with NaN in them."
        )
    for label, value in admission.terms.items():
        if tuple(value.shape) != (len(segment),):
            raise PolicyError(
                f"Policy {name_of(policy)!r} explained its admission by {label!r} of shape {list(value.shape)}; "
                f"terms of admit() have one value for each of the {len(segment)} arriving tokens."
            )
    return admission


def _at(layer: int | None) -> str:
    return "" if layer is None else f" at layer {layer}"

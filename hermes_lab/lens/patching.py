"""Activation patching: activations of one question's pass put into another's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from hermes_lab.errors import LabError
from hermes_lab.lens.logits import answer_pair, difference
from hermes_lab.lens.tokens import check_head
from hermes_lab.stream.question_pass import NamesFilter, resolve

if TYPE_CHECKING:
    from transformer_lens import ActivationCache

    from hermes_lab.stream.session import StreamSession

Source = Mapping[str, Tensor]
BY_HEAD = (
    "hook_q",
    "hook_k",
    "hook_v",
    "hook_z",
    "hook_rot_q",
    "hook_rot_k",
)  # [batch, pos, head, dim]
ROWS = ("hook_pattern", "hook_attn_scores")  # [batch, head, pos, key]


def patch(
    session: StreamSession,
    question: str,
    source: Source | ActivationCache,
    names: NamesFilter,
    *,
    positions: Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
) -> Float[Tensor, "new vocabulary"]:
    """Logits of a question whose activations at some hooks come from another pass (Vig et al. 2020; Meng et al. 2022).

    Args:
        question: plain text.
        source: activations by hook name, as `activation_cache` gives them: of another question, another session,
            another policy.
        names: which hooks: a name, several, or a predicate; None: all that the source holds.
        positions: which tokens of the question's turn; negative ones count from the end of either turn, so that
            questions of different lengths can be matched there. None: all, for turns of equal length.
        heads: which heads, for hooks that have a head axis (KV heads for keys and values); None: all.

    Raises:
        LabError: a hook is not in the source, or shapes, positions or heads do not fit.
    """
    held = dict(source.items())
    chosen = [n for n in resolve(session, names) if names is not None or n in held]
    missing = [n for n in chosen if n not in held]
    if missing or not chosen:
        what = repr(missing[0]) if missing else "any of these hooks"
        raise LabError(
            f"The source holds no activation of {what}; run it with a filter that keeps it."
        )
    listed = None if heads is None else [heads] if isinstance(heads, int) else list(heads)

    def replace(tensor: Tensor, hook: Any) -> Tensor:
        return _put(session, hook.name, tensor, held[hook.name], positions, listed)

    with session.alone(), session.hooks([(name, replace) for name in chosen]):
        return session.question_logits(question)


@dataclass(frozen=True)
class PatchSweep:
    """One patched run for each layer and position.

    Attributes:
        question, name: what was asked, and which activation was patched.
        differences: logit difference of the answers when patched, [layer, position].
        clean: the difference of the unpatched run.
    """

    question: str
    name: str
    positions: tuple[int, ...]
    differences: npt.NDArray[np.float32]
    clean: float


def patch_sweep(
    session: StreamSession,
    question: str,
    source: Source | ActivationCache,
    answer: str | int,
    other: str | int,
    *,
    name: str = "hook_resid_post",
    positions: Sequence[int] = (-1,),
) -> PatchSweep:
    """Patch one activation in every layer and position in turn, and see how two answers' logits differ then.

    Args:
        name: the hook within a block, such as "hook_resid_post" or "attn.hook_z".

    Raises:
        LabError: as for `patch`, or the answers begin with the same token.
    """
    pair = answer_pair(session, answer, other)

    def patched(layer: int, at: int) -> float:
        logits = patch(session, question, source, f"blocks.{layer}.{name}", positions=[at])
        return difference(logits, pair)

    with session.alone():  # all of them on one memory
        clean = difference(session.question_logits(question), pair)
        found = [[patched(layer, at) for at in positions] for layer in range(session.engine.layers)]
    return PatchSweep(question, name, tuple(positions), np.array(found, np.float32), clean)


def _put(
    session: StreamSession,
    name: str,
    into: Tensor,
    source: Tensor,
    positions: Sequence[int] | None,
    heads: list[int] | None,
) -> Tensor:
    """`into` with some positions and heads taken from `source`."""
    point = name.rsplit(".", 1)[-1]
    axis, head_axis = (2, 1) if point in ROWS else (1, 2)
    source = source.to(into)
    if source.ndim == into.ndim - 1:
        source = source[None]  # a cache whose batch axis was removed
    length, given = into.shape[axis], source.shape[axis]
    if positions is None and length != given:
        raise LabError(
            f"The turns at {name!r} have {length} and {given} tokens; name positions from the end, such as -1."
        )
    at = list(range(length)) if positions is None else list(positions)
    for position in at:
        shortest = min(length, given)
        if not -shortest <= position < shortest:
            raise LabError(
                f"Position {position} is not in both turns, of {length} and {given} tokens."
            )
    taken = source.index_select(axis, torch.tensor([p % given for p in at], device=source.device))
    rest = [n for n in range(into.ndim) if n != axis]
    if [into.shape[n] for n in rest] != [source.shape[n] for n in rest]:
        raise LabError(
            f"The activation at {name!r} has shape {list(source.shape)} in the source and {list(into.shape)} "
            "here; patterns can only be exchanged between memories of equal size."
        )
    index = torch.tensor([p % length for p in at], device=into.device)
    if heads is not None:
        if point not in (*BY_HEAD, *ROWS):
            raise LabError(f"The activation at {name!r} has no heads; leave heads out.")
        count = into.shape[head_axis]
        for head in heads:
            if count == session.engine.query_heads:
                check_head(session, head)
            elif not -count <= head < count:
                raise LabError(f"There is no KV head {head}; the model has heads 0 to {count - 1}.")
        keep = [h for h in range(count) if h not in {one % count for one in heads}]
        kept = torch.tensor(keep, device=into.device, dtype=torch.long)
        old = into.index_select(axis, index).index_select(head_axis, kept)
        taken = taken.index_copy(head_axis, kept, old)
    return into.index_copy(axis, index, taken)

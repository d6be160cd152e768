"""Attention weighted by what it carries: the norm of every token's contribution to a head's output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from hermes_lab.lens.linear import ids_by_head, values_by_head, write_weights
from hermes_lab.lens.logits import check_positions
from hermes_lab.lens.tokens import check_layer
from hermes_lab.stream.question_pass import question_pass

if TYPE_CHECKING:
    from hermes_lab.stream.session import StreamSession

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ValueWeighted:
    """Per layer, since layers hold different numbers of tokens.

    Attributes:
        question: what was asked.
        layers: which layers were read; the tuples below have one entry for each.
        positions: token positions within the question's turn.
        norms: ||a_ij W_O W_V x_j|| of each head and token, layer -> [query_head, position, token].
        attention: a_ij alone, of the same shape.
        ids: global ids of the tokens, -1 for the question's own, layer -> [query_head, token].
    """

    question: str
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    norms: tuple[FloatArray, ...]
    attention: tuple[FloatArray, ...]
    ids: tuple[IntArray, ...]


@torch.no_grad()
def value_weighted(
    session: StreamSession,
    question: str,
    *,
    positions: Sequence[int] | None = (-1,),
    layers: Sequence[int] | None = None,
) -> ValueWeighted:
    """Norms of the value vectors that a question's tokens receive (Kobayashi et al., arXiv 2004.10102, §3).

    The value's bias counts as part of it, the output projection's bias does not. Where a norm follows the
    projection (Gemma 3), it is held at what it did and counted in.

    Args:
        question: plain text.
        positions: which tokens of the question's turn, negative from its end; None: all.
        layers: which layers, negative from the last; None: all. What is left out costs nothing.

    Raises:
        LabError: the question is empty, a position lies outside it, or there is no such layer.
    """
    engine = session.engine
    chosen = tuple(
        range(engine.layers) if layers is None else (check_layer(session, n) for n in layers)
    )
    points = [f"blocks.{n}.attn.{point}" for n in chosen for point in ("hook_pattern", "hook_z")]
    seen = question_pass(session, question, points)
    where = check_positions(positions, seen.hidden.shape[0])
    norms: list[FloatArray] = []
    attention: list[FloatArray] = []
    ids: list[IntArray] = []
    for layer in chosen:
        state = seen.states[layer]
        pattern = seen.activations[f"blocks.{layer}.attn.hook_pattern"][0, :, list(where)].float()
        z = seen.activations[f"blocks.{layer}.attn.hook_z"][0, list(where)]
        weights, gain = write_weights(session, layer, z)
        values = values_by_head(state, engine.query_heads).float()
        gains, row_of = gain.float().unique(
            dim=0, return_inverse=True
        )  # one, unless a norm follows
        lengths = [_length(values, weights.float() * factor) for factor in gains]
        norms.append((pattern * torch.stack(lengths, 1)[:, row_of]).cpu().numpy())
        attention.append(pattern.cpu().numpy())
        ids.append(ids_by_head(state, engine.query_heads).cpu().numpy())
    return ValueWeighted(question, chosen, where, tuple(norms), tuple(attention), tuple(ids))


def _length(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """||v W|| of every token without writing v W out, [query_head, token]."""
    gram = weights @ weights.transpose(1, 2)
    return ((values @ gram) * values).sum(-1).clamp(min=0).sqrt()

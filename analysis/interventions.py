"""Many knockouts of one question in few passes, and the token sets that are knocked out.

Copies of the question stand side by side in one block-masked pass, each blind to other tokens. That is the
same computation as `hermes_lab.lens.knockout`, one at a time, and is tested to agree with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from analysis.arrays import Ints, Mask
from analysis.streams import Grid
from hermes_lab.engine.hooks import layer_of
from hermes_lab.engine.passes import Wants
from hermes_lab.segment import Segment, join
from hermes_lab.stream.session import StreamSession

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint

ROW_KEYS = 60_000_000  # scores of one pass, over heads


@dataclass(frozen=True)
class Condition:
    """What one copy of a question cannot see.

    Attributes:
        layers: where.
        hidden: cached tokens (a full cache: by global id), [token].
        last_row_only: hidden from the last token of the question only.
        hide_question: the last token does not see the question's other tokens either.
    """

    layers: frozenset[int]
    hidden: Mask
    last_row_only: bool = False
    hide_question: bool = False


def condition(session: StreamSession, layers: Iterable[int], ids: npt.ArrayLike) -> Condition:
    """Hide some cached tokens in some layers."""
    hidden = np.zeros(len(session.table), dtype=bool)
    hidden[np.asarray(ids, dtype=int).ravel()] = True
    return Condition(frozenset(layers), hidden)


def untouched(session: StreamSession) -> Condition:
    """Hide nothing."""
    return condition(session, (), np.empty(0, dtype=int))


@torch.inference_mode()
def knocked_logits(
    session: StreamSession, question: str, conditions: Sequence[Condition]
) -> Float[Tensor, "condition vocabulary"]:
    """Logits of the answer's first token under each condition; the cache is left as it was.

    Works on a full cache, where a token's global id is its place in every layer.
    """
    segment = session.engine.adapter.question(question)
    new, cached = len(segment), len(session.table)
    per_copy = new * (cached + new) * session.engine.query_heads
    # Copies see each other's columns only to be masked: few enough that these stay a minor part.
    batch = max(1, min(ROW_KEYS // per_copy, cached // (2 * new)))
    # Conditions on the same layers together: a pass edits only the layers that one of its copies needs.
    order = sorted(range(len(conditions)), key=lambda i: sorted(conditions[i].layers))
    out: list[Tensor] = []
    for start in range(0, len(order), batch):
        some = [conditions[i] for i in order[start : start + batch]]
        out.append(_pass(session, segment, some))
    return torch.cat(out)[torch.as_tensor(order).argsort()]


def _pass(session: StreamSession, segment: Segment, conditions: Sequence[Condition]) -> Tensor:
    copies, new, cached = len(conditions), len(segment), len(session.table)
    layers = sorted(frozenset[int]().union(*(c.layers for c in conditions)))
    masks = {layer: _mask(conditions, layer, new, cached) for layer in layers}

    def blind(scores: Tensor, hook: HookPoint) -> Tensor:
        return scores.masked_fill_(masks[layer_of(hook)].to(scores.device), float("-inf"))

    single = torch.ones(new, new).tril()
    block = torch.block_diag(*[single] * copies).bool()
    cache = session.stream.cache.beside()
    hooks = [(f"blocks.{layer}.attn.hook_attn_scores", blind) for layer in layers]
    with session.hooks(hooks):
        wants = Wants(block_mask=block, board=session.board)
        hidden = session.engine.forward(cache, join([segment] * copies), "question", wants=wants)
    last = rearrange(hidden, "(copy row) dim -> copy row dim", copy=copies)[:, -1]
    return session.engine.logits(last)


def _mask(conditions: Sequence[Condition], layer: int, new: int, cached: int) -> Tensor:
    """Which keys each row of the side-by-side pass must not see, [row, key]."""
    copies = len(conditions)
    mask = np.zeros((copies, new, cached + copies * new), dtype=bool)
    for i, c in enumerate(conditions):
        if layer in c.layers:
            rows = slice(-1, None) if c.last_row_only else slice(None)
            mask[i, rows, :cached] = c.hidden
            if c.hide_question:
                mask[i, -1, cached + i * new : cached + (i + 1) * new - 1] = True
    return torch.from_numpy(rearrange(mask, "copy row key -> (copy row) key"))


# --- token sets --------------------------------------------------------------------------------
def recent(grid: Grid, frames: int) -> Ints:
    """Tokens of the newest frames."""
    return grid.ids[-frames:].ravel()


def older(grid: Grid, frames: int) -> Ints:
    """Tokens of all frames except the newest."""
    return grid.ids[:-frames].ravel()


def slot(grid: Grid, index: int) -> Ints:
    """One within-frame slot of every frame: the anchors, if that is their slot."""
    return grid.ids[:, index]


def others(grid: Grid, ids: npt.ArrayLike) -> Ints:
    """All video tokens except the given ones: what is hidden so that only those are seen."""
    return np.setdiff1d(grid.ids.ravel(), np.asarray(ids))


def random_frames(grid: Grid, frames: int, rng: np.random.Generator) -> Ints:
    """A matched control of `recent`: as many consecutive frames from elsewhere in the stream."""
    start = int(rng.integers(0, max(1, grid.frames - 2 * frames + 1)))
    return grid.ids[start : start + frames].ravel()


def random_slots(grid: Grid, avoid: int, rng: np.random.Generator) -> Ints:
    """A matched control of `slot`: one other slot of every frame, drawn frame by frame."""
    draws = rng.integers(0, grid.slots - 1, grid.frames)
    return grid.ids[np.arange(grid.frames), draws + (draws >= avoid)]


def random_tokens(grid: Grid, count: int, avoid: npt.ArrayLike, rng: np.random.Generator) -> Ints:
    """A matched control of any set: as many video tokens from outside it."""
    pool = np.setdiff1d(grid.ids.ravel(), np.asarray(avoid))
    return np.sort(rng.choice(pool, min(count, len(pool)), replace=False))

"""Position rules: when and how the tokens that survived a decision are renumbered.

keep        original positions, always.
lazy        original positions; compacted only when the largest nears the model's limit (HERMES, App. E), and
            before a chunk that would cross it.
eager       compacted after every decision, axis by axis (HERMES, App. E).
contiguous  renumbered 0, 1, 2, ... after every decision on all axes alike (StreamingLLM); differs from
            eager on M-RoPE models only, where it gives up the rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

import torch
from jaxtyping import Int
from torch import Tensor

from hermes_lab.engine.cache import LayerState
from hermes_lab.engine.cursor import Cursor
from hermes_lab.engine.rope import Rope, compact_contiguous, compact_ranks
from hermes_lab.errors import PolicyError, nearest
from hermes_lab.segment import Segment

LAZY_MARGIN = 1024  # positions left below the limit when lazy compaction steps in (HERMES' code)


class PositionRule(StrEnum):
    """Names of the rules; see the module docstring."""

    KEEP = "keep"
    LAZY = "lazy"
    EAGER = "eager"
    CONTIGUOUS = "contiguous"

    @classmethod
    def parse(cls, name: str) -> PositionRule:
        """The rule of that name.

        Raises:
            PolicyError: there is none; the sentence names the known ones.
        """
        try:
            return cls(name)
        except (TypeError, ValueError):
            raise PolicyError(
                f"There is no position rule {name!r}: {nearest(name, [r.value for r in cls])}"
            ) from None


def lazy_threshold(limit: int) -> int:
    """Next position above which lazy compaction steps in, for a model of `limit` positions."""
    return limit - min(LAZY_MARGIN, limit // 4)


def due(rule: PositionRule, states: Sequence[LayerState], limit: int, decided: bool) -> bool:
    """Whether positions are to be compacted now, in all layers at once."""
    if rule is PositionRule.LAZY:
        return any(state.cursor.next > lazy_threshold(limit) for state in states)
    return decided and rule in (PositionRule.EAGER, PositionRule.CONTIGUOUS)


def due_before(
    rule: PositionRule, states: Sequence[LayerState], limit: int, entering: Segment
) -> bool:
    """Whether positions are to be compacted before a chunk, which would reach beyond the limit in some layer."""
    if rule is not PositionRule.LAZY:
        return False
    return any(state.cursor.place(entering)[1].next > limit for state in states)


def reindex(
    rule: PositionRule, state: LayerState, layer: int, rope: Rope, protected: int
) -> LayerState:
    """Renumber a layer's tokens by the rule and re-rotate their keys to match."""
    if state.keys is None or state.tokens <= protected:
        return state
    compact = compact_contiguous if rule is PositionRule.CONTIGUOUS else compact_ranks
    new = compact(state.positions, protected)
    cursor = behind(state, new, protected)
    if torch.equal(new, state.positions):  # turning keys by nothing would only round them
        return state if cursor == state.cursor else replace(state, cursor=cursor)
    keys = rope.rotate(state.keys[0], state.positions, new, layer)[None]
    return replace(state, keys=keys, positions=new, cursor=cursor)


def behind(state: LayerState, positions: Int[Tensor, "head axis token"], protected: int) -> Cursor:
    """The cursor directly after the largest positions in use."""
    largest = int(positions.max()) + 1
    if state.cursor.video is None:
        return Cursor(largest)
    origin = state.cursor.video[1]
    video = positions[:, 0, protected:]
    time = int(video.max()) + 1 if video.numel() else origin
    return Cursor(largest, (time, origin))

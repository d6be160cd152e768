"""One forward of new tokens over the cache: what is fed, what is wanted from it, and the context it runs in."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from hermes_lab.engine.cache import StreamCache
from hermes_lab.engine.cursor import Cursor
from hermes_lab.engine.hooks import HookBoard
from hermes_lab.engine.upstream import Tables

PassKind = Literal["prefix", "chunk", "guidance", "question"]


@dataclass(frozen=True)
class Knockout:
    """Cached tokens that some queries may not attend to (the weights are renormalised over the rest).

    Attributes:
        ids: global token ids to hide.
        layers: layers where they are hidden; None: all.
        heads: query heads for which they are hidden; None: all.
        passes: kinds of forward pass in which it holds.
    """

    ids: Int[Tensor, " token"]
    layers: frozenset[int] | None = None
    heads: tuple[int, ...] | None = None
    passes: frozenset[str] = frozenset({"question"})

    def hidden(
        self, layer: int, kind: str, cached: Int[Tensor, "head token"], query_heads: int
    ) -> Bool[Tensor, "query_head token"] | None:
        """Mask of hidden cached tokens for one layer, None if nothing is hidden there."""
        if kind not in self.passes or (self.layers is not None and layer not in self.layers):
            return None
        mask = torch.isin(cached, self.ids.to(cached.device))
        mask = mask.repeat_interleave(query_heads // mask.shape[0], 0)
        if self.heads is not None:
            chosen = torch.zeros(query_heads, 1, dtype=torch.bool, device=mask.device)
            chosen[list(self.heads)] = True
            mask = mask & chosen
        return mask


@dataclass(frozen=True)
class Wants:
    """What a caller wants from a pass besides its hidden states.

    Attributes:
        block_mask: which new tokens see which new tokens (several prompts in one pass); None: causal.
        rows: query rows whose attention is wanted.
        on_rows: receives (layer, pattern [query_head, row, key], fp32) of those rows.
        on_received: receives (layer, attention received summed over all queries [query_head, key]).
        knockouts: tokens to hide.
        board: hook points that are listened to.
        before_attention: called with (pass, layer, attention module, normalised hidden states) before each attention.
    """

    block_mask: Bool[Tensor, "new new"] | None = None
    rows: slice | None = None
    on_rows: Callable[[int, Tensor], None] | None = None
    on_received: Callable[[int, Tensor], None] | None = None
    knockouts: Sequence[Knockout] = ()
    board: HookBoard | None = None
    before_attention: Callable[[Pass, int, nn.Module, Tensor], None] | None = None


@dataclass
class Pass:
    """One forward of new tokens over the cache.

    Attributes:
        cache: the cache that the pass runs on.
        kind: what is being fed.
        positions: rotary positions of the new tokens, per layer.
        tables: rotary tables of the new tokens, per layer.
        wants: what is wanted from it.
        cursors: where each layer goes on after it; None: not known before the pass is over.
        last_layer: layer whose rows end the pass (`Enough` is raised); None: it runs through.
        proving: inputs of attention modules whose keys are to be checked against the tables; None: unchecked.
        served: layers whose attention came through here.
        masks: causal masks that were made, by (new tokens, all tokens).
    """

    cache: StreamCache
    kind: PassKind
    positions: list[Int[Tensor, "axis new"]]
    tables: list[Tables]
    wants: Wants = Wants()
    cursors: list[Cursor | None] = field(default_factory=list[Cursor | None])
    last_layer: int | None = None
    proving: dict[int, Tensor] | None = None
    served: int = 0
    masks: dict[tuple[int, int], Tensor] = field(default_factory=dict[tuple[int, int], Tensor])

    def narrow(self, new: int) -> None:
        """Go on with the first `new` tokens only."""
        self.positions = [where[..., :new] for where in self.positions]
        self.tables = [(cos[..., :new, :], sin[..., :new, :]) for cos, sin in self.tables]
        block = self.wants.block_mask
        if block is not None:
            self.wants = replace(self.wants, block_mask=block[:new, :new])

    def listening(self, name: str) -> bool:
        """Whether somebody listens to a hook point during this pass."""
        board = self.wants.board
        return board is not None and board.listening(name)


class Enough(Exception):
    """Ends a pass at `Pass.last_layer`, where everything that is wanted from it has been read."""


_RUNNING: ContextVar[Pass | None] = ContextVar("hermes_lab_pass", default=None)


@contextmanager
def running(current: Pass) -> Generator[Pass]:
    """Make `current` the pass that the model's forward serves inside the block."""
    token = _RUNNING.set(current)
    try:
        yield current
    finally:
        _RUNNING.reset(token)


def current_pass() -> Pass | None:
    """The pass that is being served in this context."""
    return _RUNNING.get()

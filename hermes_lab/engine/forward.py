"""One forward of new tokens over a stream's cache, with every layer at its own positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.engine import upstream
from hermes_lab.engine.attention import instrument, tap
from hermes_lab.engine.cache import LayerState, StreamCache, empty
from hermes_lab.engine.cursor import Cursor
from hermes_lab.engine.passes import Enough, Pass, PassKind, Wants, running
from hermes_lab.engine.rope import Rope
from hermes_lab.engine.upstream import Tables
from hermes_lab.errors import ModelError
from hermes_lab.models.base import Adapter
from hermes_lab.segment import Segment

PROOF_TOKENS, PROOF_STRIDE = 8, 37  # tokens and their distance in the pass that proves a model


class Engine:
    """Runs an adapter's decoder on stream caches. Holds no stream state: caches are handed in."""

    def __init__(self, adapter: Adapter) -> None:
        instrument(adapter)
        self.adapter = adapter
        self.rope = Rope(adapter)
        self.layers = len(adapter.layers)
        config = adapter.text_config
        self.query_heads = int(config.num_attention_heads)
        self.kv_heads = int(config.num_key_value_heads)
        self.window = _window(config)
        self._proven = False

    @property
    def position_limit(self) -> int:
        """Positions that every layer can look back over: the model's own limit, its rope's or its sliding window."""
        known = (self.adapter.max_positions, self.rope.limit, self.window)
        return min(limit for limit in known if limit is not None)

    def new_cache(self) -> StreamCache:
        """An empty cache for this model."""
        return StreamCache([empty(self.rope.axes, self.adapter.device)] * self.layers)

    @torch.no_grad()
    def forward(
        self,
        cache: StreamCache,
        segment: Segment,
        kind: PassKind,
        ids: Int[Tensor, " new"] | None = None,
        wants: Wants = Wants(),
    ) -> Float[Tensor, "new hidden"]:
        """Feed a segment to the decoder; its keys and values are in the cache afterwards.

        Args:
            ids: global token ids; None: transient tokens, named -1.
            wants: what to read and to change on the way.

        Returns:
            normalised hidden states of the new tokens.

        Raises:
            ModelError: a sliding-window layer would lose sight of what it holds.
        """
        self._prove_once()
        self._check_window(cache.states, len(segment))
        positions, tables, cursors = self.place(cache.states, segment, segment.embeds.dtype)
        board = wants.board if wants.board is not None and not wants.board.quiet else None
        if board is not None:
            tap(self.adapter)
        current = Pass(cache, kind, positions, tables, replace(wants, board=board), cursors)
        first = positions[0][:, None] if self.rope.axes == 3 else positions[0]
        with running(current):
            hidden = upstream.run_decoder(
                self.adapter.decoder,
                cache,
                segment.embeds,
                first,
                **self.adapter.forward_kwargs(segment),
            )
        _check_pass(current, len(segment))
        names = ids if ids is not None else torch.full((len(segment),), -1)
        names = names.to(self.adapter.device)
        for layer, holder in enumerate(cache.stream_layers):
            cursor = current.cursors[layer]
            if cursor is None:
                cursor = holder.state.cursor.place(segment)[1]
            holder.settle(names, current.positions[layer], cursor)
        return hidden

    @torch.no_grad()
    def read_layers(
        self,
        cache: StreamCache,
        segment: Segment,
        alive: Sequence[int],
        listener: Callable[[int], Callable[[int, Tensor], None] | None],
        wants: Wants = Wants(),
    ) -> None:
        """Run transient tokens through the first layers for their attention alone; the cache stays as it is.

        Args:
            alive: how many of the tokens, from the first, each layer works on: never more than the layer below,
                and one entry for each layer up to the last that is read.
            listener: who receives (layer, pattern [query_head, row, key]) of a layer; None: nobody.
            wants: what else is wanted; `on_rows` is the listener's.

        Raises:
            ModelError: a sliding-window layer would lose sight of what it holds.
        """
        self._check_window(cache.states, len(segment))
        positions, tables, _ = self.place(cache.states, segment, segment.embeds.dtype)
        beside = cache.beside()
        current = Pass(beside, "guidance", positions, tables, wants, last_layer=len(alive) - 1)
        hidden = segment.embeds[None]
        with running(current), suppress(Enough):
            for layer, rows in enumerate(alive):
                if rows < hidden.shape[1]:
                    hidden = hidden[:, :rows]
                    current.narrow(rows)
                current.wants = replace(current.wants, on_rows=listener(layer))
                hidden = upstream.run_layer(
                    self.adapter.layers[layer],
                    beside,
                    hidden,
                    current.positions[layer][:1],
                    current.tables[layer],
                )

    def _prove_once(self) -> None:
        """Before a model's first pass: its attention must turn keys by the tables of the pass, layer by layer.

        A few tokens are fed with other tables than the decoder makes for itself, as they are whenever layers hold
        different tokens.

        Raises:
            ModelError: it does not (see `upstream.check_rotation`), or keeps a cache of its own.
        """
        if self._proven:
            return
        embeds = self.adapter.embed(torch.arange(PROOF_TOKENS))
        own = torch.arange(PROOF_TOKENS, device=embeds.device).expand(self.rope.axes, -1)
        shifted = own * PROOF_STRIDE + PROOF_STRIDE
        current = Pass(
            cache=self.new_cache(),
            kind="prefix",
            positions=[shifted] * self.layers,
            tables=[self.rope.tables(shifted, n, embeds.dtype) for n in range(self.layers)],
            proving={},
        )
        first = own[:, None] if self.rope.axes == 3 else own
        with running(current):
            upstream.run_decoder(self.adapter.decoder, current.cache, embeds, first)
        _check_pass(current, PROOF_TOKENS)
        self._proven = True

    @torch.no_grad()
    def logits(self, hidden: Float[Tensor, "token hidden"]) -> Float[Tensor, "token vocabulary"]:
        """Vocabulary logits of normalised hidden states, fp32."""
        head = self.adapter.head
        device = next(head.parameters()).device
        return cast(Tensor, head(hidden.to(device))).float()

    def _check_window(self, states: Sequence[LayerState], new: int) -> None:
        if self.window is None:
            return
        self.adapter.check_streamable(max(state.tokens for state in states) + new)
        furthest = max(state.cursor.next for state in states) + new
        if furthest > self.window:
            raise ModelError(
                f"{self.adapter.name or self.adapter.family} attends to the last {self.window} positions only, and "
                f"the stream would reach position {furthest}; choose positions='eager' so that kept tokens move up."
            )

    def place(
        self, states: Sequence[LayerState], segment: Segment, dtype: torch.dtype
    ) -> tuple[list[Tensor], list[Tables], list[Cursor | None]]:
        """Positions, tables and following cursors of new tokens, per layer; layers that go on from the same place share them."""
        placed: dict[Cursor, tuple[Tensor, Cursor]] = {}
        shared: dict[tuple[Cursor, str | None], Tables] = {}
        positions: list[Tensor] = []
        tables: list[Tables] = []
        cursors: list[Cursor | None] = []
        for layer, state in enumerate(states):
            start = state.cursor
            if start not in placed:
                where, behind = start.place(segment)
                placed[start] = where.to(self.adapter.device), behind
            where, behind = placed[start]
            key = (start, self.rope.kind(layer))
            if key not in shared:
                shared[key] = self.rope.tables(where, layer, dtype)
            positions.append(where)
            tables.append(shared[key])
            cursors.append(behind)
        return positions, tables, cursors

    def place_layer(self, current: Pass, layer: int, segment: Segment) -> None:
        """Recompute one layer's positions after its cache was exchanged during a pass (recall)."""
        state = current.cache.stream_layers[layer].state
        where = state.cursor.place(segment)[0].to(self.adapter.device)
        current.positions[layer] = where
        current.tables[layer] = self.rope.tables(where, layer, segment.embeds.dtype)
        current.cursors[layer] = (
            None  # the layer may have moved: it is placed again when the pass is over
        )


def _check_pass(current: Pass, new: int) -> None:
    """What must hold after each pass, whatever transformers does with our arguments."""
    layers = current.cache.stream_layers
    upstream.check_served(current.served, len(layers))
    upstream.check_grown([n.state.tokens for n in layers], [n.stored for n in layers], new)


def _window(config: Any) -> int | None:
    """The shortest look-back of a decoder with sliding-window layers."""
    kinds = getattr(config, "layer_types", None) or ()
    return int(config.sliding_window) if "sliding_attention" in kinds else None

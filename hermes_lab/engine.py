"""One forward of new tokens over a stream's cache, with every layer at its own positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hermes_lab.attention import Enough, Knockout, Pass, PassKind, instrument, running, tap
from hermes_lab.cache import LayerState, StreamCache
from hermes_lab.errors import ModelError
from hermes_lab.hooks import HookBoard
from hermes_lab.models.base import Adapter, Segment
from hermes_lab.models.cursor import Cursor
from hermes_lab.rope import Rope, Tables


@dataclass(frozen=True)
class Wants:
    """What a caller wants from a forward pass besides its hidden states (see `attention.Pass`)."""

    block_mask: Bool[Tensor, "new new"] | None = None
    rows: slice | None = None
    on_rows: Callable[[int, Tensor], None] | None = None
    on_received: Callable[[int, Tensor], None] | None = None
    knockouts: Sequence[Knockout] = ()
    board: HookBoard | None = None
    before_attention: Callable[[int, nn.Module, Tensor, Pass], None] | None = None


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

    @property
    def position_limit(self) -> int:
        """Positions that every layer can look back over: the model's own limit, or its sliding window."""
        limit = self.adapter.max_positions
        return limit if self.window is None else min(limit, self.window)

    def new_cache(self) -> StreamCache:
        """An empty cache for this model."""
        return StreamCache(self.layers, self.rope.axes, self.adapter.device)

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
        self._check_window(cache.states, len(segment))
        positions, tables, cursors = self.place(cache.states, segment, segment.embeds.dtype)
        board = wants.board if wants.board is not None and not wants.board.quiet else None
        if board is not None:
            tap(self.adapter)
        current = Pass(
            cache=cache,
            kind=kind,
            positions=positions,
            tables=tables,
            block_mask=wants.block_mask,
            rows=wants.rows,
            on_rows=wants.on_rows,
            on_received=wants.on_received,
            knockouts=wants.knockouts,
            board=board,
        )
        if wants.before_attention is not None:
            before = wants.before_attention

            def before_attention(layer: int, module: nn.Module, hidden: Tensor) -> None:
                before(layer, module, hidden, current)
                cursors[layer] = None  # the step may have moved the layer: place again when done

            current.before_attention = before_attention
        first = positions[0][:, None] if self.rope.axes == 3 else positions[0]
        decoder = cast(Callable[..., Any], self.adapter.decoder)
        with running(current):
            hidden = decoder(
                inputs_embeds=segment.embeds[None],
                past_key_values=cache,
                position_ids=first,
                use_cache=True,
                **self.adapter.forward_kwargs(segment),
            ).last_hidden_state[0]
        names = ids if ids is not None else torch.full((len(segment),), -1)
        names = names.to(self.adapter.device)
        for layer, holder in enumerate(cache.stream_layers):
            state = holder.state
            cursor = cursors[layer]
            if cursor is None:
                cursor = state.cursor.place(segment)[1]
            holder.state = replace(
                state.with_metadata(
                    names, current.positions[layer], keys=state.keys, values=state.values
                ),
                cursor=cursor,
            )
        return hidden

    @torch.no_grad()
    def read_layers(
        self,
        cache: StreamCache,
        segment: Segment,
        alive: Sequence[int],
        listener: Callable[[int], Callable[[int, Tensor], None] | None],
        *,
        block_mask: Bool[Tensor, "new new"] | None = None,
        knockouts: Sequence[Knockout] = (),
        before_attention: Callable[[int, nn.Module, Tensor], None] | None = None,
    ) -> None:
        """Run transient tokens through the first layers for their attention alone; the cache stays as it is.

        Args:
            alive: how many of the tokens, from the first, each layer works on: never more than the layer below,
                and one entry for each layer up to the last that is read.
            listener: who receives (layer, pattern [query_head, row, key]) of a layer; None: nobody.
            block_mask, knockouts, before_attention: see `attention.Pass`.

        Raises:
            ModelError: a sliding-window layer would lose sight of what it holds.
        """
        self._check_window(cache.states, len(segment))
        positions, tables, _ = self.place(cache.states, segment, segment.embeds.dtype)
        current = Pass(
            cache=cache,
            kind="guidance",
            positions=positions,
            tables=tables,
            block_mask=block_mask,
            knockouts=knockouts,
            before_attention=before_attention,
            last_layer=len(alive) - 1,
        )
        hidden = segment.embeds[None]
        with cache.transient(), running(current), suppress(Enough):
            for layer, rows in enumerate(alive):
                if rows < hidden.shape[1]:
                    hidden = hidden[:, :rows]
                    current.narrow(rows)
                current.on_rows = listener(layer)
                where = current.positions[layer]
                hidden = self.adapter.layers[layer](
                    hidden,
                    attention_mask=None,
                    position_ids=where[:1],
                    past_key_values=cache,
                    position_embeddings=current.tables[layer],
                )

    @torch.no_grad()
    def logits(self, hidden: Float[Tensor, "token hidden"]) -> Float[Tensor, "token vocabulary"]:
        """Vocabulary logits of normalised hidden states, fp32."""
        head = self.adapter.head
        device = next(head.parameters()).device
        return cast(Tensor, head(hidden.to(device))).float()

    def project(
        self, module: nn.Module, hidden: Float[Tensor, "1 token hidden"], letter: str
    ) -> Float[Tensor, "1 head token dim"]:
        """Queries ("q") or keys ("k") of an attention module before rotation, normalised where the family does."""
        attention = cast(Any, module)
        heads = getattr(attention, f"{letter}_proj")(hidden).unflatten(-1, (-1, attention.head_dim))
        norm = getattr(attention, f"{letter}_norm", None)
        return (heads if norm is None else norm(heads)).transpose(1, 2)

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
        """Positions, tables and following cursors of new tokens, per layer; layers that stand alike share them."""
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


def _window(config: Any) -> int | None:
    """The shortest look-back of a decoder with sliding-window layers."""
    kinds = getattr(config, "layer_types", None) or ()
    return int(config.sliding_window) if "sliding_attention" in kinds else None


def take(segment: Segment, index: np.ndarray[Any, np.dtype[np.int64]]) -> Segment:
    """A segment of some of the tokens, at the positions they had in the whole."""
    chosen = torch.as_tensor(index, dtype=torch.long)
    on_device = chosen.to(segment.embeds.device)
    visual = np.flatnonzero(segment.row >= 0)
    features, saliency = segment.features, segment.saliency
    kept_visual = torch.as_tensor(np.flatnonzero(np.isin(visual, index)))
    return replace(
        segment,
        embeds=segment.embeds[on_device],
        role=segment.role[index],
        frame=segment.frame[index],
        row=segment.row[index],
        col=segment.col[index],
        rel=segment.rel[:, chosen],
        deepstack=tuple(extra[on_device] for extra in segment.deepstack),
        features=None if features is None else features[kept_visual.to(features.device)],
        saliency=None if saliency is None else saliency[kept_visual.to(saliency.device)],
    )


def frames_of(segment: Segment, first: int) -> Segment:
    """The tail of a segment from its frame `first` on (markers included), moved to the segment's start."""
    visual_or_marker = np.flatnonzero(segment.frame >= first)
    part = take(segment, np.arange(visual_or_marker[0], len(segment)))
    rel = part.rel.clone()
    if part.anchor == "video":
        shift = int(rel[0].min())
        rel[0] -= shift
        return replace(part, rel=rel, video_span=segment.video_span - shift)
    return replace(part, rel=rel - rel.min())


def join(segments: Sequence[Segment]) -> Segment:
    """Several prompts side by side for one block-masked pass; each restarts at its own first position."""
    return Segment(
        embeds=torch.cat([s.embeds for s in segments]),
        role=np.concatenate([s.role for s in segments]),
        frame=np.concatenate([s.frame for s in segments]),
        row=np.concatenate([s.row for s in segments]),
        col=np.concatenate([s.col for s in segments]),
        rel=torch.cat([s.rel for s in segments], 1),
    )

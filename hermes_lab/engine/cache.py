"""The KV cache of a stream: ragged by layer, with an id and a position for every key.

Tensors are replaced, never written to. That makes rolling back an answer a matter of putting the old
references back (bit-identical by construction), and forking a session free of copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from hermes_lab.codec import Codec
from hermes_lab.engine.batches import batches
from hermes_lab.engine.cursor import Cursor
from hermes_lab.frozen import Frozen


@dataclass(frozen=True)
class Archive:
    """Evicted tokens of one layer that wait off-device for a question to recall them."""

    keys: Any  # Float[Tensor, "kv_head token dim"], or what a codec made of it
    values: Any
    positions: Int[Tensor, "head axis token"]
    ids: Int[Tensor, "head token"]
    bytes: int
    codec: Codec | None = None  # what reads them: the policy may have changed since


@dataclass(frozen=True)
class LayerState:
    """What one layer holds. `head` is 1 where all KV heads share one token set.

    Attributes:
        keys, values: rotated keys and values; None before the first token.
        ids: global token ids.
        positions: rotary positions, one row per rotary axis.
        cursor: where the next segment's positions start.
        carried: per-token state of the policy, NaN where a token has none; for each KV head, or for all.
        archive: blocks of evicted tokens kept for recall, oldest first.
    """

    keys: Float[Tensor, "1 kv_head token dim"] | None
    values: Float[Tensor, "1 kv_head token dim"] | None
    ids: Int[Tensor, "head token"]
    positions: Int[Tensor, "head axis token"]
    cursor: Cursor = Cursor()
    carried: Mapping[str, Float[Tensor, "_head token"]] = field(default_factory=Frozen[str, Tensor])
    archive: tuple[Archive, ...] = ()

    @property
    def tokens(self) -> int:
        return int(self.ids.shape[-1])

    @property
    def bytes(self) -> int:
        """Bytes of keys and values."""
        return sum(t.numel() * t.element_size() for t in (self.keys, self.values) if t is not None)

    @property
    def archive_bytes(self) -> int:
        return sum(block.bytes for block in self.archive)

    def select(self, index: Int[Tensor, "head kept"]) -> LayerState:
        """Keep the tokens at `index` (ascending), per KV head where `index` has that many rows."""
        return select_layers([self], [index])[0]

    def append(
        self,
        keys: Float[Tensor, "kv_head new dim"],
        values: Float[Tensor, "kv_head new dim"],
        ids: Int[Tensor, " new"],
        positions: Int[Tensor, "axis new"],
    ) -> LayerState:
        """Add tokens with tensors of their own (summary tokens, recalled blocks) at the end."""
        keys, values = keys[None], values[None]
        if self.keys is not None and self.values is not None:
            keys = torch.cat([self.keys, keys.to(self.keys.dtype)], 2)
            values = torch.cat([self.values, values.to(self.values.dtype)], 2)
        return self.with_metadata(ids, positions, keys=keys, values=values)

    def carry(self, named: Mapping[str, Float[Tensor, "head token"]], start: int) -> LayerState:
        """Put per-token state of a policy beside the tokens from `start` on, which it describes."""
        carried = dict(self.carried)
        for name, value in named.items():
            full = value.new_full((value.shape[0], self.tokens), float("nan"), dtype=torch.float32)
            full[:, start:] = value
            carried[name] = full
        return replace(self, carried=Frozen(carried))

    def with_metadata(
        self,
        ids: Int[Tensor, " new"],
        positions: Int[Tensor, "axis new"],
        *,
        keys: Tensor | None,
        values: Tensor | None,
    ) -> LayerState:
        """Name tokens whose keys and values are already in the given tensors."""
        heads, new = self.ids.shape[0], ids.shape[0]
        carried = {
            name: torch.cat([value, value.new_full((value.shape[0], new), float("nan"))], 1)
            for name, value in self.carried.items()
        }
        return replace(
            self,
            keys=keys,
            values=values,
            ids=torch.cat([self.ids, ids.expand(heads, -1)], 1),
            positions=torch.cat([self.positions, positions.expand(heads, -1, -1)], 2),
            carried=Frozen(carried),
        )


def select_layers(
    states: Sequence[LayerState], indices: Sequence[Int[Tensor, "_head _kept"]]
) -> list[LayerState]:
    """`LayerState.select` of many layers; ids and positions of layers of one shape are gathered together."""
    chosen = list(states)
    keys = [(s.ids.shape, s.positions.shape, i.shape) for s, i in zip(states, indices, strict=True)]
    for layers in batches(keys):
        first, index = states[layers[0]], indices[layers[0]]
        heads, axes = max(index.shape[0], first.ids.shape[0]), first.positions.shape[1]
        at = torch.stack([indices[n].expand(heads, -1) for n in layers])
        ids = torch.stack([states[n].ids.expand(heads, -1) for n in layers]).gather(2, at)
        places = torch.stack([states[n].positions.expand(heads, -1, -1) for n in layers])
        places = places.gather(3, at[:, :, None].expand(-1, -1, axes, -1))
        rows = zip(layers, at.unbind(), ids.unbind(), places.unbind(), strict=True)
        for n, where, *named in rows:
            chosen[n] = _selected(states[n], where, *named)
    return chosen


def _selected(
    state: LayerState,
    index: Int[Tensor, "head kept"],
    ids: Int[Tensor, "head kept"],
    positions: Int[Tensor, "head axis kept"],
) -> LayerState:
    """One layer of `select_layers`, its ids and positions gathered already."""
    assert state.keys is not None and state.values is not None
    heads, at = index.shape[0], index.to(state.keys.device)

    def chosen(states: Tensor) -> Tensor:
        # whole rows of 2-D and 3-D tensors: several times faster than gather on CPUs
        if heads == 1:
            return states[0].index_select(1, at[0])[None]
        rows = zip(states[0].unbind(), at, strict=True)
        return torch.stack([head.index_select(0, index) for head, index in rows])[None]

    carried: dict[str, Tensor] = {}
    for name, value in state.carried.items():
        rows = max(heads, value.shape[0])  # state may be finer than the shared token set
        carried[name] = value.expand(rows, -1).gather(1, index.expand(rows, -1))
    return LayerState(
        keys=chosen(state.keys),
        values=chosen(state.values),
        ids=ids,
        positions=positions,
        cursor=state.cursor,
        carried=Frozen(carried),
        archive=state.archive,
    )


def empty(axes: int, device: torch.device) -> LayerState:
    """A layer before its first token."""
    return LayerState(
        keys=None,
        values=None,
        ids=torch.zeros(1, 0, dtype=torch.long, device=device),
        positions=torch.zeros(1, axes, 0, dtype=torch.long, device=device),
    )


class StreamLayer(CacheLayerMixin):
    """One layer of the cache, as transformers sees it.

    Attributes:
        state: what the layer holds; never half of something.
        passing: keys and values of all tokens while a pass runs, whose own have no ids yet; None between passes.
    """

    is_sliding = False
    is_croppable = False

    def __init__(self, state: LayerState) -> None:
        super().__init__()
        self.is_initialized = True
        self.state = state
        self.passing: tuple[Tensor, Tensor] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the first update brings dtype and device."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append new keys and values; ids and positions follow when the pass is over (`settle`)."""
        keys, values = self._reached
        if keys is None or values is None:
            self.passing = key_states, value_states
        else:
            self.passing = torch.cat([keys, key_states], 2), torch.cat([values, value_states], 2)
        return self.passing

    @property
    def _reached(self) -> tuple[Tensor | None, Tensor | None]:
        return (self.state.keys, self.state.values) if self.passing is None else self.passing

    def replace_keys(self, keys: Float[Tensor, "1 kv_head token dim"]) -> None:
        """Put edited keys in the place of those of the pass that is running."""
        assert self.passing is not None
        self.passing = keys, self.passing[1]

    def settle(
        self, ids: Int[Tensor, " new"], positions: Int[Tensor, "axis new"], cursor: Cursor
    ) -> None:
        """End a pass: its tokens get their ids and positions."""
        keys, values = self._reached
        held = self.state.with_metadata(ids, positions, keys=keys, values=values)
        self.state, self.passing = replace(held, cursor=cursor), None

    @property
    def stored(self) -> int:
        """Tokens whose keys are there, those of a pass that is running included."""
        keys, _ = self._reached
        return 0 if keys is None else int(keys.shape[2])

    def get_seq_length(self) -> int:
        """Tokens held, as transformers asks for them."""
        return self.stored

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset, for transformers' mask builders (which the stream attention bypasses)."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1


class StreamCache(Cache):
    """All layers of a stream's KV cache."""

    def __init__(self, states: Sequence[LayerState]) -> None:
        self.stream_layers = [StreamLayer(state) for state in states]
        super().__init__(layers=list(self.stream_layers))

    def beside(self) -> StreamCache:
        """A cache of its own that holds the same, for what must leave no trace here; tensors are shared."""
        return StreamCache(self.states)

    @property
    def states(self) -> tuple[LayerState, ...]:
        """What all layers hold now; putting it back restores the cache exactly."""
        return tuple(layer.state for layer in self.stream_layers)

    @states.setter
    def states(self, states: Sequence[LayerState]) -> None:
        for layer, state in zip(self.stream_layers, states, strict=True):
            layer.state, layer.passing = state, None

    @property
    def bytes(self) -> int:
        """Bytes of keys and values over all layers."""
        return sum(state.bytes for state in self.states)

    @property
    def archive_bytes(self) -> int:
        """Bytes that wait off-device."""
        return sum(state.archive_bytes for state in self.states)

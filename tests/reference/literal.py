"""A slow, literal decoder with a literal memory: the reference that streamed results are held to.

Every layer stores keys *before* rotation and values, one list for each KV head, with the id and the rotary
position of each token. Each forward rotates all keys anew to the positions they have now. All arithmetic is
float64 from the checkpoint's weights and its config, written out here: nothing of the engine is used, and no
forward of transformers either.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForImageTextToText

from hermes_lab.segment import Segment

Hide = Callable[[int, int, Tensor], Tensor]
"""(layer, query head, ids of the cached tokens) -> mask of those that this head may not see."""


@dataclass
class Head:
    """What one KV head of one layer remembers, oldest first."""

    keys: Tensor  # [token, dim], never rotated
    values: Tensor
    positions: Tensor  # [axis, token]
    ids: Tensor


@dataclass
class Layer:
    heads: list[Head]
    archive: list[Head] | None = None  # what was forgotten, with `Literal.archives`
    next: int = 0
    video: tuple[int, int] | None = (
        None  # (t of the next group of frames, start of the h and w axes)
    )


@dataclass
class Literal:
    """The decoder of a checkpoint, with its memory."""

    folder: Path
    hide: Hide | None = None
    archives: bool = False
    patterns: list[Tensor] = field(
        default_factory=list
    )  # of the last forward, [query_head, new, token]

    def __post_init__(self) -> None:
        self.model = _load_double(self.folder)
        self.decoder: Any = text_model(self.model)
        config = self.config = self.decoder.config
        self.dim = self.decoder.layers[0].self_attn.head_dim
        self.query_heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.gemma = config.model_type.startswith("gemma3")
        self.axes = 3 if self._rope(0).get("mrope_section") else 1
        self.layers = [
            Layer([self._empty() for _ in range(self.kv_heads)]) for _ in self.decoder.layers
        ]

    def _empty(self) -> Head:
        nothing = torch.zeros(0, self.dim, dtype=torch.float64)
        return Head(
            nothing, nothing, torch.zeros(self.axes, 0).long(), torch.zeros(0, dtype=torch.long)
        )

    # --- forward -----------------------------------------------------------------------------
    def feed(
        self, segment: Segment, ids: Sequence[int] | None = None, store: bool = True
    ) -> Tensor:
        """Logits of every token of a segment; with `store` its tokens stay in the memory."""
        new_ids = torch.full((len(segment),), -1) if ids is None else torch.as_tensor(ids)
        x = segment.embeds.double()
        self.patterns = []
        for index, block in enumerate(self.decoder.layers):
            memory = self.layers[index]
            positions, after = place(memory, segment)
            attended, grown = self._attention(index, block, self._norm(block.input_layernorm, x),
                                              positions, new_ids)  # fmt: skip
            if store:
                memory.heads = grown
                memory.next, memory.video = after
            if self.gemma:
                x = x + self._norm(block.post_attention_layernorm, attended)
                mlp = self._mlp(block.mlp, self._norm(block.pre_feedforward_layernorm, x))
                x = x + self._norm(block.post_feedforward_layernorm, mlp)
            else:
                x = x + attended
                x = x + self._mlp(block.mlp, self._norm(block.post_attention_layernorm, x))
            if index < len(segment.deepstack):
                x = x + segment.deepstack[index].double()
        return F.linear(self._norm(self.decoder.norm, x), self.model.lm_head.weight)

    def _attention(
        self, index: int, block: Any, x: Tensor, positions: Tensor, ids: Tensor
    ) -> tuple[Tensor, list[Head]]:
        attention = block.self_attn
        q, k, v = (
            F.linear(x, p.weight, p.bias).unflatten(-1, (-1, self.dim)).transpose(0, 1)
            for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if hasattr(attention, "q_norm"):
            q, k = self._norm(attention.q_norm, q), self._norm(attention.k_norm, k)
        outputs, patterns, grown = [], [], []
        for kv, head in enumerate(self.layers[index].heads):
            grown.append(
                Head(
                    torch.cat([head.keys, k[kv]]),
                    torch.cat([head.values, v[kv]]),
                    torch.cat([head.positions, positions], 1),
                    torch.cat([head.ids, ids]),
                )
            )
        group = self.query_heads // self.kv_heads
        for query_head in range(self.query_heads):
            memory = grown[query_head // group]
            old = len(self.layers[index].heads[query_head // group].ids)
            keys = self.rotate(memory.keys, memory.positions, index)
            query = self.rotate(q[query_head], positions, index)
            scores = query @ keys.T * attention.scaling
            visible = torch.ones_like(scores, dtype=torch.bool).tril(old)
            if self.hide is not None:
                visible[:, :old] &= ~self.hide(index, query_head, memory.ids[:old])
            pattern = scores.masked_fill(~visible, -torch.inf).softmax(-1)
            patterns.append(pattern)
            outputs.append(pattern @ memory.values)
        self.patterns.append(
            torch.stack(patterns) if len({p.shape for p in patterns}) == 1 else patterns[0]
        )
        out = F.linear(torch.cat(outputs, -1), attention.o_proj.weight, attention.o_proj.bias)
        return out, grown

    def _norm(self, module: Any, x: Tensor) -> Tensor:
        weight = module.weight + 1 if self.gemma else module.weight
        return x * (x.pow(2).mean(-1, keepdim=True) + self.config.rms_norm_eps).rsqrt() * weight

    def _mlp(self, mlp: Any, x: Tensor) -> Tensor:
        gate = F.linear(x, mlp.gate_proj.weight)
        gate = F.gelu(gate, approximate="tanh") if self.gemma else F.silu(gate)
        return F.linear(gate * F.linear(x, mlp.up_proj.weight), mlp.down_proj.weight)

    # --- rotary positions --------------------------------------------------------------------
    def _rope(self, layer: int) -> dict[str, Any]:
        parameters = self.config.rope_parameters
        return parameters[self.config.layer_types[layer]] if self.gemma else parameters

    def rotate(self, x: Tensor, positions: Tensor, layer: int) -> Tensor:
        """Rotate [token, dim] to positions [axis, token]: channel pair i with i + dim/2 (RoFormer, eq. 34)."""
        rope, half = self._rope(layer), self.dim // 2
        # float32 up to the angle: that rounding belongs to the model, which was trained with it
        inverse = 1.0 / rope["rope_theta"] ** (torch.arange(0, self.dim, 2).float() / self.dim)
        if rope["rope_type"] != "dynamic":  # which divides beyond the model's length only
            inverse = inverse / rope.get("factor", 1.0)
        axis = torch.zeros(half, dtype=torch.long)  # which of t, h, w turns each pair
        if rope.get("mrope_interleaved"):
            _, rows, cols = rope["mrope_section"]
            for pair in range(half):
                if pair % 3 == 1 and pair < 3 * rows:
                    axis[pair] = 1
                if pair % 3 == 2 and pair < 3 * cols:
                    axis[pair] = 2
        elif self.axes == 3:
            axis = torch.repeat_interleave(torch.arange(3), torch.tensor(rope["mrope_section"]))
        angle = (positions.float()[axis].T * inverse).double()
        first, second = x[:, :half], x[:, half:]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    # --- the memory --------------------------------------------------------------------------
    def keep(self, layer: int, ids: Tensor) -> None:
        """Forget everything but `ids`, [1 or kv_head, kept], in the order in which it is remembered."""
        memory = self.layers[layer]
        for kv, head in enumerate(memory.heads):
            wanted = set(ids[kv if len(ids) > 1 else 0].tolist())
            stays = torch.tensor([n in wanted for n in head.ids.tolist()])
            assert int(stays.sum()) == len(wanted), "asked to keep what is not remembered"
            memory.heads[kv] = chosen(head, stays)
            if self.archives:
                gone = chosen(head, ~stays)
                memory.archive = memory.archive or [self._empty() for _ in memory.heads]
                memory.archive[kv] = joined(memory.archive[kv], gone)

    def fold(self, layer: int, sources: Tensor, name: int, *, sort: bool, protected: int) -> None:
        """Make one token of several: mean key before rotation, mean value, at the last one's position."""
        memory = self.layers[layer]
        for kv, head in enumerate(memory.heads):
            parts = chosen(head, torch.isin(head.ids, sources))
            made = Head(
                parts.keys.mean(0, keepdim=True),
                parts.values.mean(0, keepdim=True),
                parts.positions[:, -1:],
                torch.tensor([name]),
            )
            whole = joined(head, made)
            if sort:
                order = whole.positions[0].clone()
                order[:protected] = -1
                whole = chosen(whole, order.argsort(stable=True))
            memory.heads[kv] = whole
            memory.next = max(memory.next, int(made.positions.max()) + 1)

    def recall(self, ids_by_layer: Sequence[Tensor]) -> Literal:
        """A copy that remembers, of memory and archive together, these ids only, in the order of the stream."""
        copy_ = copy.copy(self)
        copy_.layers = []
        for memory, ids in zip(self.layers, ids_by_layer, strict=True):
            heads = []
            for kv, head in enumerate(memory.heads):
                whole = joined(head, memory.archive[kv]) if memory.archive else head
                whole = chosen(whole, whole.ids.argsort())
                heads.append(chosen(whole, torch.isin(whole.ids, ids[kv if len(ids) > 1 else 0])))
            copy_.layers.append(Layer(heads, next=memory.next, video=memory.video))
        return copy_

    def renumber(self, layer: int, rule: str, protected: int) -> None:
        """Close the gaps behind the protected tokens ("eager": axis by axis; "contiguous": 0, 1, 2, ...)."""
        memory = self.layers[layer]
        for head in memory.heads:
            start = int(head.positions[:, :protected].max()) + 1 if protected else 0
            for axis in range(self.axes):
                line = head.positions[axis, protected:].tolist()
                if rule == "contiguous":
                    new = list(range(start, start + len(line)))
                else:
                    order = {value: rank for rank, value in enumerate(sorted(set(line)))}
                    new = [start + order[value] for value in line]
                head.positions[axis, protected:] = torch.tensor(new)
        memory.next = max(int(head.positions.max()) for head in memory.heads) + 1
        if memory.video is not None:
            time = max(int(head.positions[0, protected:].max()) for head in memory.heads) + 1
            memory.video = (time, memory.video[1])

    def keys(self, layer: int) -> Tensor:
        """All keys rotated to where they stand, [kv_head, token, dim]."""
        heads = self.layers[layer].heads
        return torch.stack([self.rotate(h.keys, h.positions, layer) for h in heads])


def chosen(head: Head, index: Tensor | slice) -> Head:
    """Some of a head's tokens."""
    return Head(head.keys[index], head.values[index], head.positions[:, index], head.ids[index])


def joined(first: Head, second: Head) -> Head:
    """The tokens of one followed by those of the other."""
    return Head(
        torch.cat([first.keys, second.keys]),
        torch.cat([first.values, second.values]),
        torch.cat([first.positions, second.positions], 1),
        torch.cat([first.ids, second.ids]),
    )


def place(memory: Layer, segment: Segment) -> tuple[Tensor, tuple[int, tuple[int, int] | None]]:
    """Positions of a segment in a layer, and (next, video) behind it, as `Segment.anchor` says in words."""
    if segment.anchor == "next":
        positions, video = segment.rel + memory.next, memory.video
    else:
        time, start = memory.video or (memory.next, memory.next)
        positions = segment.rel + torch.tensor([[time], [start], [start]])
        video = (time + segment.video_span, start)
    following = max([memory.next, *(positions.max(1).values + 1).tolist()])
    return positions, (following, video)


@cache
def _load_double(folder: Path) -> Any:
    return copy.deepcopy(load_eager(folder)).double()


@cache
def load_eager(folder: Path) -> Any:
    """The checkpoint in unmodified transformers with eager attention."""
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager")
    return model.eval().requires_grad_(False)


def text_model(model: Any) -> Any:
    """The decoder inside a multimodal model."""
    return getattr(model.model, "language_model", None) or model.model.text_model

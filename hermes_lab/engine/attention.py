"""The attention function of a stream: causal over a ragged cache, readable and editable where asked.

transformers is given no mask function for this name, so it builds no mask; the function derives the
lower-right causal mask of *its* layer from the lengths it sees, which lets layers hold any number of tokens.
What is wanted from a forward pass (rows, hooks, knockouts, positions) travels in a `Pass` held in a context
variable, so that sessions and threads that share a model do not see each other.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface

from hermes_lab.engine import upstream
from hermes_lab.engine.hooks import HookBoard, tap_decoder
from hermes_lab.engine.passes import Enough, Pass, current_pass
from hermes_lab.models.base import Adapter

NAME = "hermes_lab_stream"
RECEIVED_ROWS = 128  # query rows at a time when attention received is summed, to bound memory

_TAPPED: WeakSet[nn.Module] = WeakSet()
_TAPPING = Lock()


def _board() -> HookBoard | None:
    current = current_pass()
    return None if current is None else current.wants.board


def stream_attention(
    module: nn.Module,
    query: Float[Tensor, "1 query_head new dim"],
    key: Float[Tensor, "1 kv_head token dim"],
    value: Float[Tensor, "1 kv_head token dim"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "1 new query_head dim"], None]:
    """Attention over a layer's own cache; see the module docstring."""
    current = current_pass()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if current is None:
        mask = attention_mask
        if mask is None:
            mask = _causal(query.shape[2], key.shape[2], query.device, None, {})
        return _sdpa(query, key, value, mask, scale), None
    layer, wants = upstream.layer_index(module), current.wants
    current.served += 1
    if current.proving is not None:
        upstream.check_rotation(
            module, current.proving[layer], current.tables[layer], key[:, :, -query.shape[2] :]
        )
    point = f"blocks.{layer}.attn."
    if current.listening(point + "hook_rot_q"):
        query = _fire_swapped(current, point + "hook_rot_q", query)
    if current.listening(point + "hook_rot_k"):
        key = _edit_new_keys(current, layer, point + "hook_rot_k", key, query.shape[2])
    mask = mask_of(current, layer, query, key.shape[2])
    if current.listening(point + "hook_attn_scores") or current.listening(point + "hook_pattern"):
        board = wants.board
        assert board is not None
        pattern = pattern_of(
            query, key, mask, scale,
            lambda scores: board.fire(point + "hook_attn_scores", scores),
            lambda rows: board.fire(point + "hook_pattern", rows),
        )  # fmt: skip
        if wants.on_rows is not None and wants.rows is not None:
            wants.on_rows(layer, pattern[0, :, wants.rows].float())
        if wants.on_received is not None:
            wants.on_received(layer, pattern[0].float().sum(1))
        return weigh(pattern, value), None
    if current.kind == "guidance" and wants.on_rows is not None:
        # every row is read here: the pattern is there already, attending with it is cheaper than SDPA
        pattern = pattern_of(query, key, _own(mask, current, query.shape[2]), scale)
        wants.on_rows(layer, pattern[0])
        if layer == current.last_layer:
            raise Enough
        return weigh(pattern, value), None
    if wants.on_rows is not None and wants.rows is not None:
        some = _own(_rows(mask, wants.rows, query.shape[2], key), current, query.shape[2])
        wants.on_rows(layer, pattern_of(query[:, :, wants.rows], key, some, scale)[0])
    if wants.on_received is not None:
        wants.on_received(layer, _received(query, key, mask, scale))
    return _sdpa(query, key, value, mask, scale), None


AttentionInterface.register(NAME, stream_attention)


def _causal(
    new: int,
    tokens: int,
    device: torch.device,
    block: Tensor | None,
    memo: dict[tuple[int, int], Tensor],
) -> Bool[Tensor, "1 1 new token"] | None:
    """Lower-right causal mask; None where SDPA's own (upper-left) causality or no mask is right."""
    if new == 1 or (new == tokens and block is None):
        return None
    mask = memo.get((new, tokens))
    if mask is None:
        mask = torch.ones(new, tokens, dtype=torch.bool, device=device).tril_(tokens - new)
        if block is not None:
            mask[:, tokens - new :] &= block.to(mask.device)
        memo[new, tokens] = mask
    return mask[None, None]


def mask_of(
    current: Pass, layer: int, query: Float[Tensor, "1 query_head new dim"], tokens: int
) -> Bool[Tensor, "1 _ _ token"] | None:
    """Which of a layer's tokens each query may see; None: all up to its own, in order."""
    heads, new, device = query.shape[1], query.shape[2], query.device
    mask = _causal(new, tokens, device, current.wants.block_mask, current.masks)
    ids = current.cache.stream_layers[layer].state.ids[:, : tokens - new]
    for knockout in current.wants.knockouts:
        hidden = knockout.hidden(layer, current.kind, ids, heads)
        if hidden is not None:
            visible = F.pad(~hidden, (0, new), value=True)[None, :, None]
            mask = visible & _whole(mask, new, tokens, device)
    return mask


def _whole(mask: Tensor | None, new: int, tokens: int, device: torch.device) -> Tensor:
    """The mask written out, where None stood for plain causality."""
    if mask is not None:
        return mask
    full = torch.ones(new, tokens, dtype=torch.bool, device=device)
    return full.tril_(tokens - new)[None, None]


def _rows(mask: Tensor | None, rows: slice, new: int, key: Tensor) -> Tensor | None:
    if mask is None and new > 1:
        mask = _whole(None, new, key.shape[2], key.device)
    return mask if mask is None or mask.shape[2] == 1 else mask[:, :, rows]


def _own(mask: Tensor | None, current: Pass, new: int) -> Tensor | None:
    """The columns of a mask that hide anything: without knockouts every row sees all that is cached."""
    return mask if mask is None or current.wants.knockouts else mask[..., mask.shape[-1] - new :]


def pattern_of(
    query: Float[Tensor, "1 query_head row dim"],
    key: Float[Tensor, "1 kv_head token dim"],
    mask: Bool[Tensor, "1 _ _ _seen"] | None,
    scale: float,
    on_scores: Callable[[Tensor], Tensor] | None = None,
    on_pattern: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "1 query_head row token"]:
    """Post-softmax attention in fp32, without expanding the cache to all query heads.

    Args:
        mask: what each row may see, of all keys or of the last ones (all before them are seen); None: causal.
        on_scores, on_pattern: may replace the masked scores and the pattern.
    """
    batch, heads, rows, dim = query.shape
    groups = key.shape[1]
    grouped = (query.float() * scale).reshape(batch, groups, heads // groups * rows, dim)
    scores = (grouped @ key.float().transpose(2, 3)).reshape(batch, heads, rows, -1)
    if mask is None and rows > 1:
        mask = _whole(None, rows, rows, key.device)
    if mask is not None:
        scores[..., scores.shape[-1] - mask.shape[-1] :].masked_fill_(~mask, float("-inf"))
    if on_scores is not None:
        scores = on_scores(scores)
    pattern = scores.softmax(-1)
    return pattern if on_pattern is None else on_pattern(pattern)


def weigh(
    pattern: Float[Tensor, "1 query_head row token"], value: Float[Tensor, "1 kv_head token dim"]
) -> Float[Tensor, "1 row query_head dim"]:
    """Values weighted by a pattern."""
    batch, heads, rows, _ = pattern.shape
    groups = value.shape[1]
    grouped = pattern.to(value.dtype).reshape(batch, groups, heads // groups * rows, -1)
    return (grouped @ value).reshape(batch, heads, rows, -1).transpose(1, 2).contiguous()


def _received(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float
) -> Float[Tensor, "query_head token"]:
    total = query.new_zeros(query.shape[1], key.shape[2], dtype=torch.float32)
    new = query.shape[2]
    for start in range(0, new, RECEIVED_ROWS):
        rows = slice(start, min(start + RECEIVED_ROWS, new))
        total += pattern_of(query[:, :, rows], key, _rows(mask, rows, new, key), scale)[0].sum(1)
    return total


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> Float[Tensor, "1 new query_head dim"]:
    shared = query.shape[1] != key.shape[1]
    if shared and mask is not None and query.is_cuda:
        # CUDA's memory-efficient kernel takes a mask or grouped heads, not both
        repeat = query.shape[1] // key.shape[1]
        key, value, shared = (
            key.repeat_interleave(repeat, 1),
            value.repeat_interleave(repeat, 1),
            False,
        )
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scale, enable_gqa=shared,
        is_causal=mask is None and query.shape[2] > 1,
    )  # fmt: skip
    return out.transpose(1, 2).contiguous()


def _fire_swapped(current: Pass, name: str, tensor: Tensor) -> Tensor:
    """TransformerLens shows rotated queries and keys as [batch, pos, head, d_head]."""
    assert current.wants.board is not None
    return current.wants.board.fire(name, tensor.transpose(1, 2)).transpose(1, 2)


def _edit_new_keys(current: Pass, layer: int, name: str, key: Tensor, new: int) -> Tensor:
    edited = _fire_swapped(current, name, key[:, :, key.shape[2] - new :])
    key = torch.cat([key[:, :, : key.shape[2] - new], edited], 2)
    # later tokens must meet the edited keys too
    current.cache.stream_layers[layer].replace_keys(key)
    return key


def instrument(adapter: Adapter) -> None:
    """Prepare a loaded model, once: stream attention in the decoder and per-layer positions.

    The vision encoder keeps the attention it was loaded with.
    """
    if upstream.has_attention(adapter.decoder, NAME):
        return
    upstream.set_attention(adapter.decoder, NAME)
    for layer in adapter.layers:
        attention = upstream.block_of(layer).attention
        attention.register_forward_pre_hook(_place, with_kwargs=True)


def tap(adapter: Adapter) -> None:
    """Install the hook points of a decoder, once: not before somebody listens, as module hooks cost every pass."""
    with _TAPPING:
        if adapter.decoder not in _TAPPED:
            tap_decoder(adapter.decoder, adapter.layers, _board)
            _TAPPED.add(adapter.decoder)


def _place(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Give an attention module the rotary tables of its own layer's positions."""
    current = current_pass()
    if current is None:
        return args, kwargs
    layer = upstream.layer_index(module)
    hidden = upstream.hidden_of(args, kwargs)
    if current.wants.before_attention is not None:
        current.wants.before_attention(current, layer, module, hidden)
    if current.proving is not None:
        current.proving[layer] = hidden
    return args, upstream.with_tables(kwargs, current.tables[layer], hidden.device)

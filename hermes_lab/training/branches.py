"""The training forward: one causal pass over a stream, then questions as branches off its cache.

It computes what streaming computes (prefix, frames in causal order, one question after frame t, nothing of
any other question), for many questions at once, with the model's own modules. Only the attention is arranged
differently: a branch reads the cache and itself, so no score is computed between two branches. The equality
with the model's own cached forward is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.engine import upstream
from hermes_lab.training.config import TOKENS_PER_FRAME

KeyValues = list[tuple[Tensor, Tensor]]
Heed = Callable[[int, Tensor, int], None]
"""Shown every layer's attention of a group of branches, and how many of its keys are cached ones."""
_BLOCK_TOKENS = 512
"""Queries per block of the causal pass: later keys of a block's rows are never computed."""


@dataclass(frozen=True)
class Stream:
    """What one pass over prefix and frames leaves behind.

    Attributes:
        cache: keys and values per layer.
        reach: largest position in use up to every token; text that follows starts behind it.
        prefix: number of tokens before the first frame.
        tapped: residual stream of the frame tokens before each of the layers in `taps`, by layer.
    """

    cache: KeyValues
    reach: Int[Tensor, "stream token"]
    prefix: int
    tapped: dict[int, Float[Tensor, "stream frame_token width"]]


@dataclass(frozen=True)
class Branches:
    """Questions of a batch of streams; a branch sees frames up to `frame` and its own earlier tokens.

    Attributes:
        ids: token ids, padded at the end.
        labels: id to predict after each token, or -100.
        question: number, within the stream, of the question that a token belongs to, or -1.
        frame: last frame the branch may see (-1 for a branch that only fills the batch).
    """

    ids: Int[Tensor, "stream branch token"]
    labels: Int[Tensor, "stream branch token"]
    question: Int[Tensor, "stream branch token"]
    frame: Int[Tensor, "stream branch"]


def _qkv(layer: Any, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (stream, kv head, group, token, dim), scaled; keys and values (stream, kv head, token, dim)."""
    attention = layer.self_attn
    normed = layer.input_layernorm(x)
    shape = (*x.shape[:-1], -1, attention.head_dim)
    q = attention.q_proj(normed).view(shape).transpose(1, 2)
    k = attention.k_proj(normed).view(shape).transpose(1, 2)
    v = attention.v_proj(normed).view(shape).transpose(1, 2)
    cos, sin = cos.to(q.dtype), sin.to(q.dtype)
    q = upstream.turn(q, cos, sin) * attention.scaling
    return q.unflatten(1, (k.shape[1], -1)), upstream.turn(k, cos, sin), v


def _finish(layer: Any, x: Tensor, mixed: Tensor) -> Tensor:
    """Write heads (stream, kv head, group, token, dim) back to the residual stream, and run the MLP."""
    x = x + layer.self_attn.o_proj(mixed.flatten(1, 2).transpose(1, 2).flatten(2))
    return x + layer.mlp(layer.post_attention_layernorm(x))


def _tables(decoder: Any, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = decoder.rotary_emb(x, positions)
    return cos[:, None], sin[:, None]


def _softmax(scores: Tensor) -> Tensor:
    return torch.softmax(scores, -1, dtype=scores.dtype)


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n, groups = q.shape[3], q.shape[2]
    block = min(n, _BLOCK_TOKENS)
    future = torch.full((block, block), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
    mixed: list[Tensor] = []
    for start in range(0, n, block):
        end = min(n, start + block)
        rows = q[:, :, :, start:end].flatten(2, 3)
        scores = (rows @ k[:, :, :end].mT).unflatten(2, (groups, -1))
        here = scores[..., start:] + future[: end - start, : end - start]
        weights = _softmax(torch.cat([scores[..., :start], here], -1) if start else here)
        mixed.append((weights.flatten(2, 3) @ v[:, :, :end]).unflatten(2, (groups, -1)))
    return torch.cat(mixed, 3)


def watch(
    model: Any,
    features: Float[Tensor, "stream token width"],
    prefix_ids: Sequence[int],
    positions: Int[Tensor, "*axis stream all_tokens"],
    taps: Collection[int] = (),
) -> Stream:
    """One causal pass over prefix and frames; `taps` names layers to look in before.

    Positions have one axis, or three in front for M-RoPE.
    """
    decoder, embed = model.model.language_model, model.get_input_embeddings()
    start = embed(torch.as_tensor(prefix_ids, device=features.device)).to(features.dtype)
    x = torch.cat([start.expand(len(features), -1, -1), features], 1)
    cos, sin = _tables(decoder, x, positions)
    cache: KeyValues = []
    tapped: dict[int, Tensor] = {}
    last = len(decoder.layers) - 1
    for number, layer in enumerate(decoder.layers):
        if number in taps:
            tapped[number] = x[:, len(prefix_ids) :]
        q, k, v = _qkv(layer, x, cos, sin)
        cache.append((k, v))
        if number < last:  # nobody reads what the last layer would write
            x = _finish(layer, x, _causal(q, k, v))
    used = positions.amax(0) if positions.ndim == 3 else positions
    return Stream(cache, used.cummax(1).values, len(prefix_ids), tapped)


def branch_pass(
    decoder: Any,
    embeds: Float[Tensor, "stream branch token width"],
    positions: Int[Tensor, "stream branch token"],
    cache: KeyValues,
    visible: Int[Tensor, "stream branch"],
    heed: Heed | None = None,
) -> Float[Tensor, "stream branch token width"]:
    """Last hidden states of branches that each read the first `visible` tokens of their stream's cache."""
    _, branches, tokens, _ = embeds.shape
    x = embeds.flatten(1, 2)
    cos, sin = _tables(decoder, x, positions.flatten(1))
    keys = int(visible.max())
    hidden = torch.arange(keys, device=x.device) >= visible[..., None]
    future = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
    for number, (layer, (past_k, past_v)) in enumerate(zip(decoder.layers, cache, strict=True)):
        q, k, v = _qkv(layer, x, cos, sin)
        groups = q.shape[2]
        rows = q.flatten(2, 3)
        shape = (groups, branches, tokens)
        # (stream, kv head, group, branch, token, key)
        cached = (rows @ past_k[:, :, :keys].mT).unflatten(2, shape)
        cached = cached.masked_fill(hidden[:, None, None, :, None], float("-inf"))
        own_k, own_v = (t.unflatten(2, (branches, tokens))[:, :, None] for t in (k, v))
        own = q.unflatten(3, (branches, tokens)) @ own_k.mT
        own = own.masked_fill(future, float("-inf"))
        weights = _softmax(torch.cat([cached, own], -1))
        if heed:
            heed(number, weights, keys)
        mixed = (weights[..., :keys].flatten(2, 4) @ past_v[:, :, :keys]).unflatten(2, shape)
        mixed = (mixed + weights[..., keys:] @ own_v).flatten(3, 4)
        x = _finish(layer, x, mixed)
    return decoder.norm(x).unflatten(1, (branches, tokens))


def answer_logits(
    model: Any, stream: Stream, groups: Sequence[Branches], heeds: Sequence[Heed] = ()
) -> list[Float[Tensor, "_label vocab"]]:
    """Per group of branches, logits where a label is due, in row-major order of the labels.

    Grouping branches by the last frame that they see saves reading cache that none of them sees. `heeds`, one
    per group, are shown its attention.
    """
    decoder, embed = model.model.language_model, model.get_input_embeddings()
    logits: list[Tensor] = []
    for number, part in enumerate(groups):
        visible = stream.prefix + (part.frame + 1) * TOKENS_PER_FRAME
        steps = torch.arange(1, part.ids.shape[2] + 1, device=visible.device)
        positions = stream.reach.gather(1, visible - 1)[..., None] + steps
        hidden = branch_pass(
            decoder,
            embed(part.ids),
            positions,
            stream.cache,
            visible,
            heeds[number] if heeds else None,
        )
        logits.append(model.lm_head(hidden[part.labels != -100]))
    return logits

"""The training forward: one causal pass over a stream, then questions as branches off its cache.

It computes what streaming computes (prefix, frames in causal order, one question after frame t, nothing of
any other question), for many questions at once, with the model's own modules; only the attention calls are
arranged differently. The equality with the model's own cached forward is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from hermes_lab.pocket.config import TOKENS_PER_FRAME

KeyValues = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Branches:
    """Questions of a batch of streams, laid side by side and padded; a branch sees frames up to `frame`.

    Attributes:
        ids: token ids, shape (stream, token).
        labels: id to predict after each token, or -100.
        branch: number of the branch a token belongs to, -1 for padding.
        frame: last frame the branch may see.
        offset: place of the token within its branch.
        question: number of the question a label answers.
    """

    ids: Int[Tensor, "stream token"]
    labels: Int[Tensor, "stream token"]
    branch: Int[Tensor, "stream token"]
    frame: Int[Tensor, "stream token"]
    offset: Int[Tensor, "stream token"]
    question: Int[Tensor, "stream token"]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def _qkv(layer: Any, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    attention = layer.self_attn
    normed = layer.input_layernorm(x)
    shape = (*x.shape[:-1], -1, attention.head_dim)
    q = attention.q_proj(normed).view(shape).transpose(1, 2)
    k = attention.k_proj(normed).view(shape).transpose(1, 2)
    v = attention.v_proj(normed).view(shape).transpose(1, 2)
    cos, sin = cos.to(q.dtype), sin.to(q.dtype)
    return _rotate(q, cos, sin), _rotate(k, cos, sin), v


def _finish(layer: Any, x: Tensor, mixed: Tensor) -> Tensor:
    x = x + layer.self_attn.o_proj(mixed.transpose(1, 2).flatten(2))
    return x + layer.mlp(layer.post_attention_layernorm(x))


def _tables(decoder: Any, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = decoder.rotary_emb(x, positions)
    return cos[:, None], sin[:, None]


def _wide(kv: Tensor, groups: int) -> Tensor:
    return kv.repeat_interleave(groups, 1)


def stream_pass(
    decoder: Any, embeds: Float[Tensor, "stream token width"], positions: Int[Tensor, "stream token"]
) -> KeyValues:
    """Keys and values of every layer for prefix and frames, in causal order."""
    x = embeds
    cos, sin = _tables(decoder, x, positions)
    found: KeyValues = []
    last = len(decoder.layers) - 1
    for number, layer in enumerate(decoder.layers):
        q, k, v = _qkv(layer, x, cos, sin)
        found.append((k, v))
        if number < last:
            groups = q.shape[1] // k.shape[1]
            mixed = F.scaled_dot_product_attention(q, _wide(k, groups), _wide(v, groups), is_causal=True)
            x = _finish(layer, x, mixed)
    return found


def visibility(part: Branches, prefix: int, frames: int) -> Bool[Tensor, "stream 1 token key"]:
    """Which cached tokens, then which tokens of the branches, each branch token may read."""
    device = part.ids.device
    owner = torch.arange(frames, device=device).repeat_interleave(TOKENS_PER_FRAME)
    owner = torch.cat([torch.full((prefix,), -1, device=device), owner])
    cached = owner[None, None, :] <= part.frame[:, :, None]
    same = part.branch[:, :, None] == part.branch[:, None, :]
    n = part.ids.shape[1]
    own = same & torch.ones(n, n, dtype=torch.bool, device=device).tril()
    return torch.cat([cached, own], -1)[:, None]


def branch_pass(
    decoder: Any,
    embeds: Float[Tensor, "stream token width"],
    positions: Int[Tensor, "stream token"],
    cache: KeyValues,
    cached_tokens: int,
    mask: Bool[Tensor, "stream 1 token key"],
) -> Float[Tensor, "stream token width"]:
    """Last hidden states of branch tokens that read the first `cached_tokens` of a stream's cache."""
    x = embeds
    cos, sin = _tables(decoder, x, positions)
    bias = torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill_(~mask, float("-inf"))
    for layer, (past_k, past_v) in zip(decoder.layers, cache, strict=True):
        q, k, v = _qkv(layer, x, cos, sin)
        k = torch.cat([past_k[:, :, :cached_tokens], k], 2)
        v = torch.cat([past_v[:, :, :cached_tokens], v], 2)
        groups = q.shape[1] // k.shape[1]
        mixed = F.scaled_dot_product_attention(
            q, _wide(k, groups), _wide(v, groups), attn_mask=bias.to(q.dtype)
        )
        x = _finish(layer, x, mixed)
    return decoder.norm(x)


def answer_logits(
    model: Any,
    features: Float[Tensor, "stream token width"],
    prefix_ids: Sequence[int],
    stream_positions: Int[Tensor, "stream token"],
    groups: Sequence[Branches],
) -> list[Float[Tensor, "label vocab"]]:
    """Per group of branches, logits where a label is due, in row-major order of the labels.

    Grouping branches by the last frame that they see saves reading cache that none of them sees.
    """
    decoder, embed = model.model.language_model, model.get_input_embeddings()
    frames, prefix = features.shape[1] // TOKENS_PER_FRAME, len(prefix_ids)
    start = embed(torch.as_tensor(prefix_ids, device=features.device)).to(features.dtype)
    embeds = torch.cat([start.expand(len(features), -1, -1), features], 1)
    cache = stream_pass(decoder, embeds, stream_positions)
    logits: list[Tensor] = []
    for part in groups:
        cached = prefix + (int(part.frame.max()) + 1) * TOKENS_PER_FRAME
        last = prefix - 1 + (part.frame + 1) * TOKENS_PER_FRAME
        positions = stream_positions.gather(1, last) + 1 + part.offset
        mask = visibility(part, prefix, frames)
        mask = torch.cat([mask[..., :cached], mask[..., prefix + frames * TOKENS_PER_FRAME :]], -1)
        hidden = branch_pass(
            decoder, embed(part.ids).to(features.dtype), positions, cache, cached, mask
        )
        logits.append(model.lm_head(hidden[part.labels != -100]))
    return logits

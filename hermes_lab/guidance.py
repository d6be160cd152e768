"""Reading pseudo-queries against the cache: which cached tokens a prompt would attend to.

All propagated prompts ride in one block-masked forward with restarting positions; a prompt that is the
beginning of another one is not fed twice, since causality makes its rows the first rows of the longer one.
The "raw_embedding" reading takes each layer's queries from the prompt's input embeddings instead, as the
SDPA path of HERMES' released code does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hermes_lab.attention import Knockout, Pass
from hermes_lab.cache import StreamCache
from hermes_lab.engine import Engine, Wants, join
from hermes_lab.models.base import Segment
from hermes_lab.policies.base import Guidance

OnRows = Callable[[str, int, Tensor], None]
"""Receives (guidance name, layer, rows [query_head, row, cached token])."""

OnQueries = Callable[[str, int, Tensor], None]
"""Receives (guidance name, layer, queries before rotation [query_head, row, dim])."""


def read(
    engine: Engine,
    cache: StreamCache,
    prompts: Mapping[str, tuple[Guidance, Segment]],
    on_rows: OnRows,
    on_queries: OnQueries | None = None,
    knockouts: Sequence[Knockout] = (),
) -> None:
    """Hand the attention rows of every prompt to `on_rows`, layer by layer; the cache stays as it is."""
    propagated = {n: s for n, (g, s) in prompts.items() if g.reading == "propagated"}
    if propagated:
        _read_propagated(engine, cache, propagated, on_rows, on_queries, knockouts)
    for name, (guidance, segment) in prompts.items():
        if guidance.reading == "raw_embedding":
            _read_raw(engine, cache, name, segment, guidance.causal, on_rows, on_queries, knockouts)


def _read_propagated(
    engine: Engine,
    cache: StreamCache,
    prompts: Mapping[str, Segment],
    on_rows: OnRows,
    on_queries: OnQueries | None,
    knockouts: Sequence[Knockout],
) -> None:
    fed, rows = _layout(prompts)
    lengths = [len(segment) for segment in fed]
    blocks = [torch.ones(n, n, dtype=torch.bool) for n in lengths]
    mask = torch.block_diag(*blocks).bool().tril() if len(fed) > 1 else None
    cached = [state.tokens for state in cache.states]

    def split(layer: int, pattern: Tensor) -> None:
        for name, (start, length) in rows.items():
            on_rows(name, layer, pattern[:, start : start + length, : cached[layer]])

    wants = Wants(block_mask=mask, rows=slice(0, sum(lengths)), on_rows=split, knockouts=knockouts)
    if on_queries is not None:

        def project(layer: int, module: nn.Module, hidden: Tensor, _: Pass) -> None:
            queries = engine.project(module, hidden, "q")[0]
            for name, (start, length) in rows.items():
                on_queries(name, layer, queries[:, start : start + length])

        wants = replace(wants, before_attention=project)
    with cache.transient():
        engine.forward(cache, join(fed), "guidance", wants=wants)


def _layout(
    prompts: Mapping[str, Segment],
) -> tuple[list[Segment], dict[str, tuple[int, int]]]:
    """Prompts to feed, and where the rows (start, length) of each named prompt are."""
    fed: list[Segment] = []
    starts: list[int] = []
    rows: dict[str, tuple[int, int]] = {}
    for name, segment in sorted(prompts.items(), key=lambda item: -len(item[1])):
        for longer, start in zip(fed, starts, strict=True):
            if torch.equal(longer.embeds[: len(segment)], segment.embeds):
                rows[name] = start, len(segment)
                break
        else:
            rows[name] = sum(len(s) for s in fed), len(segment)
            starts.append(rows[name][0])
            fed.append(segment)
    return fed, rows


@torch.no_grad()
def _read_raw(
    engine: Engine,
    cache: StreamCache,
    name: str,
    segment: Segment,
    causal: bool,
    on_rows: OnRows,
    on_queries: OnQueries | None,
    knockouts: Sequence[Knockout],
) -> None:
    for layer, block in enumerate(engine.adapter.layers):
        state = cache.states[layer]
        attention = cast(nn.Module, block.self_attn)
        hidden = cast(Any, block).input_layernorm(segment.embeds[None])
        where = state.cursor.place(segment)[0].to(engine.adapter.device)
        cos, sin = engine.rope.tables(where, layer)
        unrotated = engine.project(attention, hidden, "q")
        if on_queries is not None:
            on_queries(name, layer, unrotated[0])
        query = _turn(unrotated, cos, sin)
        key = _turn(engine.project(attention, hidden, "k"), cos, sin)[0]
        if state.keys is not None:
            key = torch.cat([state.keys[0].float(), key], 1)
        heads = query.shape[1]
        hidden = [k.hidden(layer, "guidance", state.ids, heads) for k in knockouts]
        pattern = _pattern(query[0], key, causal, [h for h in hidden if h is not None], attention)
        on_rows(name, layer, pattern[..., : state.tokens])


def _pattern(
    query: Float[Tensor, "query_head row dim"],
    key: Float[Tensor, "kv_head token dim"],
    causal: bool,
    hidden: Sequence[Bool[Tensor, "query_head cached"]],
    attention: nn.Module,
) -> Float[Tensor, "query_head row token"]:
    heads, rows, dim = query.shape
    groups, tokens = key.shape[:2]
    scale = float(cast(Any, attention).scaling)
    grouped = query.reshape(groups, heads // groups * rows, dim)
    scores = (grouped @ key.transpose(1, 2)).reshape(heads, rows, tokens) * scale
    if causal:
        visible = torch.ones(rows, tokens, dtype=torch.bool, device=key.device)
        scores = scores.masked_fill(~visible.tril(tokens - rows), float("-inf"))
    for tokens_hidden in hidden:
        cached = tokens_hidden.shape[-1]
        scores[..., :cached] = scores[..., :cached].masked_fill(
            tokens_hidden[:, None], float("-inf")
        )
    return scores.softmax(-1)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Float[Tensor, "1 head token dim"]:
    """Rotate queries or keys to their positions, fp32."""
    cos, sin = cos[:, None].to(x.device), sin[:, None].to(x.device)
    rotary = cos.shape[-1]
    part = x[..., :rotary].float()
    first, second = part.chunk(2, -1)
    turned = part * cos + torch.cat((-second, first), -1) * sin
    return torch.cat([turned, x[..., rotary:].float()], -1)


def average(rows: Float[Tensor, "query_head row token"], detail: str) -> Float[Tensor, "_ _ token"]:
    """What a policy is shown of some rows, by its `attention_detail`."""
    if detail == "heads":
        return rows.mean(1, keepdim=True)
    if detail == "mean":
        return rows.mean((0, 1), keepdim=True)
    return rows


def segments_for(
    engine: Engine, wanted: Sequence[Guidance], question: str | None
) -> dict[str, tuple[Guidance, Segment]]:
    """The decoder inputs of each guidance."""
    found: dict[str, tuple[Guidance, Segment]] = {}
    for guidance in wanted:
        if guidance.kind == "turn_boundary":
            segment = engine.adapter.turn_boundary()
        elif guidance.kind == "question":
            segment = engine.adapter.question(question or "")
        else:
            segment = engine.adapter.text(guidance.text)
        found[guidance.name] = guidance, segment
    return found

"""Reading pseudo-queries against the cache: which cached tokens a prompt would attend to.

All propagated prompts ride in one block-masked forward with restarting positions; a prompt that is the
beginning of another one is not fed twice, since causality makes its rows the first rows of the longer one.
A prompt leaves the pass behind the last layer that reads it, and the pass ends with the last rows read.
The "raw_embedding" reading takes each layer's queries from the prompt's input embeddings instead, as the
SDPA path of HERMES' released code does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hermes_lab.engine import upstream
from hermes_lab.engine.attention import pattern_of
from hermes_lab.engine.cache import StreamCache
from hermes_lab.engine.forward import Engine
from hermes_lab.engine.passes import Knockout, Pass, Wants
from hermes_lab.engine.upstream import Tables
from hermes_lab.policies.base import Guidance
from hermes_lab.segment import Segment, join

OnRows = Callable[[str, int, Tensor], None]
"""Receives (guidance name, layer, rows [query_head, row, cached token])."""

Reads = Callable[[str, int], bool]
"""Whether the guidance of that name is wanted at a layer."""

OnQueries = Callable[[str, int, Tensor], None]
"""Receives (guidance name, layer, queries before rotation [query_head, row, dim])."""


def read(
    engine: Engine,
    cache: StreamCache,
    prompts: Mapping[str, tuple[Guidance, Segment]],
    on_rows: OnRows,
    on_queries: OnQueries | None = None,
    knockouts: Sequence[Knockout] = (),
    reads: Reads = lambda name, layer: True,
) -> None:
    """Hand the attention rows of every prompt to `on_rows`, layer by layer; the cache stays as it is.

    Args:
        reads: whether a prompt (by name) is wanted at a layer; what nobody wants is not computed.
    """
    wanted = {name: [n for n in range(engine.layers) if reads(name, n)] for name in prompts}
    propagated = {n: s for n, (g, s) in prompts.items() if g.reading == "propagated" and wanted[n]}
    if propagated:
        _read_propagated(engine, cache, propagated, wanted, on_rows, on_queries, knockouts)
    for name, (guidance, segment) in prompts.items():
        if guidance.reading == "raw_embedding":
            placed = engine.place(cache.states, segment, torch.float32)[1]
            for layer in wanted[name]:
                rows, queries = _read_raw(
                    engine, cache, layer, segment, placed[layer], guidance.causal, knockouts
                )
                on_rows(name, layer, rows)
                if on_queries is not None:
                    on_queries(name, layer, queries)


def _read_propagated(
    engine: Engine,
    cache: StreamCache,
    prompts: Mapping[str, Segment],
    wanted: Mapping[str, Sequence[int]],
    on_rows: OnRows,
    on_queries: OnQueries | None,
    knockouts: Sequence[Knockout],
) -> None:
    fed, rows = _layout(prompts, {name: wanted[name][-1] for name in prompts})
    lengths = [len(segment) for segment, _ in fed]
    mask = None
    if len(fed) > 1:
        mask = torch.block_diag(*(torch.ones(n, n) for n in lengths)).bool().tril()
    at = [[n for n in rows if layer in wanted[n]] for layer in range(fed[0][1] + 1)]
    cached = [state.tokens for state in cache.states]

    def split(layer: int, pattern: Tensor) -> None:
        for name in at[layer]:
            start, length = rows[name]
            on_rows(name, layer, pattern[:, start : start + length, : cached[layer]])

    def project(_: Pass, layer: int, module: nn.Module, hidden: Tensor) -> None:
        if on_queries is None or not at[layer]:
            return
        queries = upstream.project(module, hidden, "q")[0]
        for name in at[layer]:
            start, length = rows[name]
            on_queries(name, layer, queries[:, start : start + length])

    rows_alive = [
        sum(n for n, (_, last) in zip(lengths, fed, strict=True) if last >= layer)
        for layer in range(len(at))
    ]
    engine.read_layers(
        cache,
        join([segment for segment, _ in fed]),
        rows_alive,
        lambda layer: split if at[layer] else None,
        Wants(
            block_mask=mask,
            knockouts=knockouts,
            before_attention=None if on_queries is None else project,
        ),
    )


def _layout(
    prompts: Mapping[str, Segment], last: Mapping[str, int]
) -> tuple[list[tuple[Segment, int]], dict[str, tuple[int, int]]]:
    """Prompts to feed with the last layer that needs each, longest needed first, and where the rows
    (start, length) of each named prompt are."""
    fed: list[tuple[Segment, int]] = []
    host: dict[str, Segment] = {}
    for name, segment in sorted(prompts.items(), key=lambda item: -len(item[1])):
        for index, (longer, until) in enumerate(fed):
            if torch.equal(longer.embeds[: len(segment)], segment.embeds):
                fed[index] = longer, max(until, last[name])
                host[name] = longer
                break
        else:
            fed.append((segment, last[name]))
            host[name] = segment
    fed.sort(key=lambda item: -item[1])
    starts: dict[int, int] = {}
    length = 0
    for segment, _ in fed:
        starts[id(segment)] = length
        length += len(segment)
    return fed, {name: (starts[id(host[name])], len(prompts[name])) for name in prompts}


@torch.no_grad()
def _read_raw(
    engine: Engine,
    cache: StreamCache,
    layer: int,
    segment: Segment,
    tables: Tables,
    causal: bool,
    knockouts: Sequence[Knockout],
) -> tuple[Float[Tensor, "query_head row cached"], Float[Tensor, "query_head row dim"]]:
    """Rows and un-rotated queries of one layer, taken from the prompt's input embeddings."""
    block = upstream.block_of(engine.adapter.layers[layer])
    state = cache.stream_layers[layer].state
    hidden = block.attention_norm(segment.embeds[None])
    unrotated = upstream.project(block.attention, hidden, "q")
    cos, sin = (table[:, None].to(hidden.device) for table in tables)
    query = upstream.turn(unrotated, cos, sin)
    key = upstream.turn(upstream.project(block.attention, hidden, "k"), cos, sin)
    if state.keys is not None:
        key = torch.cat([state.keys.float(), key], 2)
    mask = _mask(layer, state.ids, query.shape[1], len(segment), causal, knockouts)
    pattern = pattern_of(query, key, mask.to(key.device), upstream.score_scale(block.attention))
    return pattern[0, ..., : state.tokens], unrotated[0]


def _mask(
    layer: int,
    cached: Int[Tensor, "head cached"],
    heads: int,
    rows: int,
    causal: bool,
    knockouts: Sequence[Knockout],
) -> Bool[Tensor, "1 _ _ _"]:
    """Which keys each row may see, as `pattern_of` takes it: of all of them, or of the prompt's own."""
    own = torch.ones(rows, rows, dtype=torch.bool, device=cached.device)
    own = (own.tril() if causal else own)[None, None]
    found = [k.hidden(layer, "guidance", cached, heads) for k in knockouts]
    hidden = [tokens for tokens in found if tokens is not None]
    if not hidden:
        return own
    visible = ~torch.stack(hidden).any(0)[None, :, None]
    return torch.cat([visible.expand(-1, -1, rows, -1), own.expand(-1, heads, -1, -1)], -1)


def average(rows: Float[Tensor, "query_head row token"], detail: str) -> Float[Tensor, "_ _ token"]:
    """What a policy is shown of some rows, by its `attention_detail`."""
    if detail == "heads":
        return rows.mean(1, keepdim=True)
    if detail == "mean":
        return rows.mean(1, keepdim=True).mean(0, keepdim=True)  # faster than both at once
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

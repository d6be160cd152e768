"""What policies are shown of attention: pseudo-queries, a chunk's own queries, and what tokens received."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hermes_lab import lens
from hermes_lab.lab import Lab
from hermes_lab.policies.base import Guidance, LayerView, Need
from hermes_lab.retention import guidance
from tests.reference.closeness import EFFECT, RELATIVE, assert_moved, assert_same
from tests.reference.literal import Literal, load_eager, text_model
from tests.reference.streams import Beside, by_head, by_layer, noise, scripted

pytestmark = pytest.mark.upstream

Model = tuple[Lab, Path]

PROMPTS = {
    "local": "Describe the scene.",
    "global": "Summarize the whole video.",
    "mixed": "Describe the scene.; Summarize the whole video.",  # begins with "local"
}


def read(both: Beside, prompts: dict[str, Guidance], **options: Any) -> tuple[dict, dict]:
    """Rows and queries of every prompt, (name, layer) -> tensor, and a check that the cache is as it was."""
    rows: dict[tuple[str, int], Tensor] = {}
    queries: dict[tuple[str, int], Tensor] = {}
    stream = both.session.stream
    before = stream.cache.states
    guidance.read(
        both.lab.engine,
        stream.cache,
        guidance.segments_for(both.lab.engine, list(prompts.values()), None),
        lambda name, layer, found: rows.update({(name, layer): found}),
        lambda name, layer, found: queries.update({(name, layer): found}),
        **options,
    )
    assert all(a is b for a, b in zip(stream.cache.states, before, strict=True))
    return rows, queries


def streamed(model: Model, choose: Any = None, chunks: int = 2) -> Beside:
    policy = "full" if choose is None else scripted(choose, per_head=choose is by_head)
    both = Beside(*model, policy, "eager")
    for step in range(chunks):
        both.feed(noise(2, step))
    return both


@pytest.mark.parametrize("choose", [None, by_layer, by_head])
def test_one_block_masked_pass_equals_separate_passes_and_the_literal_rows(
    model: Model, choose: Any
) -> None:
    both = streamed(model, choose)
    prompts = {name: Guidance(name, text) for name, text in PROMPTS.items()}
    together, queries = read(both, prompts)
    for name, prompt in prompts.items():
        alone, alone_queries = read(both, {name: prompt})
        both.reference.feed(both.lab.adapter.text(prompt.text), store=False)
        for layer in range(both.lab.layers):
            cached = both.session.stream.cache.states[layer].tokens
            literal = both.reference.patterns[layer][..., :cached]
            assert together[name, layer].shape == literal.shape
            assert_same(together[name, layer], alone[name, layer])
            assert_same(together[name, layer], literal)
            assert_same(queries[name, layer], alone_queries[name, layer])
    first = together["global", 2].mean((0, 1))
    other = together["mixed", 2].mean((0, 1))
    assert (first - other).abs().max() > EFFECT * RELATIVE * first.max()


def test_rows_equal_the_attentions_of_transformers(model: Model) -> None:
    both = streamed(model)
    prompts = {name: Guidance(name, text) for name, text in PROMPTS.items()}
    rows, _ = read(both, prompts)
    decoder: Any = text_model(load_eager(model[1]))
    positions = both.positions_of(0)[0][0]
    for name, prompt in prompts.items():
        segments = [both.prefix, *(s for s, _ in both.chunks), both.lab.adapter.text(prompt.text)]
        at = torch.cat([positions, segments[-1].rel + both.reference.layers[0].next], 1)
        extra = {}
        if any(s.deepstack for s in segments):
            extra["deepstack_visual_embeds"] = [
                torch.cat([s.deepstack[i] if s.deepstack else 0 * s.embeds for s in segments])
                for i in range(2)
            ]
            extra["visual_pos_masks"] = torch.ones(1, at.shape[1], dtype=torch.bool)
        with torch.no_grad():
            attentions = decoder(
                inputs_embeds=torch.cat([s.embeds for s in segments])[None],
                position_ids=at[:, None] if len(at) == 3 else at,
                output_attentions=True,
                **extra,
            ).attentions
        new, cached = len(segments[-1]), positions.shape[1]
        for layer in range(both.lab.layers):
            assert_same(rows[name, layer], attentions[layer][0, :, -new:, :cached])


def test_a_prompt_that_begins_another_is_not_fed_twice(model: Model) -> None:
    engine = model[0].engine
    prompts = {name: Guidance(name, text) for name, text in PROMPTS.items()}
    segments = guidance.segments_for(engine, list(prompts.values()), None)
    fed, rows = guidance._layout(
        {name: segment for name, (_, segment) in segments.items()},
        {"local": 3, "mixed": 0, "global": 2},
    )
    lengths = {name: len(segment) for name, (_, segment) in segments.items()}
    # the mixed prompt carries the local one, so it stays as long as that is read: longer than the global one
    assert [(len(s), last) for s, last in fed] == [(lengths["mixed"], 3), (lengths["global"], 2)]
    assert rows == {
        "local": (0, lengths["local"]),
        "mixed": (0, lengths["mixed"]),
        "global": (lengths["mixed"], lengths["global"]),
    }


@pytest.mark.parametrize("reading", ["propagated", "raw_embedding"])
def test_reading_only_what_is_needed_gives_the_rows_of_reading_everything(
    model: Model, reading: Any
) -> None:
    both = streamed(model, by_head)
    prompts = {name: Guidance(name, text, reading=reading) for name, text in PROMPTS.items()}
    whole, whole_queries = read(both, prompts)
    needed = {("local", 0), ("mixed", 1), ("global", 2)}
    some, queries = read(both, prompts, reads=lambda name, layer: (name, layer) in needed)
    assert set(some) == set(queries) == needed
    for key in needed:
        assert_same(some[key], whole[key])
        assert_same(queries[key], whole_queries[key])
    nothing, _ = read(both, prompts, reads=lambda name, layer: False)
    assert not nothing


def test_layers_behind_the_last_reader_are_not_run(model: Model) -> None:
    both = streamed(model)
    ran: list[str] = []
    handles = [
        part.register_forward_hook(lambda *_, name=f"{layer}.{label}": ran.append(name))
        for layer, block in enumerate(both.lab.adapter.layers)
        for label, part in (("q", block.self_attn.q_proj), ("mlp", block.mlp))
    ]
    prompts = {"global": Guidance("global", PROMPTS["global"])}
    read(both, prompts, reads=lambda name, layer: layer == 1)
    for handle in handles:
        handle.remove()
    assert ran == ["0.q", "0.mlp", "1.q", "1.q"]  # the second time for the queries themselves


def literal_raw_rows(
    reference: Literal, embeds: Tensor, causal: bool
) -> list[tuple[Tensor, Tensor]]:
    """Rows and queries of a prompt whose embeddings go to every layer as they are (HERMES' released code)."""
    found = []
    for index, block in enumerate(reference.decoder.layers):
        memory, attention = reference.layers[index], block.self_attn
        x = reference._norm(block.input_layernorm, embeds.double())
        q = F.linear(x, attention.q_proj.weight, attention.q_proj.bias)
        k = F.linear(x, attention.k_proj.weight, attention.k_proj.bias)
        q, k = (t.unflatten(-1, (-1, reference.dim)).transpose(0, 1) for t in (q, k))
        if hasattr(attention, "q_norm"):
            q, k = reference._norm(attention.q_norm, q), reference._norm(attention.k_norm, k)
        line = torch.arange(memory.next, memory.next + len(embeds)).expand(reference.axes, -1)
        rows = []
        for number in range(reference.query_heads):
            kv = number // (reference.query_heads // reference.kv_heads)
            head = memory.heads[kv]
            keys = torch.cat(
                [
                    reference.rotate(head.keys, head.positions, index),
                    reference.rotate(k[kv], line, index),
                ]
            )
            scores = reference.rotate(q[number], line, index) @ keys.T * attention.scaling
            if causal:
                own = torch.ones(len(embeds), len(embeds), dtype=torch.bool).tril()
                scores[:, len(head.ids) :] = scores[:, len(head.ids) :].masked_fill(
                    ~own, -torch.inf
                )
            rows.append(scores.softmax(-1)[:, : len(head.ids)])
        found.append((torch.stack(rows), q))
    return found


@pytest.mark.parametrize("choose", [None, by_layer, by_head])
@pytest.mark.parametrize("causal", [True, False])
def test_raw_embedding_rows_equal_a_literal_reading(
    model: Model, choose: Any, causal: bool
) -> None:
    both = streamed(model, choose)
    prompts = {
        "raw": Guidance("raw", PROMPTS["mixed"], reading="raw_embedding", causal=causal),
        "propagated": Guidance("propagated", PROMPTS["mixed"]),
    }
    rows, queries = read(both, prompts)
    embeds = both.lab.adapter.text(PROMPTS["mixed"]).embeds
    for layer, (expected, asked) in enumerate(literal_raw_rows(both.reference, embeds, causal)):
        assert_same(rows["raw", layer], expected)
        assert_same(queries["raw", layer], asked)
        if layer > 0:
            assert_moved(rows["raw", layer], rows["propagated", layer])


def test_a_guidance_knockout_hides_tokens_from_both_readings(model: Model) -> None:
    both = streamed(model, by_head)
    prompts = {
        "raw": Guidance("raw", PROMPTS["local"], reading="raw_embedding"),
        "propagated": Guidance("propagated", PROMPTS["local"]),
    }
    ids = lens.tokens(both.session, frames=[0, 1])
    with lens.knockout(both.session, ids, layers=[1, 2], passes=("guidance",)) as made:
        rows, _ = read(both, prompts, knockouts=[made])
    plain, _ = read(both, prompts)
    for name in prompts:
        for layer in range(both.lab.layers):
            hidden = torch.isin(both.session.layer_ids(layer), ids)
            hidden = hidden.repeat_interleave(2, 0)[:, None].expand(rows[name, layer].shape)
            here = rows[name, layer][hidden]
            assert bool((here == 0).all()) == (layer in (1, 2))
        assert_moved(rows[name, 1], plain[name, 1])
    both.reference.hide = lambda layer, head, cached: torch.isin(cached, ids) & (layer in (1, 2))
    both.reference.feed(both.lab.adapter.text(PROMPTS["local"]), store=False)
    cached = both.session.stream.cache.states[3].tokens
    assert_same(rows["propagated", 3], both.reference.patterns[3][..., :cached])


@pytest.mark.parametrize("detail", ["rows", "heads", "mean"])
def test_policies_are_shown_their_candidates_rows(model: Model, detail: str) -> None:
    """Guidance, the chunk's last queries, and what every token received, against literal patterns."""
    views: dict[int, LayerView] = {}

    def choose(view: LayerView) -> Tensor:
        views[view.layer] = view
        return by_layer(view)

    policy = scripted(
        choose,
        needs=frozenset(
            {Need.GUIDANCE, Need.CHUNK_ATTENTION, Need.RECEIVED_ATTENTION, Need.KEYS, Need.VALUES}
        ),
        guidance=lambda self, history: (Guidance("ask", PROMPTS["local"]),),
        attention_detail=detail,
    )
    both = Beside(*model, policy, "eager")
    both.feed(noise(2, 0))
    lab, protected = both.lab, len(both.prefix)
    images, times = noise(2, 1), [2.0, 3.0]
    segment = lab.adapter.encode(images, times)
    reference = both.reference
    first = len(both.session.table)
    reference.feed(segment, range(first, first + len(segment)))
    chunk = reference.patterns
    reference.feed(lab.adapter.text(PROMPTS["local"]), store=False)
    asked = reference.patterns
    both.session.feed(images, times)
    last = both.session.stream.tokens_per_frame
    for layer, view in views.items():
        total = view.tokens + protected

        def shown(pattern: Tensor, total: int = total) -> Tensor:
            found = pattern[..., protected:total]
            if detail == "heads":
                return found.mean(1, keepdim=True)
            return found.mean((0, 1), keepdim=True) if detail == "mean" else found

        assert_same(view.attention["ask"], shown(asked[layer]))
        assert_same(view.attention["chunk"], shown(chunk[layer][:, -last:]))
        assert view.received is not None and view.received_queries is not None
        assert_same(view.received, chunk[layer].sum(1)[:, protected:])
        could_see = torch.arange(total)[None] <= torch.arange(total - len(segment), total)[:, None]
        assert torch.equal(view.received_queries, could_see.sum(0)[protected:].float())
        assert view.keys is not None and view.values is not None
        assert_same(view.keys, reference.keys(layer)[:, protected:])
        raw = torch.stack([h.keys for h in reference.layers[layer].heads])
        assert_same(view.keys_unrotated(), raw[:, protected:])
        values = torch.stack([h.values for h in reference.layers[layer].heads])
        assert_same(view.values, values[:, protected:])
        assert torch.equal(view.ids[0], reference.layers[layer].heads[0].ids[protected:])

"""Value-weighted attention and logit attribution: the lens against the literal decoder, and who calls the lens."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis.answers import Target
from analysis.contribution_measures import MEASURES, token_measures
from analysis.streams import Grid
from dashboards.parts import readings
from hermes_lab import StreamSession, lens
from hermes_lab.errors import LabError
from hermes_lab.lab import Lab
from hermes_lab.lens import attribution
from tests.checkpoints import FAMILIES, VARIANTS
from tests.reference.closeness import RELATIVE, assert_same
from tests.reference.streams import QUESTION, Beside, by_head, by_layer, noise, scripted

Model = tuple[Lab, Path]


@pytest.fixture(params=(*FAMILIES, *VARIANTS))
def model(request: pytest.FixtureRequest, labs: Callable[[str], Model]) -> Model:
    """Each model type in turn, those that share an adapter too."""
    return labs(request.param)


def streamed(model: Model, choose: Any = by_head) -> Beside:
    both = Beside(*model, scripted(choose, per_head=choose is by_head), "eager")
    for step in range(2):
        both.feed(noise(2, step))
    return both


def full(model: Model) -> StreamSession:
    session = StreamSession(model[0], "full")
    for step in range(2):
        session.feed(noise(2, step), [2.0 * step, 2.0 * step + 1])
    return session


# --- against the literal decoder -----------------------------------------------------------------------
@pytest.mark.parametrize("choose", [by_layer, by_head])
def test_value_weighted_attention_is_the_norm_of_what_each_token_writes(
    model: Model, choose: Any
) -> None:
    both = streamed(model, choose)
    found = lens.value_weighted(both.session, QUESTION, positions=(0, -1))
    reference = both.reference
    reference.feed(both.question(), store=False)
    patterns = reference.patterns
    _, cache = both.session.run_with_cache(QUESTION)
    for layer, block in enumerate(reference.decoder.layers):
        cached = both.session.stream.cache.states[layer].tokens
        weight = block.self_attn.o_proj.weight.T.unflatten(0, (-1, reference.dim))
        for head in range(reference.query_heads):
            memory = reference.layers[layer].heads[head // 2]
            ids = found.ids[layer][head]
            assert np.array_equal(ids[:cached], memory.ids)
            assert (ids[cached:] == -1).all()
            for row, position in enumerate((0, len(both.question()) - 1)):
                written = memory.values @ weight[head]
                if reference.gemma:
                    out = block.self_attn.o_proj(cache["z", layer][0, position].flatten().double())
                    rms = (out.square().mean() + reference.config.rms_norm_eps).sqrt()
                    written = written * (1 + block.post_attention_layernorm.weight) / rms
                alpha = patterns[layer][head, position, :cached]
                expected = alpha * written.norm(dim=-1)
                assert_same(found.norms[layer][head, row, :cached], expected, 5 * RELATIVE)
                assert_same(found.attention[layer][head, row, :cached], alpha)
    flat = found.attention[2] / found.attention[2].sum(-1, keepdims=True)
    assert np.abs(flat - found.norms[2] / found.norms[2].sum(-1, keepdims=True)).max() > 1e-3


def test_single_layers_are_read_as_all_are(model: Model) -> None:
    session = full(model)
    everything = lens.value_weighted(session, QUESTION, positions=None)
    some = lens.value_weighted(session, QUESTION, positions=None, layers=(2, -1))
    assert everything.layers == (0, 1, 2, 3)
    assert some.layers == (2, 3)
    for mine, layer in enumerate(some.layers):
        assert_same(some.norms[mine], everything.norms[layer])
        assert_same(some.attention[mine], everything.attention[layer])
        assert np.array_equal(some.ids[mine], everything.ids[layer])
    with pytest.raises(LabError, match="There is no layer 4"):
        lens.value_weighted(session, QUESTION, layers=(4,))


@pytest.mark.parametrize("other", [None, "b", ("b", "c", 7)])
def test_direct_attribution_adds_up(model: Model, other: Any) -> None:
    both = streamed(model)
    found = lens.direct_attribution(both.session, QUESTION, "a", other)
    logits = both.session.question_logits(QUESTION)[-1]
    others = [] if other is None else [other] if isinstance(other, str) else list(other)
    first, *rest = lens.answer_ids(both.session, ["a", *others])
    assert found.answer_ids == (first, *rest)
    expected = float(logits[first] - (logits[rest].mean() if rest else 0))
    assert found.total == pytest.approx(expected, rel=1e-4)
    assert found.parts.sum() == pytest.approx(
        found.total, abs=10 * RELATIVE * np.abs(found.parts).max()
    )
    for layer, tokens in enumerate(found.tokens):
        assert tokens.shape == found.ids[layer].shape
        assert np.allclose(tokens.sum(-1), found.heads[layer], rtol=1e-4, atol=1e-5)
    if both.lab.adapter.family != "gemma3":
        _, cache = both.session.run_with_cache(QUESTION)
        model_ = cache.model
        away = model_.W_U[:, rest].mean(1) if rest else 0
        final = cache["resid_post", -1][0, -1]
        norm = model_.ln_final.weight / final.square().mean().sqrt()
        scaled = (model_.W_U[:, first] - away) * norm
        written = cache["z", 1][0, -1, 2] @ model_.blocks[1].attn.W_O[2] @ scaled
        assert found.heads[1, 2] == pytest.approx(float(written), rel=1e-3, abs=1e-5)


def test_parts_are_labelled_and_the_largest_come_first(model: Model) -> None:
    session = full(model)
    found = lens.direct_attribution(session, QUESTION, "a", "b")
    by_label = dict(zip(found.labels, found.parts, strict=True))
    assert len(by_label) == len(found.labels) == found.heads.size + found.mlps.size + 2
    assert by_label["embedding"] == found.embedding
    assert by_label["layer 2 head 3"] == found.heads[2, 3]
    assert by_label["layer 3 MLP"] == found.mlps[3]
    assert by_label["biases"] == found.biases
    top = found.top(5)
    assert [by_label[label] for label, _ in top] == [value for _, value in top]
    assert [abs(value) for _, value in top] == sorted(np.abs(found.parts), reverse=True)[:5]
    assert len(found.top(10**6)) == len(found.labels)


def test_an_answer_is_not_compared_with_itself(model: Model) -> None:
    session = full(model)
    with pytest.raises(LabError, match="begin with the same token"):
        lens.direct_attribution(session, QUESTION, "ab", ["b", "ac"])
    with pytest.raises(LabError, match="at least one answer"):
        lens.direct_attribution(session, QUESTION, "ab", [])
    once = lens.direct_attribution(session, QUESTION, "a", ["b", "bc"])
    assert once.total == lens.direct_attribution(session, QUESTION, "a", "b").total


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    example = textwrap.dedent((attribution.__doc__ or "").split("Example::")[1])
    exec(compile(example, "the example in hermes_lab/lens/attribution.py", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 5


# --- analysis and dashboard read what the lens reads -----------------------------------------------------
def test_the_study_reads_what_the_lens_reads(model: Model) -> None:
    """Mass, values and logit of every video token; towards the answer, away from the mean alternative."""
    session = full(model)
    grid = Grid.of(session)
    target = Target(5, (40, 41, 77))
    found = dict(zip(MEASURES, token_measures(session, grid, QUESTION, target), strict=True))
    weighted = lens.value_weighted(session, QUESTION)
    direct = lens.direct_attribution(session, QUESTION, 5, (40, 41, 77))
    assert direct.total == pytest.approx(
        float(target.margin(session.question_logits(QUESTION)[-1])), abs=1e-5
    )
    for layer in range(session.engine.layers):
        for head in range(session.engine.query_heads):
            place = {int(i): n for n, i in enumerate(weighted.ids[layer][head]) if i >= 0}
            at = np.array([[place[int(i)] for i in frame] for frame in grid.ids])
            assert_same(found["mass"][layer, head], weighted.attention[layer][head, 0][at], 0)
            assert_same(found["value"][layer, head], weighted.norms[layer][head, 0][at], 0)
            assert_same(found["logit"][layer, head], direct.tokens[layer][head][at], 0)


@torch.no_grad()
def test_the_studys_measures_are_written_into_the_residual_stream(model: Model) -> None:
    """With the question's own tokens and the prefix, a head's tokens add up to what attention wrote for the answer."""
    session = full(model)
    direct = lens.direct_attribution(session, QUESTION, 5, (40, 41, 77))
    _, cache = session.run_with_cache(QUESTION)
    adapter = session.engine.adapter
    final = cache["resid_post", -1][0, -1:]
    toward = adapter.head.weight[5] - adapter.head.weight[[40, 41, 77]].mean(0)
    scale = adapter.decoder.norm(final)[0] / final[0]
    for layer, block in enumerate(adapter.layers):
        bias = block.self_attn.o_proj.bias
        written = cache["attn_out", layer][0, -1] - (0 if bias is None else bias)
        expected = float(written @ (toward * scale))
        assert direct.heads[layer].sum() == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_dashboard_reads_what_the_lens_reads(model: Model) -> None:
    both = streamed(model)
    layer, head = 2, 3
    mass, weighted, time_s = readings.value_weighted(both.session, QUESTION, layer, head)
    read = lens.value_weighted(both.session, QUESTION, positions=None)
    ids = read.ids[layer][head]
    frames = both.session.table.column("frame")
    for got, rows in ((mass, read.attention), (weighted, read.norms)):
        expected = np.zeros(both.session.stream.frames_seen)
        for token, value in zip(ids, rows[layer][head].astype(float).mean(0), strict=True):
            if token >= 0 and frames[token] >= 0:
                expected[frames[token]] += value
        assert_same(got, expected / expected.sum())
    assert np.abs(mass - weighted).max() > 1e-3
    assert time_s.tolist() == [0.0, 1.0, 2.0, 3.0]
    with pytest.raises(LabError, match="There is no layer 9"):
        readings.value_weighted(both.session, QUESTION, 9, 0)
    with pytest.raises(LabError, match="There is no query head 9"):
        readings.value_weighted(both.session, QUESTION, 0, 9)

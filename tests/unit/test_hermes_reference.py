"""HERMES against a slow literal reading of the equations (arXiv 2601.14724, §3, Algorithm 1), in plain Python.

Nothing of the code under test is used in the reference: lists, loops and complex numbers only.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import LayerView, Scores
from hermes_lab.policies.hermes import Hermes
from tests.fabricate import BASE, decide, layer_view, model_views

Row = list[float]


# --- the reference ----------------------------------------------------------------------------
def band(layer: int, layers: int) -> str:
    if layer < int(0.1 * layers):
        return "shallow"
    return "deep" if layer >= int(0.7 * layers) else "middle"


def norm(row: Row) -> Row:
    low, high = min(row), max(row)
    return [(x - low) / (high - low + 1e-6) for x in row]


def mean_over_heads_and_rows(attention: torch.Tensor) -> Row:
    heads = attention.double().tolist()
    tokens = len(heads[0][0])
    rows = [row for head in heads for row in head]
    return [sum(row[i] for row in rows) / len(rows) for i in range(tokens)]


def importance(preset: str, view: LayerView, budget: int) -> Row:
    """S of one layer before smoothing."""
    layer, layers, count = view.layer, view.layers, view.tokens
    which = band(layer, layers)
    short, long = int(0.1 * layers), int(0.7 * layers)
    progress = (layer - short) / (long - short) if which == "middle" else 0.0
    recency: Row = []
    for i in range(count):
        age = count - 1 - i
        if preset == "paper":
            recency.append(math.exp(-(20 / budget) * age))
        else:
            rate = 20 - 19.5 * progress
            recency.append(math.exp(-rate * age / max(count - 1, 1)))
    recency = norm(recency)
    if which == "shallow":
        return recency
    prompt = "global" if which == "deep" else "mixed"
    attention = norm(mean_over_heads_and_rows(view.attention[prompt]))
    if which == "deep":
        return attention
    weight = 0.75 - 0.6 * progress if preset == "paper" else 1 - 0.9 * progress
    return [(1 - weight) * a + weight * r for a, r in zip(attention, recency, strict=True)]


def stretched(row: Row, count: int) -> Row:
    """Linear interpolation between the centres of equal cells, flat beyond the outer centres."""
    if len(row) == count:
        return row
    out: Row = []
    for j in range(count):
        x = min(max((j + 0.5) * len(row) / count - 0.5, 0.0), len(row) - 1.0)
        left = int(x)
        right = min(left + 1, len(row) - 1)
        out.append(row[left] * (1 - (x - left)) + row[right] * (x - left))
    return out


def smoothed(preset: str, own: list[Row]) -> list[Row]:
    layers = len(own)
    share = {"shallow": 0.1, "middle": 0.3, "deep": 0.4}
    result = [list(row) for row in own]
    for layer in range(layers - 2, -1, -1):
        above = result[layer + 1] if preset == "released" else own[layer + 1]
        above = stretched(above, len(own[layer]))
        lam = share[band(layer, layers)]
        result[layer] = [(1 - lam) * s + lam * up for s, up in zip(own[layer], above, strict=True)]
    return result


def best(row: Row, count: int) -> list[int]:
    """The `count` largest, newer first where equal, in temporal order."""
    return sorted(sorted(range(len(row)), key=lambda i: (-row[i], -i))[:count])


def turned(key: Row, old: int, new: int) -> Row:
    """exp(i (p_new - p_old) theta) on each channel pair (c, c + dim / 2)."""
    half = len(key) // 2
    out = [0.0] * len(key)
    for c in range(half):
        theta = BASE ** (-c / half)
        z = complex(key[c], key[c + half]) * cmath.exp(1j * (new - old) * theta)
        out[c], out[c + half] = z.real, z.imag
    return out


def mean_vectors(vectors: list[Row]) -> Row:
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


# --- the comparisons --------------------------------------------------------------------------
def policy_of(preset: str, budget: int, **fields: object) -> Hermes:
    return getattr(Hermes, preset)(budget_tokens=budget, **fields)


def views_of(layers: int, lengths: list[int], seed: int) -> list[LayerView]:
    return model_views(layers, lengths, frames=6, grid=(2, 2), rows=2, seed=seed)


presets = st.sampled_from(["paper", "released"])
seeds = st.integers(0, 10_000)


@settings(max_examples=40, deadline=None)
@given(preset=presets, layers=st.integers(1, 12), seed=seeds, data=st.data())
def test_scores_and_smoothing(preset: str, layers: int, seed: int, data: st.DataObject) -> None:
    """Own and smoothed scores of every layer, with equal and unequal numbers of tokens."""
    lengths = data.draw(st.lists(st.integers(2, 24), min_size=layers, max_size=layers))
    views = views_of(layers, lengths, seed)
    policy = policy_of(preset, 10)
    own = [policy.score(view) for view in views]
    expected = [importance(preset, view, 10) for view in views]
    for scores, row in zip(own, expected, strict=True):
        torch.testing.assert_close(scores.total[0], torch.tensor(row), atol=2e-5, rtol=1e-5)
    mixed = policy.mix(own, views)
    for scores, row in zip(mixed, smoothed(preset, expected), strict=True):
        torch.testing.assert_close(scores.total[0], torch.tensor(row), atol=2e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(preset=presets, seed=seeds, budget=st.integers(2, 23))
def test_whole_decision(preset: str, seed: int, budget: int) -> None:
    """The kept sets: |M| a layer, |M| - 1 in deep ones, wherever the reference is not within rounding of a tie."""
    layers = 10
    views = views_of(layers, [24] * layers, seed)
    decisions = decide(policy_of(preset, budget), views)
    rows = smoothed(preset, [importance(preset, view, budget) for view in views])
    for layer, (decision, row) in enumerate(zip(decisions, rows, strict=True)):
        count = budget - (band(layer, layers) == "deep")
        ranked = sorted(row, reverse=True)
        if ranked[count - 1] - ranked[count] > 1e-4:
            assert decision.kept[0].tolist() == best(row, count)
        assert decision.kept.shape == (1, count)
        assert (decision.merged is not None) == (band(layer, layers) == "deep")


@settings(max_examples=60, deadline=None)
@given(
    row=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=20),
    count=st.integers(1, 20),
)
def test_topk_with_ties(row: Row, count: int) -> None:
    """Ties are broken newest first and the order stays temporal."""
    view = layer_view(keep=len(row), frames=6)
    kept = Hermes().select(Scores(torch.tensor([row])), count, view)
    assert kept[0].tolist() == best(row, min(count, len(row)))


@settings(max_examples=40, deadline=None)
@given(
    preset=presets,
    place=st.sampled_from(["last_kept_plus_one", "latest_evicted"]),
    seed=seeds,
    budget=st.integers(2, 15),
)
def test_summary_token(preset: str, place: str, seed: int, budget: int) -> None:
    """Algorithm 1: mean of the evicted values; mean of the evicted keys at the summary's position."""
    views = model_views(10, [16] * 10, frames=5, seed=seed)
    view = views[9]
    decision = decide(policy_of(preset, budget, summary_position=place), views)[9]
    made = decision.merged
    assert made is not None
    assert view.keys is not None
    assert view.values is not None
    kept = decision.kept[0].tolist()
    gone = [i for i in range(view.tokens) if i not in kept]
    positions = view.positions[0, 0].tolist()
    at = positions[kept[-1]] + 1 if place == "last_kept_plus_one" else positions[gone[-1]]
    assert made.positions.tolist() == [[at]]
    assert made.place == ("end" if place == "last_kept_plus_one" else "sorted")
    assert made.sources[0].tolist() == [view.ids[0].tolist()[i] for i in gone]
    for head in range(view.kv_heads):
        keys, values = view.keys[head].double().tolist(), view.values[head].double().tolist()
        key = mean_vectors([turned(keys[i], positions[i], at) for i in gone])
        value = mean_vectors([values[i] for i in gone])
        torch.testing.assert_close(made.keys[head, 0], torch.tensor(key), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(made.values[head, 0], torch.tensor(value), atol=1e-5, rtol=1e-4)


def test_summary_stands_behind_all_axes_of_mrope() -> None:
    """With M-RoPE each axis of the summary is one past the largest that was kept on that axis."""
    views = model_views(10, [16] * 10, frames=5, axes=3)
    decision = decide(Hermes.paper(budget_tokens=6), views)[9]
    assert decision.merged is not None
    behind = views[9].positions[0, :, decision.kept[0]].amax(-1) + 1
    assert decision.merged.positions[:, 0].tolist() == behind.tolist()


def test_earlier_summaries_are_ordinary_candidates() -> None:
    """A summary token with the highest attention is kept; with the lowest it is folded into the next one."""
    views = model_views(10, [16] * 10, frames=5)
    for level, stays in ((1.0, True), (0.0, False)):
        attention = dict(views[9].attention)
        attention["global"] = attention["global"].clone()
        attention["global"][..., 3] = level
        marked = replace(
            views[9],
            attention=attention,
            role=views[9].role.clone().index_fill_(1, torch.tensor([3]), 3),
        )
        decision = decide(Hermes.paper(budget_tokens=8), [*views[:9], marked])[9]
        assert (3 in decision.kept[0].tolist()) == stays
        assert decision.merged is not None
        assert (int(marked.ids[0, 3]) in decision.merged.sources[0].tolist()) == (not stays)


def test_terms_explain_the_total() -> None:
    """Every layer records recency, attention, own score and the contribution from above; they add up."""
    views = model_views(10)
    policy = Hermes.released(budget_tokens=8)
    for layer, scores in enumerate(policy.mix([policy.score(v) for v in views], views)):
        assert set(scores.terms) == {"recency", "attention", "own", "above"}
        share = {"shallow": 0.1, "middle": 0.3, "deep": 0.4}[band(layer, 10)] * (layer < 9)
        total = (1 - share) * scores.terms["own"] + scores.terms["above"]
        torch.testing.assert_close(scores.total, total)
    no_local = [Hermes.paper().score(layer_view(layers=10, guidance=("mixed", "global")))]
    assert set(no_local[0].terms) == {"recency", "own"}


# --- bands, budgets and prompts -----------------------------------------------------------------
@given(layers=st.integers(1, 80))
def test_default_bands(layers: int) -> None:
    """l < int(0.1 L) shallow, l >= int(0.7 L) deep, else middle."""
    assert list(Hermes().bands_of(layers)) == [band(layer, layers) for layer in range(layers)]


def test_bands_of_the_studied_model() -> None:
    """The paper's examples for 28 layers: layer 0 shallow, 8 middle, 26 deep (§2)."""
    bands = Hermes().bands_of(28)
    assert (bands[0], bands[8], bands[26]) == ("shallow", "middle", "deep")
    assert [bands.count(b) for b in ("shallow", "middle", "deep")] == [2, 17, 9]


def test_explicit_and_shuffled_bands() -> None:
    """Edges and whole lists override the fractions; the middle band's progress counts its own layers."""
    assert Hermes(shallow_until=1, deep_from=3).bands_of(4) == (
        "shallow",
        "middle",
        "middle",
        "deep",
    )
    shuffled = Hermes(bands=("deep", "middle", "shallow", "middle"))
    assert [shuffled.progress(layer, 4) for layer in range(4)] == [0, 0, 0, 0.5]
    assert [shuffled.reserve(layer, 4) for layer in range(4)] == [1, 0, 0, 0]
    plain = Hermes()
    assert plain.progress(8, 28) == pytest.approx((8 - 2) / (19 - 2))


@settings(deadline=None)
@given(
    layers=st.integers(1, 40),
    budget=st.integers(8, 5000),
    weights=st.tuples(*[st.floats(0.5, 2.0)] * 3),
)
def test_weighted_budgets_keep_the_total(
    layers: int, budget: int, weights: tuple[float, float, float]
) -> None:
    """Table 5: proportional to the band's weight within one token, the total unchanged."""
    budgets = Hermes(budget_tokens=budget, budget_weights=weights).budgets(layers)
    assert budgets is not None
    assert sum(budgets) == layers * budget
    by_layer = [
        weights[("shallow", "middle", "deep").index(band(i, layers))] for i in range(layers)
    ]
    for got, weight in zip(budgets, by_layer, strict=True):
        assert abs(got - layers * budget * weight / sum(by_layer)) < 1


def test_equal_weights_give_equal_budgets() -> None:
    assert Hermes(budget_tokens=77).budgets(9) == [77] * 9
    assert Hermes().budgets(9) is None


LOCAL = (
    "Describe the current scene in detail, focusing on specific objects, fine-grained actions, "
    "and spatial relationships."
)
GLOBAL = (
    "Summarize the video narrative, identifying main characters, key events, timeline changes, "
    "and the overall theme."
)


def test_prompts_without_history() -> None:
    """Appendix B; the released preset reads three prompts without a mask, from raw embeddings."""
    paper = {g.name: g for g in Hermes.paper().guidance(())}
    assert {name: g.text for name, g in paper.items()} == {
        "mixed": f"{LOCAL}; {GLOBAL}",
        "global": GLOBAL,
    }
    assert {(g.reading, g.causal, g.kind) for g in paper.values()} == {("propagated", True, "text")}
    released = {g.name: g for g in Hermes.released().guidance(())}
    assert {name: g.text for name, g in released.items()} == {
        "local": LOCAL,
        "mixed": f"{LOCAL}; {GLOBAL}",
        "global": GLOBAL,
    }
    assert {(g.reading, g.causal) for g in released.values()} == {("raw_embedding", False)}


def test_prompts_with_history() -> None:
    """Only the last round counts, is put before both prompts, and may contain braces."""
    history = [("old?", "old"), ("What is {x}?", "A {answer} cat")]
    texts = {g.name: g.text for g in Hermes.released().guidance(history)}
    last = "Question: What is {x}? Answer: A {answer} cat"
    assert texts["local"] == f"Find recent details related to: {last}. {LOCAL}"
    assert texts["global"] == f"Context summary: {last}. {GLOBAL}"
    assert texts["mixed"] == f"{texts['local']}; {texts['global']}"
    plain = {g.name: g.text for g in Hermes.released(use_history=False).guidance(history)}
    assert plain["global"] == GLOBAL


# --- fields that take a preset apart ----------------------------------------------------------
def test_each_released_difference_can_be_undone() -> None:
    """Turning every difference back one by one ends at the paper's numbers."""
    views = model_views(10)
    paper, fields = Hermes.paper(budget_tokens=10), {}
    for name in (
        "distance", "forgetting_rate", "forgetting_rate_end", "recency_start", "recency_end",
        "smoothing", "reading", "causal", "read_local",
    ):  # fmt: skip
        assert Hermes.released(budget_tokens=10, **fields) != paper
        fields[name] = getattr(paper, name)
    assert Hermes.released(budget_tokens=10, **fields) == paper
    other = Hermes.released(budget_tokens=10)
    assert not torch.equal(paper.score(views[4]).total, other.score(views[4]).total)


def test_alpha_and_normalisation() -> None:
    """Alpha scales shallow and deep scores, not the middle; without normalisation scores are the raw numbers."""
    views = model_views(10, [12] * 10)
    for layer, factor in ((0, 0.5), (4, 1.0), (8, 0.5)):
        halved, whole = (Hermes(alpha=a).score(views[layer]).total for a in (0.5, 1.0))
        torch.testing.assert_close(halved, factor * whole)
    raw = Hermes(normalise=False, forgetting_rate=0.5)
    row = mean_over_heads_and_rows(views[8].attention["global"])
    torch.testing.assert_close(raw.score(views[8]).total[0], torch.tensor(row))
    ages = torch.arange(11, -1, -1.0)
    torch.testing.assert_close(raw.score(views[0]).total[0], torch.exp(-0.5 * ages))


def test_without_summary_no_slot_is_reserved() -> None:
    views = model_views(10)
    decisions = decide(Hermes(budget_tokens=5, summary=False), views)
    assert all(d.merged is None and d.kept.shape[-1] == 5 for d in decisions)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"budget_tokens": 1}, "budget of 1"),
        ({"shallow_fraction": 0.8}, "cross"),
        ({"shallow_until": 3, "deep_from": 2}, "cross"),
        ({"lambdas": (0.1, 0.3)}, "lambdas"),
        ({"lambdas": (0.1, 0.3, 1.4)}, "lambdas"),
        ({"bands": ("shallow", "midle")}, "bands"),
        ({"forgetting_rate": float("nan")}, "forgetting_rate"),
        ({"reading": "raw"}, "reading"),
        ({"smoothing": "none"}, "smoothing"),
        ({"budget_weights": (-1.0, 1.0, 1.0)}, "budget_weights"),
    ],
)
def test_nonsense_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        Hermes(**fields)  # pyright: ignore[reportArgumentType] - wrong on purpose


def test_nonsense_for_a_model_is_refused() -> None:
    """What only shows once the number of layers is known."""
    with pytest.raises(PolicyError, match="names 2 layers, but the model has 4"):
        Hermes(bands=("shallow", "deep")).bands_of(4)
    with pytest.raises(PolicyError, match="only 4 layers"):
        Hermes(deep_from=9).bands_of(4)
    with pytest.raises(PolicyError, match="cross"):
        Hermes(shallow_until=4).bands_of(4)
    with pytest.raises(PolicyError, match="no room"):
        Hermes(budget_tokens=4, budget_weights=(1, 1, 0.1)).budgets(10)
    with pytest.raises(PolicyError, match="zero for every layer"):
        Hermes(budget_tokens=4, budget_weights=(0, 0, 0)).budgets(10)

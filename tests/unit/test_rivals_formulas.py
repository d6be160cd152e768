"""Scores of rival policies against slow literal versions: loops written from each paper's formula."""

from __future__ import annotations

import cmath
import itertools
import math
import statistics
from dataclasses import replace

import pytest
import torch

from hermes_lab.errors import PolicyError
from hermes_lab.policies import get
from hermes_lab.policies.base import LayerView, Scores, top_newest
from tests.fabricate import FakeStream, decide, layer_view

Rows = list[list[float]]


def scores(spec: str, view: LayerView) -> Scores:
    raw = get(spec).score(view)
    return raw if isinstance(raw, Scores) else Scores(raw)


def same(found: torch.Tensor, expected: Rows, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(
        found.double(), torch.tensor(expected, dtype=torch.float64), atol=tolerance, rtol=tolerance
    )


def norm(vector: list[float]) -> float:
    return math.sqrt(sum(x * x for x in vector))


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (norm(a) * norm(b))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


# --- H2O ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("per_head", [True, False])
def test_h2o_averages_over_all_queries_that_saw_a_token(per_head: bool) -> None:
    policy = get("h2o")
    first = layer_view(frames=2, per_head=per_head, seed=1)
    second = layer_view(frames=2, per_head=per_head, seed=2)
    seen_later = torch.arange(8.0, 0, -1)
    first = replace(first, received_queries=seen_later)
    carried = dict(policy.observe(first))
    carried = dict(policy.observe(replace(second, carried=carried)))
    found = policy.score(replace(second, carried=carried))
    heads, group = (2, 2) if per_head else (1, 4)
    expected = [
        [
            mean(
                [
                    float(first.received[h * group + g, j])
                    + float(second.received[h * group + g, j])
                    for g in range(group)
                ]
            )
            / (float(seen_later[j]) + float(second.received_queries[j]))
            for j in range(8)
        ]
        for h in range(heads)
    ]
    same(found.total, expected)


def test_h2o_sums_and_keeps_a_share_of_the_newest() -> None:
    view = layer_view(frames=3, per_head=True, budget_tokens=6)
    policy = get("h2o", average=False, recent_share=0.5)
    view = replace(view, carried=dict(policy.observe(view)))
    found = policy.score(view)
    kept = policy.select(found, 6, view)
    for head in range(2):
        received = view.received[2 * head : 2 * head + 2].mean(0)
        older = sorted(range(9), key=lambda j: -float(received[j]))[:3]
        assert kept[head].tolist() == [*sorted(older), 9, 10, 11]


def test_h2o_carries_its_sums_with_the_survivors() -> None:
    """After many steps the carried sum of a survivor is what it received in every step it lived through."""
    stream = FakeStream(get("h2o", budget_tokens=6), layers=1)
    ledger: dict[tuple[int, int], float] = {}
    for _ in range(6):
        view = stream.feed(2)[0]
        for head in range(2):
            ids = view.ids[head].tolist()
            total = view.carried["h2o_sum"][head].tolist()
            for token, value in zip(ids, total, strict=True):
                earlier = ledger.get((head, token), 0.0)
                assert value > earlier  # grows by what this step gave, never restarts
                ledger[head, token] = value


# --- SnapKV, TOVA, PyramidKV ----------------------------------------------------------------------
@pytest.mark.parametrize(
    "shown", [4, 6]
)  # the window alone, or more rows than it (another part's window)
def test_snapkv_pools_the_window_and_averages_the_group(shown: int) -> None:
    view = layer_view(frames=5, per_head=True, rows=shown)
    found = scores("snapkv(window_tokens=4, kernel=5)", view)
    rows, tokens = view.attention["chunk"][:, -4:], view.tokens
    expected: Rows = []
    for head in range(2):
        line: list[float] = []
        for j in range(tokens - 4):
            pooled: list[float] = []
            for g in (2 * head, 2 * head + 1):
                window = [
                    mean([float(rows[g, i, jj]) for i in range(4)]) if 0 <= jj < tokens - 4 else 0.0
                    for jj in range(j - 2, j + 3)
                ]
                pooled.append(sum(window) / 5)
            line.append(mean(pooled))
        expected.append([*line, 0.0, 0.0, 0.0, 0.0])
    same(found.terms["attention"], expected)
    assert found.total[:, -4:].min() > found.total[:, :-4].max()


def test_snapkv_refuses_an_even_kernel() -> None:
    with pytest.raises(PolicyError, match="must be odd"):
        get("snapkv", kernel=4)


def test_tova_is_the_last_row() -> None:
    view = layer_view(frames=3, rows=3)
    rows = view.attention["chunk"]
    expected = [[mean([float(rows[h, 2, j]) for h in range(4)]) for j in range(view.tokens)]]
    same(scores("tova", view).total, expected)


@pytest.mark.parametrize(("layers", "budget", "window"), [(28, 512, 64), (5, 37, 6), (4, 100, 1)])
def test_pyramid_budgets(layers: int, budget: int, window: int) -> None:
    found = get("pyramidkv", budget_tokens=budget, window_tokens=window).budgets(layers)
    spare, beta = budget - window, 20
    low = spare / beta
    high = 2 * spare - low
    exact = [window + high - (high - low) * i / (layers - 1) for i in range(layers)]
    assert sum(found) == layers * budget
    assert all(abs(f - e) <= 1 for f, e in zip(found, exact, strict=True))
    assert found == sorted(found, reverse=True)


def test_pyramid_is_flat_where_the_window_fills_the_budget() -> None:
    assert get("pyramidkv", budget_tokens=64).budgets(3) == [64, 64, 64]


# --- keys and values ------------------------------------------------------------------------------
def test_keydiff() -> None:
    view = layer_view(frames=3, per_head=True)
    expected: Rows = []
    for keys in view.keys.tolist():
        units = [[x / norm(k) for x in k] for k in keys]
        anchor = [mean([u[d] for u in units]) for d in range(8)]
        expected.append([-cosine(k, anchor) for k in keys])
    same(scores("keydiff", view).total, expected)


def test_norms() -> None:
    view = layer_view(frames=3, per_head=True)
    same(scores("knorm", view).total, [[-norm(k) for k in keys] for keys in view.keys.tolist()])
    same(
        scores("value_norm", view).total,
        [[norm(v) for v in values] for values in view.values.tolist()],
    )


def test_one_token_set_for_all_heads_averages_their_scores() -> None:
    view = layer_view(frames=3, per_head=False)
    expected = [[-mean([norm(view.keys[h, j].tolist()) for h in range(2)]) for j in range(12)]]
    same(scores("knorm", view).total, expected)


def lag_spread(states: list[list[float]], lag: int) -> Rows:
    """LagKV's score of one head's states: partitions of `lag`, each scaled by the range of the next."""
    parts = [states[i : i + lag] for i in range(0, len(states), lag)]
    lines: Rows = []
    for part, following in itertools.pairwise(parts):
        spreads: list[float] = []
        for state in part:
            scaled = []
            for d, value in enumerate(state):
                low, high = min(s[d] for s in following), max(s[d] for s in following)
                scaled.append((value - low) / (high - low))
            spreads.append(statistics.stdev(scaled))
        top = sum(math.exp(s) for s in spreads)
        lines.append([math.exp(s) / top for s in spreads])
    return lines


@pytest.mark.parametrize("across", [True, False])
def test_lagkv(across: bool) -> None:
    view = layer_view(frames=5, per_head=True)  # 20 tokens: 2 sinks, 4 partitions of 4, 2 left over
    found = scores(f"lagkv(sink_tokens=2, lag_tokens=4, across={across})", view)
    expected: Rows = []
    for keys, values in zip(view.keys.tolist(), view.values.tolist(), strict=True):
        spread = [
            [(k + v) / 2 for k, v in zip(ks, vs, strict=True)]
            for ks, vs in zip(lag_spread(keys[2:18], 4), lag_spread(values[2:18], 4), strict=True)
        ]
        if not across:
            spread = [[sum(o < s for o in part) / 4 for s in part] for part in spread]
        expected.append([1.0, 1.0, *[s for part in spread for s in part], *[1.0] * 6])
    same(found.total, expected)


def test_lagkv_keeps_sinks_and_the_newest_while_there_is_nothing_to_compare() -> None:
    view = layer_view(frames=3, per_head=True)
    policy = get("lagkv", sink_tokens=2, lag_tokens=8)
    assert policy.select(policy.score(view), 5, view).tolist() == [[0, 1, 9, 10, 11]] * 2


# --- InfiniPot-V ----------------------------------------------------------------------------------
def tar(view: LayerView, head: int, recent: set[int], cell_of: dict[int, int]) -> list[float]:
    keys = view.keys[head].tolist()
    line: list[float] = []
    for j in range(view.tokens):
        same_cell = [t for t in recent if cell_of[t] == cell_of[j]]
        line.append(-mean([cosine(keys[j], keys[t]) for t in same_cell]) if same_cell else 0.0)
    return line


@pytest.mark.parametrize("grid", ["true", "rank"])
@pytest.mark.parametrize("keep", [None, 19])
@pytest.mark.parametrize(("budget", "share"), [(12, 0.34), (18, 0.2)])
def test_infinipot_v(grid: str, keep: int | None, budget: int, share: float) -> None:
    """The first budget leaves TaR little or nothing beside the recent frames, the second some past tokens."""
    view = layer_view(frames=6, per_head=True, keep=keep, seed=3, budget_tokens=budget)
    policy = get("infinipot_v", grid=grid, recent_share=share)
    found = policy.score(view)
    kept = policy.select(found, budget, view)
    frames = max(1, int(share * (view.tokens // 4)))
    left = int(0.75 * budget)
    for head in range(2):
        frame, row, col = (getattr(view, n)[head].tolist() for n in ("frame", "row", "col"))
        tokens = range(view.tokens)
        if grid == "true":
            newest = sorted(set(frame))[-frames:]
            recent = {j for j in tokens if frame[j] in newest}
            cells = {j: 2 * row[j] + col[j] for j in tokens}
        else:
            recent = {j for j in tokens if j >= view.tokens - 4 * frames}
            cells = {j: 3 - (view.tokens - 1 - j) % 4 for j in tokens}
        redundancy = tar(view, head, recent, cells)
        same(found.terms["tar"][head : head + 1], [redundancy])
        quota = left - round(0.5 * left) - len(recent)
        assert budget == 12 or quota > 0
        past = sorted((j for j in tokens if j not in recent), key=lambda j: (-redundancy[j], -j))
        chosen = recent | set(past[: max(0, quota)])
        value = [norm(v) for v in view.values[head].tolist()]
        rest = sorted((j for j in tokens if j not in chosen), key=lambda j: (-value[j], -j))
        expected = sorted([*chosen, *rest[: left - len(chosen)]])
        assert kept[head].tolist() == expected


def test_infinipot_v_ranks_cells_as_the_released_code_only_while_frames_are_whole() -> None:
    """On whole frames both grids agree; after an eviction they need not."""
    whole = layer_view(frames=6, per_head=True, budget_tokens=12)
    ragged = layer_view(frames=6, per_head=True, keep=16, budget_tokens=12)
    options = {"recent_share": 0.34}
    for view, equal in ((whole, True), (ragged, False)):
        found = [
            get("infinipot_v", grid=g, **options).score(view).terms["tar"] for g in ("true", "rank")
        ]
        assert torch.allclose(*found, atol=1e-6) is equal


# --- StreamMem ------------------------------------------------------------------------------------
@pytest.mark.parametrize("weights", ["attention", "mean"])
@pytest.mark.parametrize("axes", [1, 3])
def test_streammem_prototypes(weights: str, axes: int) -> None:
    policy = get("streammem", budget_tokens=9, clip_frames=2, weights=weights)
    view = layer_view(frames=4, guidance=["template"], axes=axes, step=5)
    view = replace(view, carried={"streammem_step": torch.full((1, 16), 5.0)})
    (decision,) = decide(policy, [view])
    rows = view.attention["template"]
    score = [
        mean([float(rows[h, r, j]) for h in range(4) for r in range(rows.shape[1])])
        for j in range(16)
    ]
    same(decision.scores.total, [score])
    best = sorted(range(16), key=lambda j: (-score[j], -j))[:7]
    assert decision.kept.tolist() == [sorted(best)]
    merged = decision.merged
    for number, frame in enumerate((2, 3)):
        places = [j for j in range(16) if view.frame[0, j] == frame]
        alpha = [1.0 if weights == "mean" else score[j] for j in places]
        alpha = [a / sum(alpha) for a in alpha]
        for h in range(2):
            key = [sum(a * float(view.keys[h, j, d]) for a, j in zip(alpha, places, strict=True)) for d in range(8)]  # fmt: skip
            value = [sum(a * float(view.values[h, j, d]) for a, j in zip(alpha, places, strict=True)) for d in range(8)]  # fmt: skip
            same(merged.keys[h, number : number + 1], [key])
            same(merged.values[h, number : number + 1], [value])
        assert merged.sources[number].tolist() == view.ids[0, places].tolist()
        low = view.positions[0, :, places].amin(-1)
        high = view.positions[0, :, places].amax(-1)
        assert bool(
            ((merged.positions[:, number] >= low) & (merged.positions[:, number] <= high)).all()
        )


# --- LiveVLM --------------------------------------------------------------------------------------
def buckets_by_hand(score: list[float], count: int, capacity: int, free_share: float) -> list[int]:
    """Phase 1 and phase 2 of vision sink bucketing, one token at a time."""
    tokens = len(score)
    number = max(1, count // capacity)
    order = sorted(range(tokens), key=lambda j: (-score[j], -j))
    free = int(free_share * count)
    held = [0] * number
    kept: list[int] = []
    for j in order[:free]:
        kept.append(j)
        held[j * number // tokens] += 1
    skipped: list[int] = []
    for j in order[free:]:
        if len(kept) == count:
            break
        if held[j * number // tokens] < capacity:
            kept.append(j)
            held[j * number // tokens] += 1
        else:
            skipped.append(j)
    return sorted(kept + skipped[: count - len(kept)])


@pytest.mark.parametrize(("capacity", "free"), [(1, 0.5), (1, 0.0), (3, 0.25), (2, 1.0)])
def test_livevlm_buckets(capacity: int, free: float) -> None:
    view = layer_view(frames=8, rows=4, budget_tokens=14, seed=5)
    policy = get("livevlm", bucket_tokens=capacity, free_share=free, short_share=0.25)
    kept = policy.select(policy.score(view), 14, view)
    rows = view.attention["chunk"]
    score = [mean([float(x) for x in rows[:, :, j].flatten()]) for j in range(32)]
    short = list(range(29, 32))  # a quarter of 14, rounded down
    assert kept.tolist() == [buckets_by_hand(score[:29], 11, capacity, free) + short]


# --- StreamKV -------------------------------------------------------------------------------------
def pi_of(view: LayerView, matching: str = "cosine") -> list[float]:
    """Softmax over frames of the match between mean query and mean un-rotated key, heads concatenated."""
    query = [float(x) for h in range(4) for x in view.queries["guide"][h].mean(0)]
    plain = view.keys_unrotated()
    match: list[float] = []
    for frame in sorted(set(view.frame[0].tolist())):
        places = [j for j in range(view.tokens) if view.frame[0, j] == frame]
        key = [
            mean([float(plain[h // 2, j, d]) for j in places]) for h in range(4) for d in range(8)
        ]
        dot = sum(q * k for q, k in zip(query, key, strict=True))
        match.append(cosine(query, key) if matching == "cosine" else dot)
    if matching == "standardised":
        centre, spread = mean(match), statistics.stdev(match)
        match = [(m - centre) / spread for m in match]
    top = sum(math.exp(m) for m in match)
    return [math.exp(m) / top for m in match]


def nucleus(pi: list[float], p: float) -> int:
    """The fewest frames whose shares, largest first, reach p."""
    total, count = 0.0, 0
    for share in sorted(pi, reverse=True):
        if total >= p - 1e-12:
            break
        total, count = total + share, count + 1
    return count


@pytest.mark.parametrize("matching", ["cosine", "standardised"])
@pytest.mark.parametrize("frames", [(8, 8, 8, 8), (12, 3, 9, 6), (2, 20, 5, 5)])
def test_streamkv_scores_and_global_top_p(frames: tuple[int, ...], matching: str) -> None:
    views = [
        layer_view(layer=i, frames=n, guidance=["guide"], seed=9 + i) for i, n in enumerate(frames)
    ]
    policy = get("streamkv", matching=matching)
    found = [policy.score(view) for view in views]
    shares = [pi_of(view, matching) for view in views]
    for score, pi in zip(found, shares, strict=True):
        same(score.total, [[share for share in pi for _ in range(4)]])
    budgets = policy.adapt_budgets([16] * 4, found, views)
    best = max(  # a fine grid in place of the bisection
        (sum(counts), counts)
        for p in range(1, 2000)
        if sum(counts := [nucleus(pi, p / 2000) for pi in shares]) <= 16
    )
    assert budgets == [4 * count for count in best[1]]
    assert sum(budgets) <= 64
    for view, score, budget, pi in zip(views, found, budgets, shares, strict=True):
        kept = policy.select(score, budget, view)
        order = sorted(range(len(pi)), key=lambda b: (-pi[b], -b))[: budget // 4]
        assert sorted(set(view.frame[0, kept[0]].tolist())) == sorted(order)


def test_streamkv_keeps_the_open_segment() -> None:
    segment = torch.tensor([[0.0] * 12 + [1.0] * 8])
    view = layer_view(frames=5, guidance=["guide"], carried={"segment": segment})
    policy = get("streamkv")
    kept = policy.select(policy.score(view), 12, view)
    assert {3, 4} <= set(view.frame[0, kept[0]].tolist())


# --- MuKV -----------------------------------------------------------------------------------------
def high_energy(keys: list[list[float]]) -> list[float]:
    """Inverse transform of the upper half of the frequencies, mean magnitude over channels, by the definition."""
    n, dim = len(keys), len(keys[0])
    bins = n // 2 + 1
    start = max(1, bins // 2)
    energy = [0.0] * n
    for d in range(dim):
        spectrum = [
            sum(keys[t][d] * cmath.exp(-2j * cmath.pi * f * t / n) for t in range(n))
            for f in range(n)
        ]
        for f in range(n):
            if min(f, n - f) < start:
                spectrum[f] = 0
        for t in range(n):
            back = sum(spectrum[f] * cmath.exp(2j * cmath.pi * f * t / n) for f in range(n)) / n
            energy[t] += abs(back.real) / dim
    return energy


def stretched(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(v - low) / (high - low + 1e-8) for v in values]


@pytest.mark.parametrize("energy", ["fft", "difference"])
@pytest.mark.parametrize("block", [None, 6])
def test_mukv(energy: str, block: int | None) -> None:
    view = layer_view(frames=3)
    policy = get("mukv", energy=energy, block_tokens=block, alpha=0.6)
    found = policy.score(replace(view, carried=dict(policy.observe(view))))
    keys = view.keys.mean(0).tolist()
    received = view.received.mean(0).tolist()
    expected: list[float] = []
    for start in range(0, 12, block or 4):
        end = start + (block or 4)
        part = keys[start:end]
        if energy == "fft":
            high = high_energy(part)
        else:
            steps = [
                [b - a for a, b in zip(x, y, strict=True)] for x, y in itertools.pairwise(part)
            ]
            high = [0.0] + [norm(s) for s in steps]
        for a, f in zip(stretched(received[start:end]), stretched(high), strict=True):
            expected.append(0.6 * a + 0.4 * f)
    same(found.total, [expected])


def test_mukv_keeps_the_last_layers_choice_in_all_layers() -> None:
    stream = FakeStream(get("mukv", budget_tokens=10), layers=4)
    for _ in range(6):
        views = stream.feed(2)
    assert all(torch.equal(view.ids, views[-1].ids) for view in views)


# --- StreamingVLM ---------------------------------------------------------------------------------
def test_streaming_vlm_windows() -> None:
    role = torch.ones(1, 24, dtype=torch.long)
    role[0, [2, 3, 9, 10, 17, 22]] = 4  # text between the frames
    frame = torch.arange(24)[None] // 4
    frame = frame.masked_fill(role == 4, -1)
    time_s = frame.float().masked_fill(role == 4, torch.nan)
    view = layer_view(frames=6, role=role, frame=frame, time_s=time_s)
    policy = get("streaming_vlm", sink_text_tokens=2, recent_text_tokens=1, window_s=2.5)
    kept = policy.select(policy.score(view), 10**6, view)
    expected = [
        j
        for j in range(24)
        if (role[0, j] == 4 and j in (2, 3, 22)) or (role[0, j] == 1 and time_s[0, j] > 5 - 2.5)
    ]
    assert kept.tolist() == [expected]


def test_oracle_is_the_attention_of_the_question() -> None:
    view = layer_view(frames=3, guidance=["question"])
    rows = view.attention["question"]
    expected = [[mean([float(x) for x in rows[:, :, j].flatten()]) for j in range(12)]]
    same(scores("oracle", view).total, expected)
    assert get("oracle").evaluation_only


def test_ties_go_to_the_newer_token() -> None:
    assert top_newest(torch.zeros(1, 5), 2).tolist() == [[3, 4]]

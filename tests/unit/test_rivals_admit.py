"""What rival policies let into the decoder, against slow literal versions on small chunks."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hermes_lab.errors import PolicyError
from hermes_lab.policies import get
from hermes_lab.policies.base import Arrival, Policy
from hermes_lab.policies.parts.otsu import otsu, otsu_or_median
from hermes_lab.tokens import Role

HIDDEN, FEATURES = 6, 5


def arrival(
    frames: int = 3,
    grid: tuple[int, int] = (3, 3),
    *,
    marker: bool = True,
    first_frame: int = 0,
    drift: float = 0.5,
    seed: int = 0,
) -> Arrival:
    """A chunk of frames that drift from one to the next, each behind one marker token."""
    rng = torch.Generator().manual_seed(seed)
    cells = grid[0] * grid[1]
    scene = torch.randn(cells, HIDDEN, generator=rng)
    embeds, features, role, frame, row, col = [], [], [], [], [], []
    for number in range(frames):
        moved = torch.rand(cells, 1, generator=rng) < drift
        scene = scene + moved * torch.randn(cells, HIDDEN, generator=rng)
        if marker:
            embeds.append(torch.full((1, HIDDEN), 9.0))
            role.append(torch.tensor([int(Role.MARKER)]))
            frame.append(torch.tensor([-1]))
            row.append(torch.tensor([-1]))
            col.append(torch.tensor([-1]))
        embeds.append(scene)
        features.append(scene[:, :FEATURES] + 0.01 * torch.randn(cells, FEATURES, generator=rng))
        role.append(torch.full((cells,), int(Role.VISUAL)))
        frame.append(torch.full((cells,), first_frame + number))
        places = torch.arange(cells)
        row.append(places // grid[1])
        col.append(places % grid[1])
    joined = {
        "embeds": embeds, "role": role, "frame": frame, "row": row, "col": col,
    }  # fmt: skip
    columns = {name: torch.cat(parts) for name, parts in joined.items()}
    visual = (columns["role"] == int(Role.VISUAL)).nonzero()[:, 0]
    return Arrival(
        **columns,
        features=torch.cat(features),
        saliency=torch.rand(len(visual), generator=rng),
        visual=visual,
        time_s=columns["frame"].clamp(min=0).float(),
        step=0,
    )


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def frames_of(chunk: Arrival) -> dict[int, list[int]]:
    """Places in the chunk of each frame's visual tokens."""
    found: dict[int, list[int]] = {}
    for place in chunk.visual.tolist():
        found.setdefault(int(chunk.frame[place]), []).append(place)
    return found


def markers(chunk: Arrival) -> set[int]:
    return set((chunk.role == int(Role.MARKER)).nonzero()[:, 0].tolist())


# --- Otsu -----------------------------------------------------------------------------------------
def otsu_by_hand(values: list[float], bins: int = 128, high: float = 2.0) -> float | None:
    """Every threshold in turn: variance between the two classes of the histogram."""
    width = high / bins
    number = [min(int(max(0.0, min(v, high)) / width), bins - 1) for v in values]
    centre = [(b + 0.5) * width for b in range(bins)]
    best, found = 0.0, None
    for t in range(bins):
        low = [centre[b] for b in number if b <= t]
        top = [centre[b] for b in number if b > t]
        if not low or not top:
            continue
        share = len(low) / len(values)
        gap = sum(low) / len(low) - sum(top) / len(top)
        variance = share * (1 - share) * gap**2
        if variance > best + 1e-12:
            best, found = variance, centre[t]
    return found


@pytest.mark.parametrize("seed", range(8))
def test_otsu(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    low, high = 0.1 * torch.rand(20, generator=rng), 0.9 + 0.4 * torch.rand(7, generator=rng)
    values = torch.cat([low, high]) if seed % 2 else 2 * torch.rand(30, generator=rng)
    assert otsu(values) == pytest.approx(otsu_by_hand(values.tolist()))


def test_otsu_falls_back_to_the_median() -> None:
    assert otsu(torch.full((5,), 0.3)) is None
    assert otsu_or_median(torch.full((5,), 0.3)) == pytest.approx(0.3)
    assert otsu(torch.empty(0)) is None


# --- FluxMem --------------------------------------------------------------------------------------
def nearest(chunk: Arrival, place: int, others: list[int], source: Arrival) -> float:
    """Largest cosine to the 3 x 3 neighbourhood of a token's cell in another frame."""
    near = [
        q
        for q in others
        if abs(int(source.row[q]) - int(chunk.row[place])) <= 1
        and abs(int(source.col[q]) - int(chunk.col[place])) <= 1
    ]
    return max(cosine(chunk.embeds[place], source.embeds[q]) for q in near)


def threshold(values: list[float]) -> float:
    found = otsu_by_hand(values)
    return sorted(values)[(len(values) - 1) // 2] if found is None else found


def novel(chunk: Arrival, before: tuple[Arrival, list[int]] | None, drop: float | None) -> set[int]:
    """FluxMem's temporal step on one chunk, frame by frame."""
    kept: set[int] = set()
    frames = list(frames_of(chunk).values())
    for number, places in enumerate(frames):
        neighbours = []
        if number or before:
            neighbours.append((chunk, frames[number - 1]) if number else before)
        following = frames[number + 1] if number + 1 < len(frames) else None
        if following:
            neighbours.append((chunk, following))
        if not neighbours:
            kept |= set(places)
        for source, others in neighbours:
            away = [1 - nearest(chunk, p, others, source) for p in places]
            kept |= {p for p, d in zip(places, away, strict=True) if d >= threshold(away)}
        if following and drop is not None:
            kept -= {p for p in places if nearest(chunk, p, following, chunk) > drop}
    return kept


@pytest.mark.parametrize("drop", [0.8, None])
def test_fluxmem_keeps_what_changes(drop: float | None) -> None:
    policy = get("fluxmem", components=False, drop_similarity=drop)
    memory: dict[str, Any] = {}
    before = None
    for step in range(3):
        chunk = arrival(frames=3, grid=(3, 4), first_frame=3 * step, seed=step, drift=0.4)
        admission = policy.admit(chunk, memory)
        expected = novel(chunk, before, drop) | markers(chunk)
        assert set(admission.keep.tolist()) == expected
        assert torch.equal(admission.embeds, chunk.embeds[admission.keep])
        before = chunk, list(frames_of(chunk).values())[-1]


def components_by_hand(chunk: Arrival, places: list[int]) -> list[set[int]]:
    """Flood fill over grid neighbours closer than the threshold."""

    def adjacent(p: int, q: int) -> bool:
        away = abs(int(chunk.row[p] - chunk.row[q])), abs(int(chunk.col[p] - chunk.col[q]))
        return p != q and max(away) <= 1

    edges = {
        (p, q): 1 - cosine(chunk.embeds[p], chunk.embeds[q])
        for p in places
        for q in places
        if p < q and adjacent(p, q)
    }
    limit = otsu_by_hand(list(edges.values()))
    left, groups = set(places), []
    while left:
        group, front = set(), [min(left)]
        while front:
            p = front.pop()
            if p in group:
                continue
            group.add(p)
            for (a, b), d in edges.items():
                if limit is not None and d <= limit and p in (a, b):
                    front.append(b if p == a else a)
        left -= group
        groups.append(group)
    return groups


@pytest.mark.parametrize("seed", range(6))
def test_fluxmem_merges_components(seed: int) -> None:
    policy = get("fluxmem")
    chunk = arrival(frames=1, grid=(4, 5), seed=seed)
    admission = policy.admit(chunk, {})
    groups = components_by_hand(chunk, chunk.visual.tolist())
    assert any(len(group) > 1 for group in groups)
    kept = dict(zip(admission.keep.tolist(), admission.embeds, strict=True))
    for group in groups:
        mean = chunk.embeds[sorted(group)].mean(0)
        anchor = min(group, key=lambda p: float((chunk.embeds[p] - mean).square().sum()))
        assert [p for p in group if p in kept] == [anchor]
        torch.testing.assert_close(kept[anchor], mean if len(group) > 1 else chunk.embeds[anchor])
        assert all(admission.merged_into[p] == anchor for p in group - {anchor})


# --- StreamingTOM ---------------------------------------------------------------------------------
def reduce_by_hand(
    chunk: Arrival, places: list[int], before: Tensor | None, policy: Policy
) -> dict[int, Tensor]:
    """Two-path reduction of one frame: place -> embedding."""
    of = {p: i for i, p in enumerate(chunk.visual.tolist())}
    state = {p: chunk.embeds[p] for p in places}
    static = [
        p for i, p in enumerate(places) if before is not None and cosine(state[p], before[i]) > policy.static_similarity
    ]  # fmt: skip
    dynamic = [p for p in places if p not in static]
    g = policy.frame_tokens
    n_static = min(math.floor(g * len(static) / len(places)), len(static))
    n_dynamic = min(g - n_static, len(dynamic))
    n_static = min(g - n_dynamic, len(static))
    ranked = sorted(dynamic, key=lambda p: (-float(chunk.saliency[of[p]]), -p))
    result = {p: chunk.embeds[p] for p in ranked[:n_dynamic]}
    if n_static == 0:
        return result
    away = {
        (p, q): float((state[p] - state[q]).norm()) / HIDDEN**0.5 for p in static for q in static
    }
    k = min(policy.neighbours, max(len(static) - 1, 1))
    density = {
        p: math.exp(-sum(d**2 for d in sorted(away[p, q] for q in static)[:k]) / k) for p in static
    }
    peak = {}
    for p in static:
        if policy.denser == "higher":
            denser = [away[p, q] for q in static if density[q] > density[p]]
        else:
            denser = [away[p, q] for q in static if density[q] < density[p]]
        peak[p] = density[p] * (min(denser) if denser else max(away.values()))
    centres = sorted(sorted(static, key=lambda p: (-peak[p], -p))[:n_static])
    for c in centres:
        members = [
            p
            for p in static
            if p not in centres and min(centres, key=lambda q: (away[p, q], q)) == c
        ]
        mean = torch.stack([chunk.embeds[p] for p in members]).mean(0) if members else None
        weight = policy.centre_weight
        result[c] = (
            chunk.embeds[c] if mean is None else weight * chunk.embeds[c] + (1 - weight) * mean
        )
    return result


@pytest.mark.parametrize("denser", ["higher", "lower"])
@pytest.mark.parametrize("drift", [0.05, 0.5, 1.0])
def test_streamingtom_reduces_every_frame_to_g_tokens(denser: str, drift: float) -> None:
    policy = get("streamingtom", frame_tokens=5, neighbours=3, denser=denser)
    memory: dict[str, Any] = {}
    before: Tensor | None = None
    for step in range(2):
        chunk = arrival(frames=3, grid=(3, 4), seed=4, drift=drift, first_frame=3 * step)
        admission = policy.admit(chunk, memory)
        expected: dict[int, Tensor] = {p: chunk.embeds[p] for p in markers(chunk)}
        for places in frames_of(chunk).values():
            reduced = reduce_by_hand(chunk, places, before, policy)
            assert len(reduced) == 5
            expected |= reduced
            before = chunk.embeds[places]
        assert admission.keep.tolist() == sorted(expected)
        for place, embed in zip(admission.keep.tolist(), admission.embeds, strict=True):
            torch.testing.assert_close(embed, expected[place])


def test_streamingtom_names_a_missing_saliency() -> None:
    chunk = replace(arrival(), saliency=None)
    with pytest.raises(PolicyError, match="dynamic_by=norm"):
        get("streamingtom").admit(chunk, {})
    norm = get("streamingtom", dynamic_by="norm", frame_tokens=4)
    assert len(norm.admit(chunk, {}).keep) == 3 * 4 + 3


# --- CurveStream ----------------------------------------------------------------------------------
def curve_by_hand(features: list[Tensor], policy: Policy) -> list[tuple[str, float]]:
    """State of each frame, from the formulas."""
    states: list[tuple[str, float]] = []
    mean = spread = None
    for t, f in enumerate(features):
        if t < 3:
            states.append(("clear", math.nan))
            continue
        motion = 1 - cosine(f, features[t - 1])
        bend = 1 - cosine(features[t - 1] - features[t - 2], f - features[t - 1])
        score = motion + policy.curvature_weight * bend
        g = policy.decay
        mean = score if mean is None else g * mean + (1 - g) * score
        spread = (1 - g) * (score - mean) ** 2 + g * (0.0 if spread is None else spread)
        if score >= mean + policy.whole_above * math.sqrt(spread):
            states.append(("clear", score))
        elif score >= mean + policy.coarse_above * math.sqrt(spread):
            states.append(("blurred", score))
        else:
            states.append(("dropped", score))
    return states


def test_curvestream_gates_frames() -> None:
    policy = get("curvestream", decay=0.7, whole_above=0.8)
    memory: dict[str, Any] = {}
    chunks = [arrival(frames=4, grid=(4, 4), seed=s, first_frame=4 * s) for s in range(6)]
    units = []
    for chunk in chunks:
        for f in chunk.features.reshape(4, 16, FEATURES).mean(1):
            units.append(f / f.norm())
    expected = curve_by_hand(units, policy)
    assert {state for state, _ in expected} == {"clear", "blurred", "dropped"}
    for step, chunk in enumerate(chunks):
        memory = copy.deepcopy(memory)  # as a forked session would
        admission = policy.admit(chunk, memory)
        kept = dict(zip(admission.keep.tolist(), admission.embeds, strict=True))
        for number, places in enumerate(frames_of(chunk).values()):
            state, score = expected[4 * step + number]
            marker = places[0] - 1
            assert (marker in kept) is (state != "dropped")
            term = admission.terms["curve"][places]
            assert term.isnan().all() if math.isnan(score) else torch.allclose(term, torch.tensor(score), atol=1e-5)  # fmt: skip
            if state == "clear":
                assert all(torch.equal(kept[p], chunk.embeds[p]) for p in places)
            elif state == "dropped":
                assert not set(places) & set(kept)
            else:
                for top in (0, 2):
                    for left in (0, 2):
                        square = [
                            places[4 * r + c] for r in (top, top + 1) for c in (left, left + 1)
                        ]
                        assert [p for p in square if p in kept] == square[:1]
                        torch.testing.assert_close(kept[square[0]], chunk.embeds[square].mean(0))


# --- gates ------------------------------------------------------------------------------------------
def test_merge_similar_averages_runs() -> None:
    chunk = arrival(frames=4, drift=0.0, seed=3)
    features = chunk.features.clone()
    features[18:] = -features[18:]  # the last two frames look alike, and unlike the first two
    chunk = replace(chunk, features=features)
    admission = get("merge_similar", similarity=0.95).admit(chunk, {})
    frames = list(frames_of(chunk).values())
    assert admission.keep.tolist() == sorted(
        [frames[1][0] - 1, *frames[1], frames[3][0] - 1, *frames[3]]
    )
    kept = dict(zip(admission.keep.tolist(), admission.embeds, strict=True))
    for first, second in ((0, 1), (2, 3)):
        for a, b in zip(frames[first], frames[second], strict=True):
            torch.testing.assert_close(kept[b], (chunk.embeds[a] + chunk.embeds[b]) / 2)
            assert admission.merged_into[a] == b


def test_streammem_filters_as_merge_similar_does() -> None:
    chunk = arrival(frames=4, drift=0.1, seed=3)
    found = get("streammem").admit(chunk, {})
    alone = get("merge_similar").admit(chunk, {})
    assert torch.equal(found.keep, alone.keep)
    assert torch.equal(found.embeds, alone.embeds)
    assert get("streammem", similarity=None).admit(chunk, {}) is None
    assert "features" not in get("streammem", similarity=None).needs


def test_every_nth_takes_markers_along_and_counts_on() -> None:
    memory: dict[str, Any] = {}
    policy = get("every_nth", stride=2)
    for first, admitted in ((0, (0, 2)), (3, (4,)), (6, (6, 8))):
        chunk = arrival(frames=3, first_frame=first)
        frames = frames_of(chunk)
        found = policy.admit(chunk, memory).keep.tolist()
        assert found == sorted(p for f in admitted for p in [frames[f][0] - 1, *frames[f]])


def test_every_nth_counts_grids_where_frames_are_merged() -> None:
    """Pairs of frames carry the number of the later one: odd numbers only, and still every other pair enters."""
    chunk = arrival(frames=4, marker=False)
    chunk = replace(chunk, frame=2 * chunk.frame + 1)
    found = get("every_nth").admit(chunk, {}).keep.tolist()
    assert found == [p for f in (1, 5) for p in frames_of(chunk)[f]]


def test_streamkv_numbers_segments() -> None:
    policy = get("streamkv", similarity=0.9, shortest_frames=2, longest_frames=3)
    memory: dict[str, Any] = {}
    found: list[float] = []
    means: list[Tensor] = []
    for step in range(4):
        chunk = arrival(frames=3, seed=step, first_frame=3 * step, drift=0.3)
        admission = policy.admit(chunk, memory)
        assert len(admission.keep) == len(chunk.frame)
        for places in frames_of(chunk).values():
            assert admission.terms["segment"][places].unique().numel() == 1
            found.append(float(admission.terms["segment"][places[0]]))
        means += [f.mean(0) for f in chunk.features.reshape(3, 9, FEATURES)]
    segment, length, expected = 0, 0, []
    for t, mean in enumerate(means):
        if t and ((cosine(mean, means[t - 1]) < 0.9 and length >= 2) or length >= 3):
            segment, length = segment + 1, 0
        length += 1
        expected.append(float(segment))
    assert found == expected


def test_frames_of_different_sizes_are_refused_in_words() -> None:
    chunk = arrival(frames=2)
    short = replace(chunk, visual=chunk.visual[:-1])
    with pytest.raises(PolicyError, match="different numbers of tokens"):
        get("fluxmem").admit(short, {})

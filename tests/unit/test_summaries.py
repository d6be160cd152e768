"""Attention reduced at capture equals sums written out token by token."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hermes_lab.engine.cache import LayerState
from hermes_lab.stream.summaries import Summarizer
from hermes_lab.tokens import Role, TokenTable

LAYERS, QUERY_HEADS, FRAMES, NOW_S = 4, 4, 5, 11.0
LENGTHS = (9, 7, 9, 6)  # ragged: layers 0 and 2 are reduced together
SETS = (1, 2, 1, 2)  # token sets of each layer: shared, or one a KV head
OWN = (0, 3, 0, 0)  # columns of the queries' own tokens, which the cache does not hold


def table() -> TokenTable:
    """Two tokens of a prefix, three of each frame, a summary token without a frame."""
    made = TokenTable()
    made.append(2, role=Role.SYSTEM)
    for frame in range(FRAMES):
        made.append(3, role=Role.VISUAL, frame=frame, time_s=2.0 * frame)
    made.append(1, role=Role.SUMMARY, time_s=4.5)
    return made


def state(layer: int) -> LayerState:
    generator = torch.Generator().manual_seed(layer)
    rows = [
        torch.randperm(18, generator=generator)[: LENGTHS[layer]].sort().values
        for _ in range(SETS[layer])
    ]
    ids = torch.stack(rows)
    ids[:, -1] = -1  # a token without a name, as transient ones are
    return LayerState(None, None, ids, torch.zeros(len(ids), 1, LENGTHS[layer], dtype=torch.long))


@pytest.fixture
def summarizer() -> tuple[Summarizer, dict[int, torch.Tensor], list[LayerState]]:
    states = [state(layer) for layer in range(LAYERS)]
    made = Summarizer(
        "question", lambda layer: states[layer], table(), LAYERS, QUERY_HEADS, FRAMES, NOW_S, (1,)
    )
    rows: dict[int, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(9)
    for layer in (0, 1, 2):  # nobody reads layer 3
        width = LENGTHS[layer] + OWN[layer]
        scores = 3 * torch.randn(QUERY_HEADS, 5, width, generator=generator)
        scores[0, :, 1] = -math.inf  # weights of exactly 0 have entropy 0
        rows[layer] = scores.softmax(-1)
        made.add(layer, rows[layer])
    return made, rows, states


def test_sums_equal_loops(
    summarizer: tuple[Summarizer, dict[int, torch.Tensor], list[LayerState]],
) -> None:
    made, rows, states = summarizer
    found, known = made.summary(), table()
    for layer, pattern in rows.items():
        for head in range(QUERY_HEADS):
            ids = states[layer].ids[head * SETS[layer] // QUERY_HEADS].tolist()
            frames, roles = [0.0] * FRAMES, [0.0] * len(Role)
            ages, timed, entropy = 0.0, 0.0, 0.0
            for row in pattern[head].double().tolist():
                entropy -= sum(p * math.log(p) for p in row if p > 0) / len(pattern[head])
                for column, weight in enumerate(row):
                    weight /= len(pattern[head])
                    token = ids[column] if column < len(ids) else -1
                    if token < 0:
                        roles[Role.TEXT] += weight
                    else:
                        roles[known.column("role")[token]] += weight
                        if known.column("frame")[token] >= 0:
                            frames[known.column("frame")[token]] += weight
                        if not np.isnan(known.column("time_s")[token]):
                            ages += weight * (NOW_S - known.column("time_s")[token])
                            timed += weight
            close = {"rtol": 1e-5, "atol": 1e-7}
            np.testing.assert_allclose(found.frame_mass[layer, head], frames, **close)
            np.testing.assert_allclose(found.role_mass[layer, head], roles, **close)
            np.testing.assert_allclose(found.entropy[layer, head], entropy, **close)
            np.testing.assert_allclose(found.age_s[layer, head], ages / timed, rtol=1e-5)
            first = float(pattern[head, :, 0].mean())
            np.testing.assert_allclose(found.sink_share[layer, head], first, **close)
        assert found.visible[layer] == pattern.shape[-1]
    np.testing.assert_allclose(found.role_mass[:3].sum(-1), 1.0, rtol=1e-5)


def test_a_layer_that_nobody_read_says_so(
    summarizer: tuple[Summarizer, dict[int, torch.Tensor], list[LayerState]],
) -> None:
    found = summarizer[0].summary()
    assert found.visible[3] == 0
    assert not found.frame_mass[3].any() and not found.role_mass[3].any()
    for values in (found.entropy, found.sink_share, found.age_s):
        assert np.isnan(values[3]).all() and not np.isnan(values[:3]).any()


def test_rows_are_kept_where_asked_for(
    summarizer: tuple[Summarizer, dict[int, torch.Tensor], list[LayerState]],
) -> None:
    made, rows, states = summarizer
    found = made.summary()
    assert set(found.rows) == set(found.row_ids) == {1}
    np.testing.assert_array_equal(found.rows[1], rows[1][..., : LENGTHS[1]].numpy())
    np.testing.assert_array_equal(found.row_ids[1], states[1].ids.numpy())

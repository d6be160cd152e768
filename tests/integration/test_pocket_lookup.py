"""The nudge measures attention on the object that a question names, in one head for all questions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hermes_lab.training import data, lookup
from hermes_lab.training.branches import answer_logits, watch
from hermes_lab.training.build import build
from hermes_lab.training.config import (
    TOKENS_PER_FRAME,
    PocketConfig,
    Recipe,
    TextShape,
    VisionShape,
)
from hermes_lab.worlds import TYPES, World
from hermes_lab.worlds.catalogue import KINDS

SEEDS, FRAMES, FIRST_LAYER = [5_000_010, 5_000_011], 48, 1
CONFIG = PocketConfig(
    vision=VisionShape(width=32, layers=1, heads=2, mlp=32),
    text=TextShape(width=32, layers=4, heads=4, kv_heads=2, mlp=48),
)


@pytest.fixture(scope="module")
def drawn() -> data.Batch:
    recipe = replace(Recipe(), gap_p=0.0, chain_p=0.0)
    weights = {k: float(k in lookup.ASKING or k == "now_scene") for k in TYPES}
    return data.batch(recipe, SEEDS, FRAMES, 40, weights, augment=False)


def _ready(drawn: data.Batch) -> list[lookup.Lookups]:
    kinds = drawn.facts[..., -1].flatten(1)
    return [
        lookup.Lookups(group, asked, kinds, len(data.PREFIX), FIRST_LAYER)
        for group, asked in zip(drawn.groups, drawn.questions, strict=True)
    ]


def test_rows_are_the_questions_about_one_named_object(drawn: data.Batch) -> None:
    ready = _ready(drawn)
    every = [q for group in drawn.questions for stream in group for q in stream]
    about = [q for q in every if q.type in lookup.ASKING]
    assert 0 < len(about) < len(every)
    assert sum(look.rows.shape[1] for look in ready) == len(about)
    for look, group, asked in zip(ready, drawn.groups, drawn.questions, strict=True):
        for (s, b, token), named in zip(look.rows.T.tolist(), look.named, strict=True):
            question = asked[s][int(group.question[s, b, token])]
            (kind,) = (w for w in question.text.split() if w in KINDS)
            frames = set((named.nonzero()[:, 0] // TOKENS_PER_FRAME).tolist())
            schedule = World.generate(SEEDS[s], FRAMES).schedule
            shown = {
                t for o in schedule.things if KINDS[o.kind] == kind for t in range(o.start, o.end)
            }
            assert frames and frames <= shown


def test_loss_is_the_surprise_of_the_best_single_head(drawn: data.Batch) -> None:
    model: Any = build(CONFIG).eval()
    seen: list[dict[int, torch.Tensor]] = [{} for _ in drawn.groups]
    ready = _ready(drawn)

    def both(number: int) -> Any:
        def heed(layer: int, weights: torch.Tensor, cached: int) -> None:
            seen[number][layer] = weights[..., len(data.PREFIX) : cached]
            ready[number].heed(layer, weights, cached)

        return heed

    with torch.no_grad():
        features = model.model.get_video_features(drawn.frames).pooler_output[:, :-1]
        stream = watch(model, features, data.PREFIX, drawn.positions)
        answer_logits(model, stream, drawn.groups, [both(n) for n in range(len(drawn.groups))])
        loss, share = lookup.loss(ready)
    per_head: dict[tuple[int, int, int], list[float]] = {}
    for look, layers in zip(ready, seen, strict=True):
        for layer in range(FIRST_LAYER, FIRST_LAYER + lookup.LAYERS):
            for (s, b, token), named in zip(look.rows.T.tolist(), look.named, strict=True):
                for kv in range(2):
                    for group in range(2):
                        row = layers[layer][s, kv, group, b, token]
                        on_it = float(row[named[: len(row)]].sum())
                        per_head.setdefault((layer, kv, group), []).append(on_it)
    surprise = {
        h: -sum(float(torch.tensor(m + 1e-4).log()) for m in on) / len(on)
        for h, on in per_head.items()
    }
    best = min(surprise, key=lambda h: surprise[h])
    assert float(loss) == pytest.approx(surprise[best], abs=1e-4)
    assert share == pytest.approx(sum(per_head[best]) / len(per_head[best]), abs=1e-4)


def test_nothing_asked_is_no_loss() -> None:
    loss, share = lookup.loss([])
    assert float(loss) == 0 and share == 0

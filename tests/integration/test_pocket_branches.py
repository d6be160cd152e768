"""The training forward computes what the stock model computes when it streams."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from hermes_lab.engine import upstream
from hermes_lab.training import data
from hermes_lab.training.branches import answer_logits, watch
from hermes_lab.training.build import build
from hermes_lab.training.config import PocketConfig, Recipe, TextShape, VisionShape
from hermes_lab.training.vocabulary import WORDS, tokenizer
from hermes_lab.worlds import TYPES

pytestmark = pytest.mark.upstream

TINY = PocketConfig(
    vision=VisionShape(width=32, layers=1, heads=2, mlp=32),
    text=TextShape(width=32, layers=3, heads=4, kv_heads=2, mlp=48),
)
FRAMES = 32


@pytest.fixture(scope="module")
def model() -> Any:
    built = build(TINY).eval()
    with torch.no_grad():
        for p in built.parameters():  # large weights make a leak between questions plain to see
            p.mul_(1.5)
    return built


@pytest.fixture(scope="module")
def drawn() -> data.Batch:
    recipe = replace(Recipe(), gap_p=1.0, chain_p=1.0)
    weights = dict.fromkeys(TYPES, 1.0)
    return data.batch(recipe, [5_000_000, 5_000_001], FRAMES, 40, weights, augment=True)


@torch.no_grad()
def _streamed(
    model: Any, drawn: data.Batch, stream: int, frame: int, ids: list[int]
) -> torch.Tensor:
    """The model's own forward: prefix, frames one at a time, then one question."""
    cache = DynamicCache()
    embed, decoder = model.get_input_embeddings(), model.model.language_model
    place = drawn.positions[stream]
    prefix = len(data.PREFIX)
    decoder(
        inputs_embeds=embed(torch.tensor(data.PREFIX))[None],
        position_ids=place[None, :prefix],
        **{upstream.cache_keyword(decoder): cache},
        use_cache=True,
    )
    features = model.model.get_video_features(drawn.frames[stream : stream + 1]).pooler_output[
        :, :-1
    ]
    for t in range(frame + 1):
        at = slice(prefix + 16 * t, prefix + 16 * (t + 1))
        decoder(
            inputs_embeds=features[:, 16 * t : 16 * (t + 1)],
            position_ids=place[None, at],
            **{upstream.cache_keyword(decoder): cache},
            use_cache=True,
        )
    start = int(place[prefix + 16 * (frame + 1) - 1]) + 1
    hidden = decoder(
        inputs_embeds=embed(torch.tensor(ids))[None],
        position_ids=torch.arange(start, start + len(ids))[None],
        **{upstream.cache_keyword(decoder): cache},
        use_cache=True,
    ).last_hidden_state
    return model.lm_head(hidden)[0]


def test_branches_equal_the_models_own_streaming_forward(model: Any, drawn: data.Batch) -> None:
    with torch.no_grad():
        features = model.model.get_video_features(drawn.frames).pooler_output[:, :-1]
        stream_pass = watch(model, features, data.PREFIX, drawn.positions)
        logits = answer_logits(model, stream_pass, drawn.groups)
    assert len(drawn.groups) == 2
    checked = 0
    for group, values in zip(drawn.groups, logits, strict=True):
        labelled = (group.labels != -100).nonzero().tolist()
        for number, (stream, branch, place) in enumerate(labelled):
            if number % 7:
                continue
            ids = group.ids[stream, branch, : place + 1].tolist()
            expected = _streamed(model, drawn, stream, int(group.frame[stream, branch]), ids)[place]
            torch.testing.assert_close(values[number], expected, atol=2e-5, rtol=1e-4)
            checked += 1
    assert checked > 10


def test_training_text_is_what_the_chat_template_renders(drawn: data.Batch) -> None:
    words = tokenizer()
    question = drawn.questions[0][0][0]
    rendered = words.apply_chat_template(
        [
            {
                "role": "user",
                "content": [
                    {"type": "video"},
                    {"type": "text", "text": question.text.capitalize() + "?"},
                ],
            }
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    before, after = str(rendered).split("<video>")
    assert words(before)["input_ids"] == list(data.PREFIX)
    group = drawn.groups[0]
    branch = group.ids[0, 0].tolist()
    asked = words(after)["input_ids"]
    assert branch[: len(asked)] == asked
    assert WORDS[int(group.labels[0, 0, len(asked) - 1])] == question.answer

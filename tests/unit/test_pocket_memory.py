"""Targets of the memory heads, against the answers that the world's own questions give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hermes_lab.training import memory
from hermes_lab.training.motion import NOTHING
from hermes_lab.training.perception import cells_of
from hermes_lab.training.vocabulary import WORDS
from hermes_lab.worlds import World
from hermes_lab.worlds.catalogue import COLOUR_NAMES, KINDS, SCENES
from hermes_lab.worlds.questions import Question, make

FRAMES = 96
OBJECT = {name: i for i, name in enumerate(memory.OBJECT_FACTS)}
FRAME = {name: len(OBJECT) + i for i, name in enumerate(memory.FRAME_FACTS)}


def _asked(world: World, kind: str, tries: int = 60) -> list[Question]:
    rng = np.random.default_rng(5)
    times = rng.integers(20, FRAMES, tries).tolist()
    return [q for t in times if (q := make(world.schedule, kind, t, rng)) is not None]


def _facts_of(world: World, table: np.ndarray, text: str, t: int) -> list[np.ndarray]:
    """Rows of every token that held the one object that the question names."""
    named = [KINDS.index(w) for w in text.split() if w in KINDS]
    rows: list[np.ndarray] = []
    for frame in range(t + 1):
        for cell, thing in cells_of(world, frame).items():
            if thing.kind == named[0]:
                rows.append(table[frame, cell])
    return rows


@pytest.mark.parametrize(
    ("kind", "fact", "words"),
    [
        ("long_before", "came after", KINDS),
        ("long_together", "was met by", KINDS),
        ("long_scene_when", "scene", SCENES),
        ("long_counter_when", "counter", tuple("0123456789")),
        ("long_colour", "first colour", COLOUR_NAMES),
    ],
)
def test_an_objects_tokens_are_asked_for_what_questions_ask_later(
    kind: str, fact: str, words: tuple[str, ...]
) -> None:
    compared = 0
    for seed in (3, 4):
        world = World.generate(seed, FRAMES)
        table = memory.targets(world)
        for question in _asked(world, kind):
            if question.answer not in words:
                continue
            for row in _facts_of(world, table, question.text, question.time_frame):
                assert row[OBJECT[fact]] == words.index(question.answer), question
                compared += 1
    assert compared > 50


@pytest.mark.parametrize(
    ("kind", "fact", "words"),
    [
        ("recent_appeared", "appeared last", KINDS),
        ("recent_left", "left last", KINDS),
        ("recent_changed", "changed last", KINDS),
        ("recent_scene", "scene before", SCENES),
    ],
)
def test_a_frames_last_token_is_asked_for_the_latest_events(
    kind: str, fact: str, words: tuple[str, ...]
) -> None:
    world = World.generate(6, FRAMES)
    table = memory.targets(world)
    questions = _asked(world, kind, 120)
    assert len(questions) > 10
    for question in questions:
        assert table[question.time_frame, -1, FRAME[fact]] == words.index(question.answer)


def test_order_of_two_objects_follows_from_their_times() -> None:
    world = World.generate(8, FRAMES)
    table = memory.targets(world)
    for thing in world.schedule.things:
        for frame in range(thing.start, thing.end):
            held = {id(o): cell for cell, o in cells_of(world, min(frame, FRAMES - 1)).items()}
            if frame < FRAMES and id(thing) in held:
                assert table[frame, held[id(thing)], OBJECT["time"]] == thing.start // 8


def test_tokens_without_an_object_have_no_facts() -> None:
    world = World.generate(9, FRAMES)
    table = memory.targets(world)
    for frame in range(0, FRAMES, 7):
        empty = [c for c in range(16) if c not in cells_of(world, frame)]
        assert (table[frame, empty, : len(OBJECT)] == NOTHING).all()


def test_heads_learn_what_a_residual_stream_says_and_ignore_what_is_not_asked() -> None:
    torch.manual_seed(0)
    heads, words = memory.MemoryHeads(64), torch.randn(len(WORDS), 64)
    facts = torch.full((1, 40, 16, len(OBJECT) + len(FRAME) + 1), NOTHING)
    facts[0, :, 3, OBJECT["counter"]] = torch.arange(40) % 10
    stream = torch.randn(1, 40 * 16, 64)
    stream[0, 3::16, :10] += 6 * torch.nn.functional.one_hot(torch.arange(40) % 10, 10)
    optimiser = torch.optim.Adam(heads.parameters(), 0.05)
    for _ in range(60):
        loss, right = heads(stream, facts, words)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert set(right) == {"counter"}
    assert right["counter"] == 1.0
    nothing, none = heads(stream, torch.full_like(facts, NOTHING), words)
    assert float(nothing) == 0.0
    assert none == {}

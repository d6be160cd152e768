"""What a session is given is checked at once: each wrong kind or value is one sentence that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes_lab import StreamSession, policies
from hermes_lab.errors import LabError, PolicyError
from hermes_lab.lab import Lab
from hermes_lab.policies.hermes import Hermes
from tests.reference.streams import QUESTION, noise


@pytest.fixture
def lab(labs: Callable[[str], tuple[Lab, Path]]) -> Lab:
    return labs("llava_onevision")[0]


def one_sentence(error: BaseException) -> str:
    said = str(error)
    assert said.endswith((".", "?"))
    assert "\n" not in said
    assert len(said) < 250
    return said


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (512, "got 512"),
        (None, "got None"),
        (b"hermes", "got b'hermes'"),
        (["fifo"], "an object of type list"),
        (object(), "an object of type object"),
        (policies, "an object of type module"),
        (int, "the class int"),
        (Hermes, r"make one of it: Hermes\(budget_tokens=512\)"),
        ({"policy": "fifo"}, "an object of type dict"),
    ],
)
def test_what_is_no_policy(lab: Lab, policy: Any, expected: str) -> None:
    with pytest.raises(PolicyError, match=expected) as refused:
        StreamSession(lab, policy)
    one_sentence(refused.value)
    session = StreamSession(lab)
    session.feed(noise(2, 0))
    for change in (session.set_policy, session.fork if policy is not None else session.set_policy):
        with pytest.raises(PolicyError, match=expected):
            change(policy)
    assert session.policy.name == "full"


@pytest.mark.parametrize("lab", ["pocket", None, 3, Lab])
def test_what_is_no_loaded_model(lab: Any) -> None:
    with pytest.raises(LabError, match="lab must be a loaded model"):
        StreamSession(lab, "fifo")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("record_level", "row", "no record level 'row'; did you mean 'rows'"),
        ("record_level", None, "no record level None; known names are off, rows, summary"),
        ("record_level", 1, "no record level 1"),
        ("next_position", "last", "no next position 'last'; did you mean 'last_kept'"),
        ("next_position", None, "no next position None"),
        ("positions", "lasy", "did you mean 'lazy'"),
        ("positions", 5, "no position rule 5"),
        ("positions", ["lazy"], "no position rule"),
        ("chunk_frames", 0, "at least one frame, got chunk_frames=0"),
        ("chunk_frames", 2.5, "chunk_frames must be a whole number, got 2.5"),
        ("chunk_frames", "16", "chunk_frames must be a whole number, got '16'"),
        ("chunk_frames", True, "chunk_frames must be a whole number, got True"),
        ("chunk_frames", None, "chunk_frames must be a whole number, got None"),
        ("seed", 1.5, "seed must be a whole number, got 1.5"),
        ("seed", "1", "seed must be a whole number"),
        ("seed", None, "seed must be a whole number, got None"),
        ("fps", 0, "fps must be a positive number, got 0"),
        ("fps", -1.0, "fps must be a positive number"),
        ("fps", float("nan"), "fps must be a positive number, got nan"),
        ("fps", float("inf"), "fps must be a positive number, got inf"),
        ("fps", "2", "fps must be a positive number, got '2'"),
        ("overwrite", "no", "overwrite must be True or False, got 'no'"),
        ("keep_visual", 1, "keep_visual must be True or False, got 1"),
        ("evaluation", None, "evaluation must be True or False, got None"),
        ("system", 5, "system must be a text, got 5"),
        ("system", "\udcff", "The system prompt holds something that is no character, at place 1"),
        ("source", "clip.mp4", "source must be a mapping with name, kind and sha256, got 'clip.mp4'"),
        ("record", 5, "record must be the path of a folder, got 5"),
        ("record", b"runs", "record must be the path of a folder"),
        ("record_rows", 3, r"record_rows must be a list of layers, such as \[0, 5\], got 3"),
        ("record_rows", "12", "record_rows must be a list of layers"),
        ("record_rows", [1.0], "A layer in record_rows must be a whole number, got 1.0"),
        ("record_rows", [99], "record_rows names layers"),
    ],
)  # fmt: skip
def test_what_is_no_argument(lab: Lab, name: str, value: Any, expected: str) -> None:
    with pytest.raises(LabError, match=expected) as refused:
        StreamSession(lab, "fifo", **{name: value})
    one_sentence(refused.value)


def test_numbers_of_numpy_are_numbers(lab: Lab, tmp_path: Path) -> None:
    run = StreamSession(
        lab, "fifo", chunk_frames=np.int64(4), seed=np.int32(3), fps=np.float32(0.5), record=tmp_path / "run",
        keep_visual=np.bool_(True),
    )  # fmt: skip
    run.feed(noise(2, 0))
    run.close()
    assert (run.run.chunk_frames, run.run.seed) == (4, 3)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (None, "A question must be a text, got None"),
        (b"x", "A question must be a text, got b'x'"),
        (3, "A question must be a text, got 3"),
        (["what?"], "an object of type list"),
        (" \n", "The question is empty"),
        ("what is \udcff?", "The question holds something that is no character, at place 9"),
    ],
)
def test_what_is_no_question(lab: Lab, question: Any, expected: str) -> None:
    session = StreamSession(lab)
    session.feed(noise(2, 0))
    asking: list[Callable[[Any], Any]] = [
        session.ask, session.stream_answer, session.question_logits, session.run_with_cache,
    ]  # fmt: skip
    for ask in asking:
        with pytest.raises(LabError, match=expected) as refused:
            ask(question)
        one_sentence(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_new_tokens", 0, "at least one token, got max_new_tokens=0"),
        ("max_new_tokens", "5", "max_new_tokens must be a whole number, got '5'"),
        ("max_new_tokens", 2.5, "max_new_tokens must be a whole number"),
        ("max_new_tokens", None, "max_new_tokens must be a whole number, got None"),
        ("top", -1, "top must be a whole number of at least 0, got -1"),
        ("top", "5", "top must be a whole number"),
        ("remember", "no", "remember must be True or False"),
        ("attention", "no", "attention must be True or False"),
        ("on_token", 5, "on_token must be a function of a text, got 5"),
    ],
)
def test_what_is_no_way_to_ask(lab: Lab, name: str, value: Any, expected: str) -> None:
    session = StreamSession(lab)
    session.feed(noise(2, 0))
    with pytest.raises(LabError, match=expected) as refused:
        session.ask(QUESTION, **{name: value})
    one_sentence(refused.value)
    assert session.stream.history == ()


def test_a_streamed_answer_refuses_at_once(lab: Lab) -> None:
    session = StreamSession(lab)
    with pytest.raises(LabError, match="at least one token"):
        session.stream_answer(QUESTION, max_new_tokens=0)


@pytest.mark.parametrize("frames", [None, 5, "clip.mp4", b"frames", object()])
def test_what_is_no_frame(lab: Lab, frames: Any) -> None:
    session = StreamSession(lab)
    with pytest.raises(LabError, match="Frames must be a list or an array, got "):
        session.feed(frames)
    with pytest.raises(LabError, match="segment must be a chunk encoded"):
        session.feed_segment(frames)
    assert session.stream.frames_seen == 0

"""`--ask`: a time behind the @ is understood or refused in words, and never silently part of the question."""

from __future__ import annotations

import numpy as np
import pytest

from hermes_lab.cli.questions import Question, asked_late, split_at
from hermes_lab.errors import LabError
from hermes_lab.video import Chunk, Frame


@pytest.mark.parametrize(
    ("spec", "text", "at_s"),
    [
        ("what is it?", "what is it?", None),
        ("what is it?@12.5", "what is it?", 12.5),
        ("what is it? @1:05", "what is it?", 65.0),
        ("what is it?@0:01:05", "what is it?", 65.0),
        ("what is it?@2:00:00.5", "what is it?", 7200.5),
        ("what is it?@90:00", "what is it?", 5400.0),
        ("what is it?@5s", "what is it?", 5.0),
        ("what is it?@5 s", "what is it?", 5.0),
        ("what is it?@5 seconds", "what is it?", 5.0),
        ("what is it?@ 5", "what is it?", 5.0),
        ("what is it?@.5 ", "what is it?", 0.5),
        ("what is it?@5.", "what is it?", 5.0),
        ("what is it?@0", "what is it?", 0.0),
        ("mail me@home", "mail me@home", None),
        ("who is @anna, and where?", "who is @anna, and where?", None),
        ("who is @anna?@3", "who is @anna?", 3.0),
        ("what is at @ 5th avenue?@end", "what is at @ 5th avenue?", None),
        ("what is it?@END", "what is it?", None),
    ],
)
def test_questions_may_carry_their_second(spec: str, text: str, at_s: float | None) -> None:
    assert Question.parse(spec) == Question(text, at_s)


@pytest.mark.parametrize(
    "time",
    ["5,0", "-3", "+3", "5m", "1m30s", "5:", ":30", "1:75", "1:60:00", "1:2:3:4", "1e3", "5 th",
     "", " ", "?", "5?", "5 and later", "t=5s", "~5", "٣x"],
)  # fmt: skip
def test_what_is_almost_a_time_is_refused_in_words(time: str) -> None:
    with pytest.raises(LabError, match="is not understood; write seconds") as refused:
        Question.parse(f"what is it?@{time}")
    assert repr(time.strip()) in str(refused.value)
    assert "@end" in str(refused.value)


def test_two_times_are_refused() -> None:
    with pytest.raises(LabError, match="names two times"):
        Question.parse("what is it?@5@10")


@pytest.mark.parametrize("spec", ["", "  ", "@5", " @ 5", "@end"])
def test_a_time_without_a_question_is_refused(spec: str) -> None:
    with pytest.raises(LabError, match="is empty; ask something"):
        Question.parse(spec)


def test_a_question_sees_exactly_the_frames_up_to_its_second() -> None:
    picture = np.zeros((2, 2, 3), np.uint8)
    chunk = Chunk(Frame(picture, i, float(i)) for i in range(4, 8))
    early, middle, last, later = (Question(str(t), t) for t in (1.0, 5.5, 7.0, 9.0))
    parts = split_at(chunk, [early, middle, last, later])
    assert [[f.index for f in part] for part, _ in parts] == [[], [4, 5], [6, 7]]
    assert [asked for _, asked in parts] == [[early], [middle], [last]]


def test_a_second_that_never_came_is_said_unless_it_is_the_last_frames_own() -> None:
    waiting = [Question("a", 15.5), Question("b", 300.0), Question("c")]
    assert asked_late(waiting, 15.0, 1.0) == [
        "The stream ended at 15 s, so 'b' was asked there and not at 300 s."
    ]

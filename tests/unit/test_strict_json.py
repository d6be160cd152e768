"""JSON of the project has no NaN and no infinity, which many readers refuse."""

from __future__ import annotations

import json
import math

import pytest

from hermes_lab import strict_json

ODD = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("number", ODD)
def test_numbers_that_are_not_finite_are_null_wherever_they_lie(number: float) -> None:
    value = {"a": [number, (1.5, {"b": number})], 3: "NaN", "c": None, "d": True}
    text = strict_json.dumps(value)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": [None, [1.5, {"b": None}]], "3": "NaN", "c": None, "d": True,
    }  # fmt: skip


@pytest.mark.parametrize("number", ODD)
def test_what_a_command_saves_is_strict_too(number: float, tmp_path) -> None:
    from hermes_lab.cli.saving import Saved

    saved = Saved(tmp_path / "result.json")
    saved.write({"median_s": number})
    assert (tmp_path / "result.json").read_text() == '{\n "median_s": null\n}\n'

"""Suggestions: the name that was meant, or none."""

from __future__ import annotations

import pytest

from hermes_lab import policies
from hermes_lab.errors import nearest
from hermes_lab.models import families
from hermes_lab.pocket import names

MODELS = [*names(), *(example for family in families() for example in family.examples)]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("hermez", "hermes"), ("SnapKV", "snapkv"), ("snap_kv", "snapkv"), ("h20", "h2o"), ("knorms", "knorm"),
        ("infinipot", "infinipot_v"), ("fifo_512", "fifo"), ("oracel", "oracle"), ("frames_recent", "recent_frames"),
    ],
)  # fmt: skip
def test_a_policy_that_was_meant_is_named_alone(written: str, meant: str) -> None:
    assert nearest(written, policies.names()) == f"did you mean '{meant}'?"


@pytest.mark.parametrize("written", ["nope", "sliding_window", "wonderful", "ant", "zzzz", "", "3"])
def test_what_is_like_no_policy_is_told_none(written: str) -> None:
    assert "did you mean" not in nearest(written, policies.names())
    assert nearest(written, policies.names()).startswith("known names are banded, composed, ")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("llava-7b", "llava-hf/llava-onevision-qwen2-7b-ov-hf"),
        ("gemma-3-4b", "google/gemma-3-4b-it"),
        ("smolvlm", "HuggingFaceTB/SmolVLM2-2.2B-Instruct"),
        ("pocketz", "pocket"),
        ("pocket_mrope", "pocket-mrope"),
    ],
)
def test_a_part_of_a_models_name_is_enough(written: str, meant: str) -> None:
    assert nearest(written, MODELS, "hermes-lab models") == f"did you mean '{meant}'?"


def test_no_more_than_three_are_offered() -> None:
    assert nearest("qwen", MODELS).count("'") == 6


def test_where_nothing_is_near_the_listing_is_named() -> None:
    said = nearest("gpt2", MODELS, "hermes-lab models")
    assert said == "`hermes-lab models` lists what there is."


def test_long_lists_are_cut() -> None:
    said = nearest("x", [f"name-{n:03d}" for n in range(100)])
    assert said.endswith("name-059 and 40 more.")

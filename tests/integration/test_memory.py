"""Memory that does not suffice: one sentence, the step undone, the session as good as before."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hermes_lab
from hermes_lab import StreamSession
from hermes_lab.cli import main
from hermes_lab.errors import LabError, OutOfMemoryError
from hermes_lab.lab import Lab
from hermes_lab.memory import within_memory
from hermes_lab.models import loading
from hermes_lab.recording import Recording

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total")
CPU = RuntimeError(
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes."
)
NUMPY = MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000000000,)")


@pytest.mark.parametrize(
    ("error", "size"),
    [(CUDA, " (2.5 GiB more"), (CPU, " (4.0 KiB more"), (NUMPY, " (7.5 GiB more"), (MemoryError(), ": lower")],
    ids=["cuda", "cpu", "numpy", "python"],
)  # fmt: skip
def test_the_sentence_says_how_much(error: Exception, size: str) -> None:
    with pytest.raises(OutOfMemoryError) as told, within_memory("The chunk", "lower it"):
        raise error
    assert str(told.value).startswith(f"The chunk did not fit into memory{size}")
    assert isinstance(told.value, LabError)
    assert isinstance(told.value, MemoryError)


def test_other_errors_pass() -> None:
    for error in (RuntimeError("shapes"), ValueError("can't allocate memory"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as passed, within_memory("It", "no"):
            raise error
        assert passed.value is error


def test_what_was_too_much_is_freed() -> None:
    held: list[weakref.ref[Any]] = []

    def work() -> None:
        much = torch.zeros(10)
        held.append(weakref.ref(much))
        raise MemoryError

    with pytest.raises(OutOfMemoryError) as told, within_memory("It", "no"):
        work()
    gc.collect()
    assert told.value.__cause__ is not None
    assert held[0]() is None


@pytest.fixture(scope="module")
def lab() -> Lab:
    return hermes_lab.load("pocket")


def frames(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)


def test_a_step_that_does_not_fit_is_undone_and_the_session_goes_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session = StreamSession(lab, "fifo(budget_tokens=64)", record=tmp_path / "run")
    other = StreamSession(lab, "fifo(budget_tokens=64)")
    for one in (session, other):
        one.feed(frames(0))
    encode = lab.adapter.encode

    def too_much(*arguments: Any, **options: Any) -> Any:
        encode(*arguments, **options)
        return torch.empty(2**56)  # really asked for, and refused

    with monkeypatch.context() as patch:
        patch.setattr(lab.adapter, "encode", too_much)
        with pytest.raises(OutOfMemoryError, match=r"session\.feed\(\) needed did not fit .*TiB"):
            session.feed(frames(1))
    after, expected = session.feed(frames(1)), other.feed(frames(1))
    assert after.step == expected.step == 1
    assert all(map(np.array_equal, after.held, expected.held))
    session.close()
    assert len(Recording.open(tmp_path / "run").steps) == 2


def test_a_model_that_does_not_fit_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Huge:
        @staticmethod
        def from_pretrained(*arguments: Any, **options: Any) -> Any:
            raise CUDA

    monkeypatch.setattr(loading, "AutoModelForImageTextToText", Huge)
    with pytest.raises(OutOfMemoryError, match=r"^The model pocket did not fit .*bfloat16"):
        hermes_lab.load("pocket")


@pytest.mark.parametrize("error", [CUDA, NUMPY, CPU], ids=["cuda", "numpy", "cpu"])
def test_the_command_line_says_it_in_a_sentence_with_status_2(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hermes_lab import worlds

    def exhausted(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(worlds.World, "generate", exhausted)
    assert main(["world", "--minutes", "0.1", "--out", "unused"]) == 2
    said = capsys.readouterr().err
    assert "Error: The command did not fit into memory (" in said
    assert "Traceback" not in said

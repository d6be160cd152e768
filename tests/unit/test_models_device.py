"""A device that cannot be used is refused before any weight is read, with what helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from hermes_lab import load
from hermes_lab.errors import ModelError
from hermes_lab.models.device import check_device


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return monkeypatch


def refusal(device: str) -> str:
    with pytest.raises(ModelError) as refused:
        check_device(device)
    return str(refused.value)


def test_a_pytorch_without_cuda_names_the_command(cuda: pytest.MonkeyPatch) -> None:
    cuda.setattr(torch.backends.cuda, "is_built", lambda: False)
    said = refusal("cuda")
    assert "built without CUDA" in said
    assert "`pip install --force-reinstall torch`" in said


def test_a_machine_without_a_gpu_names_the_command(cuda: pytest.MonkeyPatch) -> None:
    cuda.setattr(torch.cuda, "is_available", lambda: False)
    assert "sees no GPU; check what `nvidia-smi` says" in refusal("cuda:0")


def test_a_number_too_many(cuda: pytest.MonkeyPatch) -> None:
    check_device("cuda")
    check_device("cuda:1")
    assert "PyTorch sees 2 of them, cuda:0 to cuda:1" in refusal("cuda:2")


@pytest.mark.parametrize("device", ["gpu", "warp", "cuda:x", ""])
def test_no_device_at_all(device: str) -> None:
    assert "there is no such device; take cpu, or cuda" in refusal(device)


def test_apple_gpus_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "no Apple GPU" in refusal("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    check_device("mps")


def test_it_is_said_before_the_model_is_looked_for() -> None:
    with pytest.raises(ModelError, match="no such device"):
        load("there-is-no-such-model", device="gpu")


@pytest.mark.parametrize(
    ("present", "given", "goes_to"),
    [
        (True, {}, ["cuda"]),
        (False, {}, []),
        (True, {"device": "cpu"}, ["cpu"]),
        (True, {"device_map": "cpu"}, []),
    ],
    ids=["a GPU is used without being told", "none is there", "kept off it", "a map decides"],
)
def test_where_a_model_goes(
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Callable[..., Path],
    present: bool,
    given: dict[str, str],
    goes_to: list[str],
) -> None:
    folder, moved = checkpoint("llava_onevision"), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    monkeypatch.setattr(
        LlavaOnevisionForConditionalGeneration, "to", lambda model, device: moved.append(device)
    )
    load(folder, **given)
    assert moved == goes_to

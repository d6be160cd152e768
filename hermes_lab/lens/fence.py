"""Keeping TransformerLens from installing packages while it boots a model.

TransformerLens 4.3 runs `pip install torchvision` when a multimodal processor cannot be loaded, which replaces
the installed torch by another build. Processors are not needed here at all.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

_SOURCES = "transformer_lens.model_bridge.sources.transformers"


def _no_torchvision() -> bool:
    """Stands for TransformerLens' installer: torchvision is not there, and that is that."""
    return False


def fence_installer() -> None:
    """Replace TransformerLens' installer for the rest of the process, also for boots that are not ours."""
    vars(importlib.import_module(f"{_SOURCES}.helpers"))["_ensure_torchvision"] = _no_torchvision


@contextmanager
def fenced(adapters: Sequence[Any] = ()) -> Generator[None]:
    """For the time of a boot: no installer, no processors, no package index, no demand for torchvision.

    Args:
        adapters: TransformerLens' architecture adapters that are going to be used.
    """
    fence_installer()
    source = importlib.import_module(f"{_SOURCES}.source")
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {"PIP_NO_INDEX": "1", "UV_NO_INDEX": "1"}))
        stack.enter_context(mock.patch.object(source, "load_modality_processor", _no_processor))
        for adapter in adapters:
            stack.enter_context(mock.patch.object(adapter, "required_libraries", []))
        yield


def _no_processor(*_: Any, **__: Any) -> None:
    """Stands for TransformerLens' loading of a processor: frames are preprocessed by our own adapters."""

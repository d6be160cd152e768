"""Loaded tiny models, one a family, shared by all tests: sessions on one lab do not disturb each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import hermes_lab
from hermes_lab.lab import Lab
from tests.checkpoints import FAMILIES


@pytest.fixture(scope="session")
def labs(checkpoint: Callable[..., Path]) -> Callable[[str], tuple[Lab, Path]]:
    """`labs(family)`: a loaded lab and the folder of its checkpoint."""
    loaded: dict[str, tuple[Lab, Path]] = {}

    def get(family: str) -> tuple[Lab, Path]:
        if family not in loaded:
            folder = checkpoint(family)
            loaded[family] = hermes_lab.load(folder), folder
        return loaded[family]

    return get


@pytest.fixture(params=FAMILIES)
def model(
    request: pytest.FixtureRequest, labs: Callable[[str], tuple[Lab, Path]]
) -> tuple[Lab, Path]:
    """Each family in turn: a loaded lab and the folder of its checkpoint."""
    return labs(request.param)

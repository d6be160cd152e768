"""Fixtures that several test folders share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints import write_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`checkpoint(family)`: folder of a tiny random checkpoint, written once a session."""
    written: dict[tuple[str, int, int], Path] = {}

    def get(family: str, seed: int = 0, layers: int = 4) -> Path:
        key = (family, seed, layers)
        if key not in written:
            folder = tmp_path_factory.mktemp(f"{family}-{seed}-{layers}")
            written[key] = write_checkpoint(family, folder, seed, layers)
        return written[key]

    return get

"""Fixtures that several test folders share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import shape_checks

if os.environ.get("SHAPE_CHECKS", "1") != "0":
    shape_checks.install()

from tests.checkpoints import write_checkpoint

# A shell without job control, or nohup, starts its jobs with these ignored, and children inherit that: tests that send
# them would see nothing happen.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


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

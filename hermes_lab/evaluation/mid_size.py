"""A mid-size decoder with random weights, for timing only: what it answers means nothing."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from hermes_lab.lab import Lab, load
from hermes_lab.training.build import build, save
from hermes_lab.training.config import PocketConfig, TextShape

# the decoder of a 0.5B Qwen2 at half its depth: width, heads and MLP are the real ones
SHAPE = TextShape(width=896, layers=12, heads=14, kv_heads=2, mlp=4864, max_positions=32768)


def mid_size_lab() -> Lab:
    """Build it through a saved checkpoint, so that it loads by the path that every model takes."""
    config = replace(PocketConfig(), name="mid-size", text=SHAPE)
    with tempfile.TemporaryDirectory() as folder:
        save(build(config), config, Path(folder))
        lab = load(folder, dtype="float32")
    lab.adapter.name = "mid-size (random weights)"
    return lab

"""Which seeds are for what: three ranges that never meet, so that no figure is measured on training data."""

from __future__ import annotations

HELD_OUT_SEEDS = range(0, 1_000_000)
"""Evaluation, demos, and every seed a person is likely to type."""
DEV_SEEDS = range(1_000_000, 2_000_000)
"""Curves watched while training, and the table of majority answers."""
TRAIN_SEEDS = range(2_000_000, 2**62)


def train_seed(run_seed: int, process: int, index: int) -> int:
    """The seed of the `index`-th stream that one training process draws; distinct for distinct arguments.

    `run_seed` below 2**14, `process` below 2**8 and `index` below 2**36 stay within `TRAIN_SEEDS`.
    """
    return TRAIN_SEEDS.start + (((run_seed << 8) | process) << 36 | index)

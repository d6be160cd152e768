"""Procedural streams with ground truth, and questions about them by memory horizon."""

from __future__ import annotations

from hermes_lab.worlds.export import export
from hermes_lab.worlds.questions import TYPES, UNLEARNED, Horizon, Question, horizon_of
from hermes_lab.worlds.seeds import DEV_SEEDS, HELD_OUT_SEEDS, TRAIN_SEEDS
from hermes_lab.worlds.world import Event, World

__all__ = [
    "DEV_SEEDS",
    "HELD_OUT_SEEDS",
    "TRAIN_SEEDS",
    "TYPES",
    "UNLEARNED",
    "Event",
    "Horizon",
    "Question",
    "World",
    "export",
    "horizon_of",
]

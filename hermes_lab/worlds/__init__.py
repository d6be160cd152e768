"""Procedural streams with ground truth, and questions about them by memory horizon.

What draws a world enters, what is true of it, and what can be asked. Models and sessions do not.
"""

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

"""The models that travel inside the package: where they are, what they are, what they cannot do."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from hermes_lab.errors import ModelError, nearest

WEIGHTS = Path(__file__).parent / "weights"
TRAINED_FRAMES = 128
"""Longest stream in training; answers about older frames are not to be trusted beyond it."""
CARD = (
    "pocket.json"  # beside config.json: what a listing and the cautions need, written by training
)


def names() -> tuple[str, ...]:
    """Names of the shipped models, the default first."""
    found = sorted(f.parent.name for f in WEIGHTS.glob("*/config.json"))
    return tuple(sorted(found, key=lambda name: (name != "pocket", name)))


def shipped_path(name: str = "pocket") -> Path:
    """Folder of a shipped model, which `from_pretrained` reads offline.

    Raises:
        ModelError: no model of that name is shipped.
    """
    if name not in names():
        raise ModelError(f"No model named {name!r} is shipped: {nearest(name, names())}")
    return WEIGHTS / name


def card(name: str) -> dict[str, Any]:
    """What training wrote about a shipped model; empty where nothing was written."""
    return json.loads(_card_text(name))


@cache
def _card_text(name: str) -> str:
    path = WEIGHTS / name / CARD
    return path.read_text(encoding="utf-8") if path.exists() else "{}"


def describe(name: str) -> str:
    """One line for listings."""
    facts = card(name)
    return str(facts.get("note", "trained on procedural streams"))


def trained_frames(name: str) -> int:
    """Stream length, in frames, that a shipped model was trained for."""
    return int(card(name).get("trained_frames", TRAINED_FRAMES))


def cautions(model: str, source_kind: str, source_name: str, frames: int | None) -> list[str]:
    """Sentences a person should read before trusting answers of a shipped model.

    Args:
        model: name of the loaded model.
        source_kind: `FrameSource.kind`.
        source_name: `FrameSource.name`.
        frames: frames that will be streamed, None if unknown.
    """
    if model not in names():
        return []
    said: list[str] = []
    if source_kind != "world" and not is_world_video(source_name):
        said.append(
            f"{model!r} was trained on procedural streams only and cannot see real footage: its memory can be "
            "watched on this video, but its answers mean nothing."
        )
    trained = trained_frames(model)
    if frames is not None and frames > trained:
        said.append(
            f"This stream has {frames} frames and {model!r} was trained for {trained}: expect it to lose old events."
        )
    return said


def is_world_video(name: str) -> bool:
    """Whether a video file was written by `hermes-lab world` (its events lie beside it), or is the bundled clip."""
    path = Path(name)
    if not path.name:  # "." or "/"
        return False
    return any(os.path.exists(path.with_name(f"{stem}.json")) for stem in (path.stem, "world"))

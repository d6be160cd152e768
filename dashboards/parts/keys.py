"""Every name under which a browser session keeps something: what was chosen in widgets, and what pages remember.

A widget's name is also its key in tests. Names of elements that nobody reads again (buttons, charts, downloads) are
written where the elements are made.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import streamlit as st

T = TypeVar("T")

# --- what every page shares ---------------------------------------------------------------------
PAGE = "page"
VIEW = "view"
KEPT = "kept"
BOUND = "bound"
RECORDING = "w_recording"
LAYER = "w_layer"
HEAD = "w_head"
FRAME = "w_frame"
TOKEN = "w_token"
MODEL = "w_model"
SOURCE_KIND = "w_source_kind"
SEED = "w_seed"
FRAMES = "w_frames"
CAMERA = "w_camera"
CAMERA_NUMBER = "w_camera_no"
UPLOAD = "w_upload"
UPLOADED = "uploaded"

# --- Live ---------------------------------------------------------------------------------------
MODE = "w_mode"
LIVE_VIEW = "live-view"
LIVE_MOMENT = "live-moment"
MOMENT_SHOWN = "moment-shown"
FILMSTRIP_SHOWN = "filmstrip-shown"
THUMBNAILS = "thumbnails"
FILMSTRIP_LAYER = "filmstrip-layer"
FILMSTRIP_FRAMES = "filmstrip-frames"
REPLAY_SPEED = "replay-speed"
REPLAY_SEEK = "replay-seek"
PLAYER = "player-"
"""How the names of players begin, of which there is one for each recording; see `player`."""
LIVE_POLICY = "w_policy"
LIVE_POLICY_ASKED = "live-policy"
LIVE_CHUNK = "live-chunk"
LIVE_FPS = "live-fps"
LIVE_SPEED = "live-speed"
LIVE_SPEED_NOW = "live-speed-now"
LIVE_SPEED_SET = "live-speed-set"
LIVE_RECORD = "live-record"

# --- Why ----------------------------------------------------------------------------------------
WHY_MOMENT = "why-moment"
WHY_STRIP = "why-strip"
WHY_FRAME = "why-frame"
WHY_PATCHES = "why-patches"
WHY_PROBE = "why-probe"

# --- Attention atlas ----------------------------------------------------------------------------
GROUP = "w_group"
METRIC = "w_metric"
ATLAS_SINKS = "atlas-sinks"
ATLAS_WEIGHTING = "atlas-weighting"
ATLAS_HELD = "atlas-held"
ATLAS_HEAD_COUNT = "atlas-head-count"
ATLAS_MAP = "atlas-map"
ATLAS_HEADS = "atlas-heads"
ATLAS_FRAMES = "atlas-frames"
ATLAS_QUESTION = "atlas-question"
ATLAS_READING = "atlas-reading"

# --- Policy lab ---------------------------------------------------------------------------------
LAB_BUDGET = "lab-budget"
LAB_CHUNK = "lab-chunk"
LAB_COUNT = "lab-count"
LAB_STREAMS = "lab-streams"
LAB_QUESTIONS = "lab-questions"

# --- Findings -----------------------------------------------------------------------------------
REPORT = "w_report"
CLAIM = "w_claim"
KNOCKOUT_QUESTION = "knock-question"
KNOCKOUT_LAYERS = "knock-layers"
KNOCKOUT_FRAMES = "knock-frames"
KNOCKOUT_ROLE = "knock-role"
KNOCKOUT_ANSWER = "knock-answer"
KNOCKOUT_DRAWS = "knock-draws"
KNOCKOUT_RESULT = "knock-result"

# --- Recordings ---------------------------------------------------------------------------------
OTHER = "w_other"
DELETING = "deleting"
DELETED = "deleted"


def player(folder: object) -> str:
    """Of the player of a recording."""
    return f"{PLAYER}{folder}"


def lab_policy(number: int) -> str:
    """Of the lab's policy with this 0-based number."""
    return f"lab-policy-{number}"


def policy_name(policy: str) -> str:
    """Of the choice of a policy; `policy` names the form that it is part of."""
    return f"{policy}-name"


def policy_budget(policy: str) -> str:
    """Of its budget."""
    return f"{policy}-budget"


def policy_preset(policy: str, chosen: str) -> str:
    """Of the preset of the chosen policy."""
    return f"{policy}-{chosen}-preset"


def policy_field(policy: str, chosen: str, preset: str | None, field: str) -> str:
    """Of a field of the chosen policy, which has its own value in every preset."""
    return "-".join((policy, chosen, *([] if preset is None else [preset]), field))


@dataclass(frozen=True)
class Slot(Generic[T]):
    """One thing that a browser session remembers, with its type."""

    name: str

    def get(self) -> T | None:
        """What is remembered; None where nothing is."""
        return st.session_state.get(self.name)

    def set(self, value: T) -> T:
        """Remember this; returns it."""
        st.session_state[self.name] = value
        return value

    def pop(self) -> T | None:
        """What was remembered, which is forgotten now."""
        return st.session_state.pop(self.name, None)


def remembered(name: str, key: Hashable, make: Callable[[], T]) -> T:
    """What `make` returned for this key; only the last key is remembered, for this browser session."""
    slot: Slot[tuple[Hashable, T]] = Slot(name)
    kept = slot.get()
    if kept is None or kept[0] != key:
        kept = slot.set((key, make()))
    return kept[1]


def reported(name: str, what: str) -> Any:
    """What a component or a chart reported last under this word ("cell", "selection"); None where nothing came."""
    return st.session_state[name].get(what)

"""What a page shows, as a value that travels in the URL: a link reopens the same view."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import streamlit as st

BUNDLED = "bundled"
_LONGEST = 2000
STALE_S = 3.0
"""For so long a page may still report the URL that it had before the session changed it."""
FORM = ("source", "model", "policy", "chunk", "worlds", "fps", "questions")
"""What would run: a link that has something else here brings its own form."""
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


@dataclass(frozen=True)
class ViewState:
    """The choices that make a view; None (or "") is "not chosen" and stays out of the URL.

    Attributes:
        recording, other: names in the recordings folder, or "bundled".
        step: `Snapshot.step`; layer, head: indices; frame, token: global numbers.
        group: which queries' attention; metric, mode: what a page draws.
        source, model, policy: what a live run or a policy lab would run; chunk: frames fed at once;
            worlds: how many worlds the policy lab asks; fps, speed: how fast a stream comes.
        film: layer of the filmstrip; frames: which frames it shows.
        weighting, sinks: how the atlas counts attention.
        question: to the running stream; questions: those of the policy lab, one a line.
    """

    recording: str = BUNDLED
    other: str = ""
    step: int | None = None
    layer: int | None = None
    head: int | None = None
    frame: int | None = None
    token: int | None = None
    group: str = ""
    metric: str = ""
    mode: str = ""
    source: str = ""
    model: str = ""
    policy: str = ""
    chunk: int | None = None
    worlds: int | None = None
    fps: float | None = None
    speed: str = ""
    film: int | None = None
    frames: str = ""
    weighting: str = ""
    sinks: int | None = None
    question: str = ""
    questions: str = ""
    claim: str = ""

    @classmethod
    def from_params(cls, params: Mapping[str, str], base: ViewState | None = None) -> ViewState:
        """Read a URL's parameters over `base`; unknown names and numbers that are none are ignored."""
        values: dict[str, Any] = {}
        for f in fields(cls):
            if f.name not in params:
                continue
            text = params[f.name]
            if isinstance(f.default, str):
                values[f.name] = text[:_LONGEST]
            elif "float" in str(f.type):
                if _NUMBER.fullmatch(text):
                    values[f.name] = float(text)
            elif text.isdecimal() and len(text) < 10:
                values[f.name] = int(text)
        return replace(base or cls(), **values)

    def to_params(self) -> dict[str, str]:
        """The parameters of a URL that reopens this view."""
        return {
            f.name: f"{value:g}" if isinstance(value, float) else str(value)
            for f in fields(self)
            if (value := getattr(self, f.name)) != f.default and value is not None
        }


def open_page(name: str) -> ViewState:
    """Begin to draw a page: the session's view, after any change of the URL from outside.

    Streamlit keeps the value of a key that two pages use until the second page's widget is drawn, and then lets that
    widget start from its own default. So a page that is turned to begins without values, and each widget gets its
    first one from the view or from what was chosen before.
    """
    if st.session_state.get("page") != name:
        st.session_state["page"] = name
        kept: dict[str, Any] = st.session_state.setdefault("kept", {})
        kept |= {key: st.session_state[key] for key in kept if key in st.session_state}
        _let_go(_bound())
    read()
    return write()  # a page that changes nothing is shared with its address, too


def read() -> ViewState:
    """The session's view, after any change of the URL from outside."""
    shown: dict[str, str] = st.session_state.get("url", {})
    params = st.query_params.to_dict()
    view: ViewState = st.session_state.get("view") or ViewState()
    if params and params != shown and not _just_left(params):
        link = ViewState.from_params(params, ViewState())
        _let_go(_bound())
        if _differ(view, link, FORM):
            st.session_state.pop("kept", None)
        if _differ(view, link, ("recording", "step", "speed")):
            _let_go(str(k) for k in st.session_state if str(k).startswith("player-"))
        view = link
        st.session_state["url"] = params
    st.session_state["view"] = view
    return view


def _differ(one: ViewState, other: ViewState, names: tuple[str, ...]) -> bool:
    return any(getattr(one, name) != getattr(other, name) for name in names)


def _just_left(params: dict[str, str]) -> bool:
    """Whether this is no link but a page that has not heard yet of the session's latest change of the URL."""
    now = time.monotonic()
    left: list[tuple[float, dict[str, str]]] = st.session_state.get("urls-left", [])
    return any(p == params and now - at_s < STALE_S for at_s, p in left)


def write(**changes: Any) -> ViewState:
    """Change the session's view and the URL with it."""
    view = replace(st.session_state.get("view") or ViewState(), **changes)
    params = view.to_params()
    st.session_state["view"] = view
    before: dict[str, str] = st.session_state.get("url", {})
    if before != params:
        left = st.session_state.get("urls-left", [])
        st.session_state["urls-left"] = [*left[-7:], (time.monotonic(), before)]
    st.session_state["url"] = params
    if st.query_params.to_dict() != params:
        st.query_params.from_dict(params)
    return view


def change_recording(name: str) -> ViewState:
    """Show another recording: what was chosen in one means nothing in another, but a layer is a layer."""
    forget("w_frame", "w_token", "w_group")
    return write(recording=name, step=None, frame=None, token=None, group="")


def initial(key: str, value: Any) -> str:
    """Give a widget its first value on this page, as the view has it; later runs keep what the person chose.

    Returns the key. A link that is opened in the same session takes the widget's value away again (see `read`).
    """
    _bound().add(key)
    if key not in st.session_state:
        st.session_state[key] = value
    return key


def lasting(key: str, value: Any) -> str:
    """As `initial`, for a widget of a form: what the person chose outlasts other pages, and until a link to another
    form is opened it wins over the view, which cannot say all that a form holds."""
    kept: dict[str, Any] = st.session_state.setdefault("kept", {})
    initial(key, kept.get(key, value))
    kept[key] = st.session_state[key]
    return key


def forget(*keys: str) -> None:
    """Take what was chosen in widgets away, so that they start anew."""
    for key in keys:
        st.session_state.get("kept", {}).pop(key, None)
    _let_go(keys)


def _let_go(keys: Iterable[str]) -> None:
    for key in list(keys):
        if key in st.session_state:
            del st.session_state[key]


def _bound() -> set[str]:
    """Keys of the widgets that got their first value here."""
    return st.session_state.setdefault("bound", set())

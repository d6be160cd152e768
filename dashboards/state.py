"""What a page shows, as a value that travels in the URL: a link reopens the same view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import streamlit as st

BUNDLED = "bundled"


@dataclass(frozen=True)
class ViewState:
    """The choices that make a view; None (or "") is "not chosen" and stays out of the URL.

    Attributes:
        recording, other: names in the recordings folder, or "bundled".
        step: `Snapshot.step`; layer, head: indices; frame, token: global numbers.
        group: which queries' attention; metric, mode: what a page draws.
        source, model, policy: what a live run or a policy lab would run; chunk: frames fed at once;
            worlds: how many worlds the policy lab asks.
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
                values[f.name] = text[:400]
            elif text.isdecimal() and len(text) < 10:
                values[f.name] = int(text)
        return replace(base or cls(), **values)

    def to_params(self) -> dict[str, str]:
        """The parameters of a URL that reopens this view."""
        return {
            f.name: str(value)
            for f in fields(self)
            if (value := getattr(self, f.name)) != f.default and value is not None
        }


def read() -> ViewState:
    """The session's view, after any change of the URL from outside."""
    shown: dict[str, str] = st.session_state.get("url", {})
    params = st.query_params.to_dict()
    view: ViewState = st.session_state.get("view") or ViewState()
    if params and params != shown:
        view = ViewState.from_params(params, ViewState())
        for key in [k for k in st.session_state if str(k).startswith("w_")]:
            del st.session_state[key]
        st.session_state["url"] = params
    st.session_state["view"] = view
    return view


def write(**changes: Any) -> ViewState:
    """Change the session's view and the URL with it."""
    view = replace(st.session_state.get("view") or ViewState(), **changes)
    params = view.to_params()
    st.session_state["view"] = view
    st.session_state["url"] = params
    if st.query_params.to_dict() != params:
        st.query_params.from_dict(params)
    return view


def initial(key: str, value: Any) -> str:
    """Give a widget its first value from the view; later runs keep what the person chose. Returns the key."""
    if key not in st.session_state:
        st.session_state[key] = value
    return key

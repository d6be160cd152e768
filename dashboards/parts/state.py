"""What a page shows, as a value that travels in the URL: a link reopens the same view.

The session is the owner of its URL. It adopts another one when a page is opened and when the browser goes back or
forward; what the browser reports at any other time is the URL that the session gave it, perhaps not the newest one.

Streamlit's own binding of widgets to parameters (`bind="query-params"`) is not used: a bound parameter leaves the URL
with the page that draws its widget and cannot be set beside the others, while here a click on the strip, a link of
another page and the start of a run set parameters, and one URL carries the choices of all pages.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dashboards.parts import keys
from dashboards.parts.keys import Slot

BUNDLED = "bundled"
_LONGEST = 2000
_FORMER = {"film": "filmstrip"}
"""Parameters of links that were shared when they had another name."""
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
        filmstrip: layer of the filmstrip; frames: which frames it shows.
        weighting, sinks: how the atlas counts attention.
        question: to the running stream; questions: those of the policy lab, one per line.
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
    filmstrip: int | None = None
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
        given = {_FORMER.get(name, name): text for name, text in params.items()}
        for f in fields(cls):
            if f.name not in given:
                continue
            text = given[f.name]
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


_VIEW: Slot[ViewState] = Slot(keys.VIEW)
_PAGE: Slot[str] = Slot(keys.PAGE)
_KEPT: Slot[dict[str, Any]] = Slot(keys.KEPT)
_BOUND: Slot[set[str]] = Slot(keys.BOUND)


def open_page(name: str) -> ViewState:
    """Begin to draw a page: the session's view, after any change of the URL from outside.

    Streamlit keeps the value of a key that two pages use until the second page's widget is drawn, and then lets that
    widget start from its own default. So a page that is turned to begins without values, and each widget gets its
    first one from the view or from what was chosen before.
    """
    turned = _PAGE.get() != name
    if turned:
        _PAGE.set(name)
        kept = _kept()
        kept |= {key: st.session_state[key] for key in kept if key in st.session_state}
        _let_go(_bound())
    if turned or _went_back():
        _adopt(st.query_params.to_dict())
    return write()  # a page that changes nothing is shared with its address, too


def current() -> ViewState:
    """The session's view."""
    return _VIEW.get() or ViewState()


def _went_back() -> bool:
    """Whether this run was asked for by the browser's Back or Forward."""
    context = get_script_run_ctx()
    return context is not None and context.is_history_navigation


def _adopt(params: dict[str, str]) -> None:
    """Show what a URL asks for; one without parameters, as the bar of pages has, asks for nothing new."""
    if not params:
        return
    view, link = current(), ViewState.from_params(params)
    _let_go(_bound())
    if _differ(view, link, FORM):
        _KEPT.pop()
    if _differ(view, link, ("recording", "step", "speed")):
        _let_go(str(k) for k in st.session_state if str(k).startswith(keys.PLAYER))
    _VIEW.set(link)


def _differ(one: ViewState, other: ViewState, names: tuple[str, ...]) -> bool:
    return any(getattr(one, name) != getattr(other, name) for name in names)


def write(**changes: Any) -> ViewState:
    """Change the session's view and the URL with it."""
    view = _VIEW.set(replace(current(), **changes))
    params = view.to_params()
    if st.query_params.to_dict() != params:
        st.query_params.from_dict(params)
    return view


def change_recording(name: str) -> ViewState:
    """Show another recording: what was chosen in one means nothing in another, but a layer is a layer."""
    forget(keys.FRAME, keys.TOKEN, keys.GROUP)
    return write(recording=name, step=None, frame=None, token=None, group="")


def initial(key: str, value: Any, among: Collection[Any] | None = None) -> str:
    """Give a widget its first value on this page, as the view has it; later runs keep what the person chose.

    Returns the key. A link that is opened in the same session takes the widget's value away again (see `open_page`).

    Args:
        among: what is offered now; a value from before that is not among it gives way to the first one.
    """
    _bound().add(key)
    offered = among is None or st.session_state.get(key) in among
    if key not in st.session_state or not offered:
        st.session_state[key] = value
    return key


def lasting(key: str, value: Any, among: Collection[Any] | None = None) -> str:
    """As `initial`, for a widget of a form: what the person chose outlasts other pages, and until a link to another
    form is opened it wins over the view, which cannot say all that a form holds."""
    kept = _kept()
    before = kept.get(key, value)
    initial(key, before if among is None or before in among else value, among)
    kept[key] = st.session_state[key]
    return key


def at_most(key: str, last: int) -> None:
    """Lower a number that was chosen where there were more of its kind."""
    if st.session_state[key] > last:
        st.session_state[key] = last


def forget(*names: str) -> None:
    """Take what was chosen in widgets away, so that they start anew."""
    for key in names:
        _kept().pop(key, None)
    _let_go(names)


def _let_go(names: Iterable[str]) -> None:
    for key in list(names):
        if key in st.session_state:
            del st.session_state[key]


def _kept() -> dict[str, Any]:
    """What was chosen in the widgets of forms."""
    kept = _KEPT.get()
    return _KEPT.set({}) if kept is None else kept


def _bound() -> set[str]:
    """Keys of the widgets that got their first value here."""
    bound = _BOUND.get()
    return _BOUND.set(set()) if bound is None else bound

"""Why: the life of one token - when it came, how it ranked at every compression, when and why it went."""

from __future__ import annotations

import numpy as np
import streamlit as st

from dashboards.live.moment import Moment, recorded_moment
from dashboards.parts import keys, state
from dashboards.parts.canvas import draw_strip
from dashboards.parts.keys import reported
from dashboards.parts.page_parts import about, refuse
from dashboards.parts.resources import chosen_recording, retention_of
from dashboards.why import panels
from hermes_lab.errors import LabError
from hermes_lab.recording import Recording


def pick_token(recording: Recording, moment: Moment, view: state.ViewState) -> tuple[int, int]:
    """Layer and token, by number; the strip and the frame's patches choose the same two."""
    newest = int(moment.ids[-1])
    state.initial(keys.LAYER, view.layer or 0)
    token = view.token if view.token is not None and view.token <= newest else first_evicted(moment)
    state.initial(keys.TOKEN, token)
    state.at_most(keys.LAYER, recording.layers - 1)
    state.at_most(keys.TOKEN, max(newest, 0))
    layer = int(st.number_input("Layer", 0, recording.layers - 1, key=keys.LAYER))
    token = int(st.number_input("Token (global id)", 0, max(newest, 0), key=keys.TOKEN))
    return layer, token


def first_evicted(moment: Moment) -> int:
    """A token to begin with whose life is worth reading: one that was compared and lost, late in the stream."""
    lost = np.flatnonzero((moment.state == 2).any(0))
    return int(moment.ids[lost[len(lost) // 2]]) if len(lost) else int(moment.ids[0])


def cell_clicked() -> None:
    """Follow the token behind the clicked cell."""
    moment, cell = panels.MOMENT.get(), reported(keys.WHY_STRIP, "cell")
    if (
        moment is not None
        and cell
        and 0 <= int(cell["layer"]) < moment.strip.layers
        and 0 <= int(cell["column"]) < moment.strip.columns
    ):
        st.session_state[keys.LAYER] = int(cell["layer"])
        st.session_state[keys.TOKEN] = moment.token_at(int(cell["layer"]), int(cell["column"]))


view = state.open_page("why")
st.title("Why", anchor=False)
with st.sidebar:
    recording = chosen_recording(view)
if recording is not None:
    view = state.current()
    retention = retention_of(recording)
    moment = recorded_moment(recording, retention, len(recording.steps) - 1)
    panels.MOMENT.set(moment)
    with st.sidebar:
        layer, token = pick_token(recording, moment, view)
    frame = int(moment.table.column("frame")[token])
    state.write(layer=layer, token=token, frame=frame if frame >= 0 else None)
    place = int(np.searchsorted(moment.ids, token))
    chosen = (layer, moment.strip.column_of(min(place, len(moment.ids) - 1)))
    draw_strip(
        moment.strip,
        key=keys.WHY_STRIP,
        on_cell=cell_clicked,
        chosen=chosen,
        row_px=max(4, 130 // moment.strip.layers),
    )
    about(
        "the state of every video token at the end of the recording; click a cell to follow the token behind it.",
        "what the token meant to the model; a policy's score is what the policy believed, not what was needed.",
    )
    try:
        panels.life(recording, moment, layer, token)
        panels.attended(recording, layer, token)
    except LabError as error:
        refuse(error)

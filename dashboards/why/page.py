"""Why: the life of one token - when it came, how it ranked at every compression, when and why it went."""

from __future__ import annotations

import numpy as np
import streamlit as st

from dashboards.live.moment import Scene, recorded_scene
from dashboards.parts import state
from dashboards.parts.canvas import draw_strip
from dashboards.parts.page_parts import about, refuse
from dashboards.parts.resources import chosen_recording, retention_of
from dashboards.why import panels as panels
from hermes_lab.errors import LabError
from hermes_lab.recording import Recording


def pick_token(recording: Recording, scene: Scene, view: state.ViewState) -> tuple[int, int]:
    """Layer and token, by number; the strip and the frame's patches choose the same two."""
    newest = int(scene.ids[-1])
    state.initial("w_layer", view.layer or 0)
    token = view.token if view.token is not None and view.token <= newest else first_evicted(scene)
    state.initial("w_token", token)
    for key, last in (("w_layer", recording.layers - 1), ("w_token", max(newest, 0))):
        if st.session_state[key] > last:  # of a recording with more of them
            st.session_state[key] = last
    layer = int(st.number_input("Layer", 0, recording.layers - 1, key="w_layer"))
    token = int(st.number_input("Token (global id)", 0, max(newest, 0), key="w_token"))
    return layer, token


def first_evicted(scene: Scene) -> int:
    """A token to begin with whose life is worth reading: one that was compared and lost, late in the stream."""
    lost = np.flatnonzero((scene.state == 2).any(0))
    return int(scene.ids[lost[len(lost) // 2]]) if len(lost) else int(scene.ids[0])


def cell_clicked() -> None:
    scene: Scene = st.session_state["why-scene"]
    cell = st.session_state["why-strip"].get("cell")
    if (
        cell
        and 0 <= int(cell["layer"]) < scene.strip.layers
        and 0 <= int(cell["column"]) < scene.strip.columns
    ):
        st.session_state["w_layer"] = int(cell["layer"])
        st.session_state["w_token"] = scene.token_at(int(cell["layer"]), int(cell["column"]))


view = state.open_page("why")
st.title("Why", anchor=False)
with st.sidebar:
    recording = chosen_recording(view)
if recording is not None:
    view = state.read()
    retention = retention_of(recording)
    scene = recorded_scene(recording, retention, len(recording.steps) - 1)
    st.session_state["why-scene"] = scene
    with st.sidebar:
        layer, token = pick_token(recording, scene, view)
    frame = int(scene.table.column("frame")[token])
    state.write(layer=layer, token=token, frame=frame if frame >= 0 else None)
    place = int(np.searchsorted(scene.ids, token))
    chosen = (layer, scene.strip.column_of(min(place, len(scene.ids) - 1)))
    draw_strip(
        scene.strip,
        key="why-strip",
        on_cell=cell_clicked,
        chosen=chosen,
        row_px=max(4, 130 // scene.strip.layers),
    )
    about(
        "the state of every video token at the end of the recording; click a cell to follow the token behind it.",
        "what the token meant to the model; a policy's score is what the policy believed, not what was needed.",
    )
    try:
        panels.life(recording, scene, layer, token)
        panels.attended(recording, layer, token)
    except LabError as error:
        refuse(error)

"""Attention atlas: every head of every layer beside its null; from a head to its frames, from a frame to its heads."""

from __future__ import annotations

import streamlit as st

from dashboards.atlas import panels
from dashboards.parts import state
from dashboards.parts.resources import chosen_recording

view = state.open_page("atlas")
st.title("Attention atlas", anchor=False)
with st.sidebar:
    recording = chosen_recording(view)
if recording is not None:
    view = state.current()
    probes = panels.probes_of(recording)
    if not probes:
        st.info("This recording holds no attention; record with level summary or rows.")
    else:
        probe = panels.choose_probe(probes, view)
        panels.overview(recording, probe, view)
        panels.head_to_frames(recording, probe)
        panels.frame_to_heads(recording, probe)

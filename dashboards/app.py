"""Entry point: `hermes-lab dashboard`, or `streamlit run dashboards/app.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

# `streamlit run` puts this folder on the path; the pages import by the names of the folder above it
_BASE = str(Path(__file__).resolve().parents[1])
if _BASE not in sys.path:
    sys.path.insert(0, _BASE)

st.set_page_config(page_title="HERMES Lab", page_icon=":material/memory:", layout="wide")

st.navigation(
    [
        st.Page("pages/live.py", title="Live", icon=":material/play_circle:", default=True),
        st.Page("pages/why.py", title="Why", icon=":material/help:"),
        st.Page("pages/atlas.py", title="Attention atlas", icon=":material/grid_on:", url_path="atlas"),
        st.Page("pages/lab.py", title="Policy lab", icon=":material/science:", url_path="lab"),
        st.Page("pages/findings.py", title="Findings", icon=":material/fact_check:"),
        st.Page("pages/recordings.py", title="Recordings", icon=":material/folder_open:"),
    ],
    position="top",
).run()

"""Entry point: `hermes-lab dashboard`, or `streamlit run dashboards/app.py`."""

from __future__ import annotations

import importlib
import sys
import threading
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image

# `streamlit run` puts this folder on the path; the pages import by the names of the folder above it
_BASE = str(Path(__file__).resolve().parents[1])
if _BASE not in sys.path:
    sys.path.insert(0, _BASE)

# a drawn icon: Streamlit would fetch a named one from the network
icon = np.full((16, 16, 3), 255, np.uint8)
for layer, held in enumerate((4, 8, 12)):
    icon[2 + 4 * layer : 5 + 4 * layer, :] = (222, 222, 222)
    icon[2 + 4 * layer : 5 + 4 * layer, 16 - held :: 2 + layer] = (0, 114, 178)
st.set_page_config(page_title="HERMES Lab", page_icon=Image.fromarray(icon), layout="wide")

# Streamlit leaves a hand's breadth of air around everything; a projector at 1280 px has none to spare
st.html(
    """<style>
[data-testid=stMainBlockContainer] { padding: 3.6rem 2rem 3rem; }
[data-testid=stBottomBlockContainer] { padding: .6rem 2rem 1rem; }
[data-testid=stMainBlockContainer] h1 { font-size: 1.7rem; padding: 0 0 .7rem; }
[data-testid=stSidebarUserContent] { padding: 0 1rem 2rem; }
[data-testid=stSidebarHeader] { height: 2rem; min-height: 0; }
[data-testid=stVerticalBlock] { gap: .7rem; }
[data-testid=stCaptionContainer] code { color: inherit; }
[data-testid=stSidebar] [data-testid=stButtonGroup] button { padding: 0 .4rem; }
[data-testid=stSidebar] [data-testid=stButtonGroup] button p { font-size: .85rem; }
</style>"""
)

st.navigation(
    [
        st.Page("live/page.py", title="Live", icon=":material/play_circle:", default=True),
        st.Page("why/page.py", title="Why", icon=":material/help:", url_path="why"),
        st.Page(
            "atlas/page.py", title="Attention atlas", icon=":material/grid_on:", url_path="atlas"
        ),
        st.Page("lab/page.py", title="Policy lab", icon=":material/science:", url_path="lab"),
        st.Page(
            "findings/page.py", title="Findings", icon=":material/fact_check:", url_path="findings"
        ),
        st.Page(
            "recordings/page.py",
            title="Recordings",
            icon=":material/folder_open:",
            url_path="recordings",
        ),
    ],
    position="top",
).run()


@st.cache_resource(show_spinner=False)
def import_ahead() -> threading.Thread:
    """Import what runs models in the background, once a server, after the first page: it takes seconds."""
    thread = threading.Thread(
        target=importlib.import_module,
        args=("dashboards.ahead",),
        name="import-ahead",
        daemon=True,
    )
    thread.start()
    return thread


import_ahead()

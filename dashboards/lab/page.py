"""Policy lab: one stream under several policies at equal budgets, beside the policies that every result must beat."""

from __future__ import annotations

import streamlit as st

from dashboards.parts import state
from dashboards.parts.page_parts import refuse
from dashboards.parts.resources import session_resources

view = state.open_page("lab")
st.title("Policy lab", anchor=False)
from dashboards.lab import panels  # noqa: E402  (policies import torch, which takes seconds)

with st.sidebar:
    form = panels.form(view)
job = session_resources().job
if form is not None and form.start:
    session_resources().start_job(form.work())
    st.rerun()
if job is None:
    st.info(
        "Choose a stream and two to four policies on the left, then press **Compare**. Frames are encoded once and "
        "replayed for every policy; full, recent frames, uniform and random always run beside them."
    )
elif job.running:
    panels.progress(job)
elif job.error:
    refuse(job.error)
elif job.result is not None:
    panels.results(*job.result)

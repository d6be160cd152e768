"""Findings: what the studies claim, beside what would have to be beaten; and a knockout to try oneself."""

from __future__ import annotations

import streamlit as st

from dashboards.findings import knockout, panels, reports
from dashboards.parts import keys, state
from dashboards.parts.page_parts import refuse
from dashboards.parts.plain_text import code
from hermes_lab.errors import LabError

view = state.open_page("findings")
st.title("Findings", anchor=False)
report_tab, knockout_tab = st.tabs(["Report", "Knock out tokens"])
with report_tab:
    found = list(reports.folders())
    if not found:
        st.info(
            f"There is no report in {code(reports.reports_folder())} yet. Run `hermes-lab study all` (or `--quick`); it "
            "writes reports/latest, and the claims appear here with their nulls and verdicts."
        )
    else:
        state.lasting(keys.REPORT, found[0], among=found)
        name = st.selectbox("Report", found, key=keys.REPORT) if len(found) > 1 else found[0]
        try:
            report = reports.read_report(name)
        except LabError as error:
            refuse(error)
        else:
            panels.report(report, name, view)
with knockout_tab:
    knockout.panel()

"""The report on the Findings page: claims with their nulls, and studies with their tables."""

from __future__ import annotations

import streamlit as st

from analysis.claims import Claim, Finding, Verdict
from analysis.drawing import drawn
from analysis.report import StudyReport
from analysis.result import FigureSpec, StudyResult, Table
from dashboards.findings import reports
from dashboards.parts import keys, snippets, state
from dashboards.parts.page_parts import about, chart, offer
from dashboards.parts.plain_text import code, plain
from hermes_lab.errors import LabError
from hermes_lab.figures.claims import ForestRow, forest

_SIGNS = {
    Verdict.SUPPORTED: ":material/check_circle: supported",
    Verdict.NOT_SUPPORTED: ":material/cancel: not supported",
    Verdict.CANNOT_TELL: ":material/help: cannot tell",
}


def report(found: StudyReport, name: str, view: state.ViewState) -> None:
    """All claims at a glance, then one study whole."""
    st.caption(f"About **{plain(found.model)}**, made by {code(found.command)}.")
    if not any(s.findings for s in found.studies):
        st.info("The report holds no claim.")
        return
    rows = [
        {
            "claim": f.claim.sentence,
            "verdict": f.verdict.value,
            "estimate [95 %]": str(f.estimate),
            "strongest null": strongest(f),
            "p (Holm)": f.p,
            "status": status(f.claim),
            "study": s.study,
        }
        for s in found.studies
        for f in s.findings
    ]
    st.dataframe(rows, hide_index=True, width="stretch", key="findings-table")
    offer(
        key="findings-table-files", name="claims", rows=(tuple(rows[0]), [tuple(r.values()) for r in rows]),
        code=f"{snippets.report(reports.path(name))}for study in report.studies:\n"
        "    for finding in study.findings:\n        print(study.study, finding.claim.sentence, finding.verdict, finding.estimate)",
    )  # fmt: skip
    about(
        "every claim of the report with the verdict that code drew from its estimate and its nulls.",
        "anything beyond the model and the streams that each study names under its scope.",
    )
    claims = {f.claim.key: (s, f) for s in found.studies for f in s.findings}
    linked = view.claim if view.claim in claims else next(iter(claims))
    state.initial(keys.CLAIM, linked, among=claims)
    key = st.selectbox(
        "Claim", list(claims), key=keys.CLAIM, format_func=lambda k: claims[k][1].claim.sentence
    )
    state.write(claim=key)
    result, finding = claims[key]
    claim(result, finding, name)
    study(result, name)
    with st.expander(f"Controls of the method and replications ({len(found.controls)})"):
        for c in found.controls:
            st.markdown(
                f"- {plain(c.kind)}, {plain(c.model)}, {plain(c.claim)}: **{c.verdict.value}** ({plain(c.estimate)}). "
                f"{plain(c.because)}"
            )
    with st.expander("Checklist of the whole report"):
        for item in found.checklist:
            where = ", ".join(item.where) or "nobody"
            st.markdown(
                f"{item.number}. {'[x]' if item.satisfied else '[ ]'} {plain(item.title)} ({plain(where)})"
            )


def status(claim: Claim) -> str:
    """How a claim was tested, in a word that does not sound like its verdict."""
    return "exploratory" if claim.status == "exploratory" else "confirmatory"


def strongest(finding: Finding) -> str:
    control = finding.panel.strongest
    return "-" if control is None else f"{control.name}: {control.estimate}"


def claim(result: StudyResult, finding: Finding, report_name: str) -> None:
    """One claim: what it says, its number beside its nulls, and why the verdict."""
    said = finding.claim
    st.subheader(plain(said.sentence), anchor=False)
    st.markdown(f"**{_SIGNS[finding.verdict]}**: {plain(finding.because)}")
    st.markdown(
        f"- Metric: {plain(said.metric)}\n- Refuted if: {plain(said.refuted_if)}\n- Status: {status(said)}, "
        f"choices were made on {'the same' if status(said) == 'exploratory' else 'other'} streams"
        + (f"\n- Original claim: {plain(said.paper)}" if said.paper else "")
    )
    e = finding.estimate
    rows: list[ForestRow] = [("observed", "observed", e.value, e.low, e.high)]
    rows += [
        (
            f"{c.name}" + (f" ({c.replicates})" if c.replicates > 1 else ""),
            c.role,
            c.estimate.value,
            c.estimate.low,
            c.estimate.high,
        )
        for c in finding.panel.controls
    ]
    chart(
        forest(rows, said.reference), key="findings-forest", name=said.key,
        alt=f"Estimate and controls of the claim: {said.sentence}",
        code=f"{recipe(result, report_name, 'from hermes_lab.figures.claims import forest')}"
        f"finding = next(f for f in result.findings if f.claim.key == {said.key!r})\n"
        "e = finding.estimate\n"
        'rows = [("observed", "observed", e.value, e.low, e.high)]\n'
        "for c in finding.panel.controls:\n"
        "    rows.append((c.name, c.role, c.estimate.value, c.estimate.low, c.estimate.high))\n"
        "forest(rows, finding.claim.reference).show()",
        rows=(("name", "role", "value", "low", "high"), rows),
    )  # fmt: skip
    about(
        "the metric as observed and under each control, with 95 % intervals over streams; dashed: no effect.",
        "the size of the effect on other models; a null that was not tested is not in the figure.",
    )


def study(result: StudyResult, report_name: str) -> None:
    """The study behind the claim."""
    with st.expander(f"Study {plain(result.study)}: {plain(result.title)}", expanded=False):
        st.markdown(f"**Question.** {plain(result.question)}\n\n**Scope.** {plain(result.scope)}")
        setup = result.setup
        st.markdown(
            f"**Set-up.** {plain(setup.model)} ({setup.layers} layers, {setup.query_heads} heads), {setup.frames} frames "
            f"at {setup.fps:g} fps, cache policy {plain(setup.cache_policy)}, {plain(setup.hardware)}. "
            f"**Data.** {plain(result.data.kind)}: {len(result.data.held_out)} held-out streams, {result.data.questions} "
            f"questions, {plain(result.data.selection_rule)}."
        )
        for title, lines in (
            ("Negative results", result.negatives),
            ("Robustness", result.robustness),
        ):
            st.markdown(f"**{title}.**\n" + "\n".join(f"- {plain(line)}" for line in lines))
        st.markdown(
            f"**Analyses looked at.** {result.analyses}. **Again:** {code(result.reproduce.command)}"
        )
        for spec in result.figures:
            figure(result, spec, report_name)
        for table in result.tables:
            data_table(result, table, report_name)


def recipe(result: StudyResult, report_name: str, imports: str = "") -> str:
    """Python that reads the study again."""
    return snippets.study(reports.path(report_name), result.study, imports)


def figure(result: StudyResult, spec: FigureSpec, report_name: str) -> None:
    """A figure of the study, drawn by the function that its report names, from the report's own numbers."""
    try:
        picture = drawn(result, spec)
    except LabError as error:
        st.caption(plain(error))
        return
    table = result.table(spec.tables[0])
    chart(
        picture, key=f"findings-{result.study}-{spec.name}", name=f"{result.study}-{spec.name}", alt=spec.title,
        code=f"{recipe(result, report_name, 'from analysis.drawing import drawn')}"
        f"drawn(result, next(f for f in result.figures if f.name == {spec.name!r})).show()",
        rows=(table.columns, table.rows),
    )  # fmt: skip
    about(plain(spec.shows), plain(spec.cannot_tell))


def data_table(result: StudyResult, table: Table, report_name: str) -> None:
    st.markdown(f"**{plain(table.name)}.** {plain(table.caption)}")
    shown = [dict(zip(table.columns, row, strict=True)) for row in table.rows[:200]]
    st.dataframe(
        shown, hide_index=True, width="stretch", key=f"findings-{result.study}-table-{table.name}"
    )
    offer(
        key=f"findings-{result.study}-{table.name}-files", name=f"{result.study}-{table.name}",
        code=f"{recipe(result, report_name)}print(result.table({table.name!r}).csv())", csv_text=table.csv,
        rows=(table.columns, table.rows),
    )  # fmt: skip

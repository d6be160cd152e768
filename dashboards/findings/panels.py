"""The parts of the Findings page: claims with their nulls, studies with their tables, and the knockout panel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from analysis.claims import Claim, Finding, Verdict
from analysis.drawing import drawn
from analysis.report import StudyReport
from analysis.result import FigureSpec, StudyResult, Table
from dashboards.findings import reports
from dashboards.parts import snippets, state
from dashboards.parts.page_parts import about, chart, offer, refuse
from dashboards.parts.plain_text import code, plain
from dashboards.parts.resources import things
from hermes_lab import figures
from hermes_lab.errors import LabError
from hermes_lab.figures.claims import ForestRow, forest
from hermes_lab.tokens import Role

if TYPE_CHECKING:
    from dashboards.live.worker import StreamWorker

_SIGNS = {
    Verdict.SUPPORTED: ":material/check_circle: supported",
    Verdict.NOT_SUPPORTED: ":material/cancel: not supported",
    Verdict.CANNOT_TELL: ":material/help: cannot tell",
}
ROLES = {
    "video": (Role.VISUAL, Role.SUMMARY),
    "summary tokens": (Role.SUMMARY,),
    "system prefix": (Role.SYSTEM,),
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
    state.initial("w_claim", view.claim if view.claim in claims else next(iter(claims), None))
    if st.session_state["w_claim"] not in claims:
        st.session_state["w_claim"] = next(iter(claims), None)
    key = st.selectbox(
        "Claim", list(claims), key="w_claim", format_func=lambda k: claims[k][1].claim.sentence
    )
    if key is None:
        return
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
        "the size of the effect on other models; a null that nobody thought of is not in the picture.",
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


def knock_code(
    worker: StreamWorker, question: str, layers: tuple[int, int], span: tuple[int, int] | None,
    roles: tuple[Role, ...], answer: str, draws: int,
) -> str:  # fmt: skip
    """Python that brings a new stream as far as this one is, and does the same to it."""
    hidden = ", ".join(f"Role.{r.name}" for r in roles)
    return (
        snippets.WORKBENCH
        + worker.snippet(
            "from dashboards.parts.readings import knock_out", "from hermes_lab import figures", "from hermes_lab.tokens import Role"
        )
        + f"\nreading = knock_out(\n    session, {question!r}, range({layers[0]}, {layers[1] + 1}), frames={span}, "
        f"roles=({hidden},),\n    answer={answer!r}, draws={draws},\n)\n"
        'figures.knockout_bars(reading.targeted, reading.random, ["logit", "log-probability"]).show()'
    )  # fmt: skip


def span_of(label: str, count: int, first: tuple[int, int], *, key: str) -> tuple[int, int]:
    """The first and the last of 0 ... count - 1 that the person chose; no slider where there is but one."""
    if count < 2:
        return 0, 0
    low, high = st.session_state[state.lasting(key, first)]
    if high >= count:  # of a longer stream, or a deeper model
        st.session_state[key] = min(low, count - 1), count - 1
    return st.slider(label, 0, count - 1, key=key)


def knockout() -> None:
    """Hide tokens of the running stream from a question, beside as many random ones."""
    about(
        "how the answer's logit moves when the question cannot attend to chosen tokens in chosen layers, beside hiding as "
        "many random ones in the same layers.",
        "what would have been remembered without them: they were in the cache when later tokens were computed.",
    )
    worker = things().worker
    if worker is None or not worker.alive or worker.latest().snapshot is None:
        st.info(
            "Start a stream on the Live page (Run a model); its memory can then be knocked out here."
        )
        return
    snapshot = worker.latest().snapshot
    assert snapshot is not None
    layers, frames = len(snapshot.held), snapshot.frames_seen
    state.lasting("knock-question", "What was the first object?")
    question = st.text_input("Question", key="knock-question")
    left, right = st.columns(2)
    with left:
        low, high = span_of("Layers", layers, (0, layers - 1), key="knock-layers")
    with right:
        first, last = span_of(
            "Frames", frames, (3 * (frames - 1) // 4, frames - 1), key="knock-frames"
        )
    one, two, three = st.columns(3)
    state.lasting("knock-role", next(iter(ROLES)))
    role = one.selectbox(
        "Tokens", list(ROLES), key="knock-role", help="Frames count for video tokens only."
    )
    state.lasting("knock-answer", "")
    answer = two.text_input("Answer to follow", key="knock-answer", placeholder="the likeliest one")
    state.lasting("knock-draws", 8)
    draws = int(three.number_input("Random draws", 3, 64, key="knock-draws"))
    if st.button("Knock out", type="primary", key="knock-go"):
        from dashboards.parts.readings import knock_out

        span = (first, last) if role == "video" else None
        with st.spinner("Reading the answer with and without the tokens ..."):
            try:
                st.session_state["knock-result"] = worker.submit(
                    lambda s: knock_out(
                        s,
                        question,
                        range(low, high + 1),
                        frames=span,
                        roles=ROLES[role],
                        answer=answer,
                        draws=draws,
                    )
                ).result(120)
                st.session_state["knock-code"] = knock_code(
                    worker, question, (low, high), span, ROLES[role], answer, draws
                )
            except (LabError, TimeoutError) as error:
                st.session_state.pop("knock-result", None)
                refuse(str(error) or "The stream is busy; pause it and try again.")
    reading = st.session_state.get("knock-result")
    if reading is None:
        return
    worse = int((reading.random[:, 1] <= reading.targeted[1]).sum())
    st.markdown(
        f"With everything: **{plain(reading.answer.strip() or '(space)')}** (logit {reading.logit:.2f}, log-probability "
        f"{reading.log_prob:.2f}). Without the chosen tokens the first word is **{plain(reading.after.strip() or '(space)')}**, and "
        f"the log-probability moves by {reading.targeted[1]:+.2f}. Of {len(reading.random)} random sets of the same size, "
        f"{worse} move it down as far or further. Hidden a layer: {min(reading.hidden_tokens)} to {max(reading.hidden_tokens)} tokens."
    )
    labels = ["logit", "log-probability"]
    chart(
        figures.knockout_bars(reading.targeted, reading.random, labels), key="knock-chart", name="knockout",
        alt="Change of the answer's logit under the chosen and under random knockouts",
        code=st.session_state["knock-code"],
        rows=(
            ("set", "delta_logit", "delta_log_prob"),
            [("chosen", *reading.targeted), *((f"random {n}", *row) for n, row in enumerate(reading.random))],
        ),
    )  # fmt: skip

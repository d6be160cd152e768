"""The parts of the policy lab: what to compare, and what came out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from dashboards.lab import contest
from dashboards.lab.contest import Contest
from dashboards.live.sources import Source, source_picker
from dashboards.parts import keys, snippets, state
from dashboards.parts.canvas import draw_strip
from dashboards.parts.controls import model_named, model_picker, policy_picker
from dashboards.parts.job import Job, Progress
from dashboards.parts.page_parts import about, caution, chart, offer, refuse
from dashboards.parts.plain_text import code, plain
from dashboards.parts.policy_text import full_spec
from dashboards.parts.snippets import literal
from dashboards.parts.store import Store
from hermes_lab import figures, policies
from hermes_lab.errors import LabError
from hermes_lab.figures.theme import STATE_WORDS
from hermes_lab.files import write_text
from hermes_lab.policies import Policy
from hermes_lab.recording import TokenState
from hermes_lab.worlds import World

_FILE = re.compile(r"[a-z][a-z0-9_]{0,39}")
START = "hermes | snapkv"
TICK_S = 1.0
QUESTION = "what was the first object"
NO_QUESTION = "-"  # in a link, where nothing stands for the usual one


@dataclass(frozen=True)
class Recipes:
    """Python that encodes the first stream for `session.replay(policy)`, and that holds the contest again as `result`."""

    replay: str
    again: str


Outcome = tuple[Contest, Recipes]


@dataclass(frozen=True)
class Form:
    """What was chosen; `start` where Compare was pressed."""

    start: bool
    model: str
    source: Source
    contestants: dict[str, Policy]
    budget: int
    chunk: int
    streams: int
    questions: tuple[str, ...]

    def work(self) -> Callable[[Progress], Outcome]:
        """The contest as a job."""
        from dashboards.parts.models import shared_lab

        def run(progress: Progress) -> Outcome:
            progress(0.0, f"loading {self.model}")
            worlds: list[World] = []
            if self.source.world is not None:
                seed, frames, camera = self.source.world
                worlds = [World.generate(seed + n, frames, camera) for n in range(self.streams)]
            result = contest.hold(
                shared_lab(model_named(self.model)), self.contestants, self.budget, source=self.source.path, fps=1.0,
                chunk_frames=self.chunk, worlds=worlds, questions=self.questions, progress=progress,
                max_frames=self.source.max_frames,
            )  # fmt: skip
            return result, self.recipes()

        return run

    def recipes(self) -> Recipes:
        """Python for what will come out."""
        first, worlds = self.source.path, []
        if self.source.world is not None:
            seed, frames, camera = self.source.world
            first = f"world:seed={seed},frames={frames},camera={camera}"
            worlds = [(seed + n, frames, camera) for n in range(self.streams)]
        model = model_named(self.model)
        replay = snippets.stream(
            first, model, "full", chunk_frames=self.chunk, max_frames=self.source.max_frames, keep_visual=True,
            imports=("from hermes_lab import figures", "from hermes_lab.recording import Recording"),
        )  # fmt: skip
        again = snippets.contest(
            self.source.path, model, {n: full_spec(p.config()) for n, p in self.contestants.items()}, self.budget,
            chunk_frames=self.chunk, worlds=worlds, questions=self.questions, max_frames=self.source.max_frames,
        )  # fmt: skip
        return Recipes(
            f"from datetime import datetime\nfrom pathlib import Path\n\n{replay}", again
        )


def form(view: state.ViewState) -> Form | None:
    """What to compare; None where the choice is not complete."""
    source = source_picker(view)
    model = model_picker(keys.MODEL, view.model)
    specs = [s.strip() for s in (view.policy if "|" in view.policy else START).split("|")][:4]
    left, right = st.columns(2)
    state.lasting(keys.LAB_BUDGET, _budget_of(specs[0]))
    state.lasting(keys.LAB_CHUNK, min(max(view.chunk or 8, 1), 256))
    budget = int(left.number_input("Budget per layer", 4, 1_000_000, step=16, key=keys.LAB_BUDGET))
    chunk = int(right.number_input("Frames per chunk", 1, 256, key=keys.LAB_CHUNK))
    state.lasting(keys.LAB_COUNT, min(max(len(specs), 2), 4))
    count = st.segmented_control("Policies", [2, 3, 4], key=keys.LAB_COUNT) or 2
    contestants: dict[str, Policy] = {}
    for n, tab in enumerate(st.tabs([f"Policy {n + 1}" for n in range(count)])):
        with tab:
            spec = specs[n] if n < len(specs) else "fifo"
            policy, name = policy_picker(keys.lab_policy(n), spec, budget=budget)
            if policy is not None:
                contestants[_distinct(name, contestants)] = policy
                save(policy, f"lab-save-{n}")
    streams = 1
    questions: tuple[str, ...] = ()
    if source is not None and source.world is not None:
        state.lasting(keys.LAB_STREAMS, min(max(view.worlds or 3, 1), 32))
        streams = int(
            st.number_input(
                "Worlds (this seed and the next ones)", 1, 32, key=keys.LAB_STREAMS,
                help="Accuracy has an interval from three worlds on; whole worlds are resampled.",
            )
        )  # fmt: skip
    else:
        state.lasting(keys.LAB_QUESTIONS, _questions_of(view.questions))
        text = st.text_area("Questions, one per line", key=keys.LAB_QUESTIONS)
        questions = tuple(q.strip() for q in text.splitlines() if q.strip())[:8]
        state.write(
            questions="" if questions == (QUESTION,) else "\n".join(questions) or NO_QUESTION
        )
    complete = source is not None and len(contestants) == count
    start = st.button(
        "Compare", type="primary", width="stretch", disabled=not complete, key="lab-start"
    )
    state.write(
        model=model, source=source.spec if source else "",
        policy=" | ".join(full_spec(p.config()) for p in contestants.values()), chunk=chunk, worlds=streams,
    )  # fmt: skip
    if source is None or not complete:
        return None
    return Form(start, model, source, contestants, budget, chunk, streams, questions)


def _questions_of(linked: str) -> str:
    """What a link asks, one question per line."""
    return "" if linked == NO_QUESTION else linked or QUESTION


def _budget_of(spec: str) -> int:
    """The budget that a link's first policy has; every policy of the lab gets the same one."""
    try:
        budget = getattr(policies.get(spec), "budget_tokens", None)
    except LabError:
        budget = None
    return (
        min(max(budget, 4), 1_000_000)
        if isinstance(budget, int) and "budget_tokens" in spec
        else 128
    )


def _distinct(name: str, taken: dict[str, Policy]) -> str:
    label, n = name, 2
    while label in taken or label in contest.COMPANIONS:
        label, n = f"{name} ({n})", n + 1
    return label


def save(policy: Policy, key: str) -> None:
    """The policy as Python: shown, and written beside the recordings under a name."""
    spec = full_spec(policy.config())
    with st.expander("As Python, save"):
        st.code(policy_code(spec), language="python")
        name = st.text_input("Save as", policy.name, key=f"{key}-name")
        if st.button("Save", key=key):
            if not _FILE.fullmatch(name):
                st.error("A saved policy's name takes small letters, digits and underscores.")
                return
            path = Store.from_environment().root / "policies" / f"{name}.py"
            try:
                write_text(path, policy_code(spec))
            except OSError as error:
                refuse(f"{str(path)!r} cannot be written ({error.strerror}).")
            else:
                st.success(f"Saved to {code(path)}.")


def policy_code(spec: str) -> str:
    """A file that makes the policy."""
    return f'"""A retention policy, saved from the policy lab."""\n\nfrom hermes_lab import policies\n\npolicy = policies.get({spec!r})\n'


def progress(job: Job[Outcome]) -> None:
    """How far the contest is."""

    @st.fragment(run_every=TICK_S)
    def bar() -> None:
        if not job.running:
            st.rerun(scope="app")
        share, what = job.progress
        st.progress(share, text=plain(what))

    bar()
    if st.button("Cancel", key="lab-cancel"):
        job.cancel()
        st.rerun()


def results(result: Contest, recipes: Recipes) -> None:
    """Everything that came out, numbers first."""
    numbers(result, recipes)
    if result.accuracy:
        accuracy(result)
    st.subheader("What they keep", anchor=False)
    agreement(result)
    strips(result, recipes)
    st.subheader("What it costs", anchor=False)
    costs(result, recipes)
    answers(result, recipes)


def numbers(result: Contest, recipes: Recipes) -> None:
    rows = [
        {
            "policy": run.name,
            "fields": run.spec,
            "cache at the end (KiB)": round(run.cache_bytes[-1] / 1024, 1),
            "cache at most (KiB)": round(run.cache_bytes.max() / 1024, 1),
            "median TTFT (ms)": round(1000 * run.median_ttft_s, 1) if run.asked else None,
            "right answers": _right(run),
        }
        for run in result.runs
    ]
    st.dataframe(rows, hide_index=True, width="stretch", key="lab-table")
    offer(
        key="lab-table-files", name="policies", rows=(tuple(rows[0]), [tuple(r.values()) for r in rows]),
        code=f"{recipes.again}\nfor run in result.runs:\n"
        "    print(run.name, run.spec, run.cache_bytes[-1], run.cache_bytes.max(), run.median_ttft_s)",
    )  # fmt: skip
    for run in result.runs:
        if run.problem:
            caution(f"{run.name}: {run.problem}")
    about(
        "all policies on the same encoded frames with the same budget in tokens; full keeps everything, as the ceiling.",
        "speed on other hardware; a policy that keeps fewer bytes than it may is at a disadvantage, so read the bytes first.",
    )


def _right(run: contest.PolicyRun) -> str:
    known = [a for a in run.asked if a.expected is not None]
    return f"{sum(a.text == a.expected for a in known)} of {len(known)}" if known else "-"


def accuracy(result: Contest) -> None:
    if result.streams < contest.LEAST_STREAMS:
        st.caption(
            f"{result.streams} stream(s): too few for intervals; choose at least {contest.LEAST_STREAMS} worlds."
        )
    chart(
        figures.accuracy_bars(result.accuracy, chance=result.chance), key="lab-accuracy", name="accuracy-by-horizon",
        alt="Accuracy of every policy by memory horizon, with intervals over streams",
        code=f"from hermes_lab import figures\n\naccuracy = {literal(result.accuracy)}\n"
        f"figures.accuracy_bars(accuracy, chance={literal(result.chance)}).show()",
        rows=(
            ("policy", "horizon", "accuracy", "low", "high", "majority_answer"),
            [(p, h, *v, result.chance.get(h)) for p, by in result.accuracy.items() for h, v in by.items()],
        ),
    )  # fmt: skip
    about(
        f"exact answers by how far back the evidence lies, with 95 % intervals over {result.streams} streams; dashed: "
        "always giving the commonest answer.",
        "what happens on filmed video; and overlapping intervals do not prove that two policies are equal.",
    )


def agreement(result: Contest) -> None:
    names = [run.name for run in result.runs]
    values = result.agreement()
    code = f"from hermes_lab import figures\n\nfigures.agreement_map({literal(values.round(4))}, {names!r}).show()"
    chart(
        figures.agreement_map(values, names), key="lab-agreement", name="agreement",
        alt="Jaccard similarity of what each two policies keep", code=code,
        rows=(("policy", *names), [(n, *row) for n, row in zip(names, values.tolist(), strict=True)]),
    )  # fmt: skip
    about(
        "for each pair of policies the shared visual tokens over those that either holds at the end of the first stream.",
        "who is right; merged content is not counted, only tokens that are still themselves.",
    )


def strips(result: Contest, recipes: Recipes) -> None:
    """Retention strips side by side."""
    columns = st.columns(2)
    for n, run in enumerate(result.runs):
        with columns[n % 2]:
            st.markdown(f"**{plain(run.name)}**")
            draw_strip(
                run.strip,
                key=f"lab-strip-{n}",
                on_cell=lambda: None,
                row_px=max(4, 96 // run.strip.layers),
            )
            offer(
                key=f"lab-strip-{n}-files", name=f"strip-{n}",
                code=f"{recipes.replay}\n{snippets.folder_line('replayed')}"
                f"with session.replay({run.spec!r}, record=folder):\n    pass\n"
                "strip = figures.recorded_strip(Recording.open(folder))\nfigures.retention_figure(strip).show()",
                html=lambda run=run: figures.to_html(figures.retention_figure(run.strip), run.name),
                svg=lambda run=run: figures.strip_svg(run.strip),
                csv_text=lambda run=run: figures.strip_csv(run.strip),
            )  # fmt: skip
    words = ", ".join(STATE_WORDS[s] for s in TokenState if s is not TokenState.ABSENT)
    about(
        f"every token of the first stream, {words}, layer by layer.",
        "anything about the other streams.",
    )


def costs(result: Contest, recipes: Recipes) -> None:
    curves = {run.name: (run.time_s, run.cache_bytes) for run in result.runs}
    left, right = st.columns(2)
    with left:
        chart(
            figures.memory_curves(curves), key="lab-memory", name="memory", alt="KV cache of every policy over the stream",
            code=f"from hermes_lab import figures\n\ncurves = {literal(curves)}\nfigures.memory_curves(curves).show()",
            rows=(("policy", "time_s", "cache_bytes"), [(n, t, b) for n, (x, y) in curves.items() for t, b in zip(x, y, strict=True)]),
        )  # fmt: skip
    first = {r.name: [a for a in r.asked if a.stream == 0] for r in result.runs}
    ttft = {n: ([a.time_s for a in of], [a.ttft_s for a in of]) for n, of in first.items() if of}
    with right:
        if ttft:
            chart(
                figures.ttft_curves(ttft), key="lab-ttft", name="ttft", alt="Time to first token of every answer by policy",
                code=f"{recipes.again}\ncurves = {{}}\nfor run in result.runs:\n    first = [a for a in run.asked if a.stream == 0]\n"
                "    if first:\n        curves[run.name] = ([a.time_s for a in first], [a.ttft_s for a in first])\n"
                "figures.ttft_curves(curves).show()",
                rows=(("policy", "time_s", "ttft_s"), [(n, t, s) for n, (x, y) in ttft.items() for t, s in zip(x, y, strict=True)]),
            )  # fmt: skip
    about(
        "bytes of keys and values after every chunk, and the wait for the first token of each answer, first stream.",
        "the cost of encoding, which all share here, and of policies' own reads, which are part of a step.",
    )


def answers(result: Contest, recipes: Recipes) -> None:
    """The same questions side by side."""
    st.subheader("Answers", anchor=False)
    first = result.runs[0].asked
    if not first:
        st.info("No question was asked.")
        return
    rows = []
    for n, asked in enumerate(first[:200]):
        row: dict[str, object] = {
            "stream": asked.stream,
            "at (s)": asked.time_s,
            "question": asked.question,
        }
        if asked.expected is not None:
            row |= {"horizon": asked.horizon, "right answer": asked.expected}
        row |= {run.name: run.asked[n].text for run in result.runs}
        rows.append(row)
    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        key="lab-answers",
        height=min(420, 38 + 35 * len(rows)),
    )
    offer(
        key="lab-answers-files", name="answers",
        code=f"{recipes.again}\nfor run in result.runs:\n    for asked in run.asked:\n"
        "        print(run.name, asked.time_s, asked.question, asked.text, asked.expected)",
        rows=(tuple(rows[0]), [tuple(r.values()) for r in rows]),
    )  # fmt: skip

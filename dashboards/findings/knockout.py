"""The knockout on the Findings page: hide tokens of the running stream from a question, beside random ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from dashboards.parts import keys, snippets, state
from dashboards.parts.keys import Slot
from dashboards.parts.page_parts import about, chart, refuse
from dashboards.parts.plain_text import plain
from dashboards.parts.resources import session_resources
from hermes_lab import figures
from hermes_lab.brief import span_text
from hermes_lab.errors import LabError
from hermes_lab.tokens import Role

if TYPE_CHECKING:
    from dashboards.live.worker import StreamWorker
    from dashboards.parts.readings import KnockoutReading

ROLES = {
    "video": (Role.VISUAL, Role.SUMMARY),
    "summary tokens": (Role.SUMMARY,),
    "system prefix": (Role.SYSTEM,),
}
LONGEST_S = 120
"""How long a page waits for its stream to do it."""


@dataclass(frozen=True)
class Knockout:
    """What is hidden from which question; answer: the word to follow, "" for the likeliest one.

    Attributes:
        layers: first and last; frames: first and last, or None where the roles have no frames.
    """

    question: str
    layers: tuple[int, int]
    frames: tuple[int, int] | None
    roles: tuple[Role, ...]
    answer: str
    draws: int

    def code(self, worker: StreamWorker) -> str:
        """Python that brings a new stream as far as this one is, and does the same to it."""
        hidden = ", ".join(f"Role.{r.name}" for r in self.roles)
        return (
            snippets.WORKBENCH
            + worker.snippet(
                "from dashboards.parts.readings import knock_out", "from hermes_lab import figures", "from hermes_lab.tokens import Role"
            )
            + f"\nreading = knock_out(\n    session, {self.question!r}, range({self.layers[0]}, {self.layers[1] + 1}), "
            f"frames={self.frames}, roles=({hidden},),\n    answer={self.answer!r}, draws={self.draws},\n)\n"
            'figures.knockout_bars(reading.targeted, reading.random, ["logit", "log-probability"]).show()'
        )  # fmt: skip

    def read(self, worker: StreamWorker) -> KnockoutReading:
        """Do it, between two chunks of the stream.

        Raises:
            LabError: as for `knock_out`, or the stream has ended.
            TimeoutError: the stream did not come to it.
        """
        from dashboards.parts.readings import knock_out  # torch takes seconds to import

        first, last = self.layers
        return worker.submit(
            lambda session: knock_out(
                session, self.question, range(first, last + 1), frames=self.frames, roles=self.roles,
                answer=self.answer, draws=self.draws,
            )
        ).result(LONGEST_S)  # fmt: skip


RESULT: Slot[tuple[KnockoutReading, str]] = Slot(keys.KNOCKOUT_RESULT)
"""The last reading, and Python that does it again."""


def panel() -> None:
    """Hide tokens of the running stream from a question, beside as many random ones."""
    about(
        "how the answer's logit moves when the question cannot attend to chosen tokens in chosen layers, beside hiding as "
        "many random ones in the same layers.",
        "what would have been remembered without them: they were in the cache when later tokens were computed.",
    )
    worker = session_resources().worker
    snapshot = worker.latest().snapshot if worker is not None and worker.alive else None
    if worker is None or snapshot is None:
        st.info(
            "Start a stream on the Live page (Run a model); its memory can then be knocked out here."
        )
        return
    knockout = chosen(len(snapshot.held), snapshot.frames_seen)
    if st.button("Knock out", type="primary", key="knock-go"):
        RESULT.pop()
        with st.spinner("Reading the answer with and without the tokens ..."):
            try:
                RESULT.set((knockout.read(worker), knockout.code(worker)))
            except (LabError, TimeoutError) as error:
                refuse(str(error) or "The stream is busy; pause it and try again.")
    found = RESULT.get()
    if found is not None:
        result(*found)


def chosen(layers: int, frames: int) -> Knockout:
    """What the person chose to hide, of a stream with so many layers and frames."""
    state.lasting(keys.KNOCKOUT_QUESTION, "What was the first object?")
    question = st.text_input("Question", key=keys.KNOCKOUT_QUESTION)
    left, right = st.columns(2)
    with left:
        chosen_layers = span_of("Layers", layers, (0, layers - 1), key=keys.KNOCKOUT_LAYERS)
    with right:
        last_quarter = (3 * (frames - 1) // 4, frames - 1)
        chosen_frames = span_of("Frames", frames, last_quarter, key=keys.KNOCKOUT_FRAMES)
    one, two, three = st.columns(3)
    state.lasting(keys.KNOCKOUT_ROLE, next(iter(ROLES)))
    role = one.selectbox(
        "Tokens", list(ROLES), key=keys.KNOCKOUT_ROLE, help="Frames count for video tokens only."
    )
    state.lasting(keys.KNOCKOUT_ANSWER, "")
    answer = two.text_input(
        "Answer to follow", key=keys.KNOCKOUT_ANSWER, placeholder="the likeliest one"
    )
    state.lasting(keys.KNOCKOUT_DRAWS, 8)
    draws = int(three.number_input("Random draws", 3, 64, key=keys.KNOCKOUT_DRAWS))
    return Knockout(
        question, chosen_layers, chosen_frames if role == "video" else None, ROLES[role], answer, draws
    )  # fmt: skip


def span_of(label: str, count: int, first: tuple[int, int], *, key: str) -> tuple[int, int]:
    """The first and the last of 0 ... count - 1 that the person chose; no slider where there is but one."""
    if count < 2:
        return 0, 0
    low, high = st.session_state[state.lasting(key, first)]
    if high >= count:  # of a longer stream, or a deeper model
        st.session_state[key] = min(low, count - 1), count - 1
    st.slider(label, 0, count - 1, key=key)
    return st.session_state[key]


def result(reading: KnockoutReading, code: str) -> None:
    """What the answer lost, in a sentence and as bars."""
    worse = int((reading.random[:, 1] <= reading.targeted[1]).sum())
    st.markdown(
        f"With everything: **{plain(reading.answer.strip() or '(space)')}** (logit {reading.logit:.2f}, log-probability "
        f"{reading.log_prob:.2f}). Without the chosen tokens the first word is **{plain(reading.after.strip() or '(space)')}**, and "
        f"the log-probability moves by {reading.targeted[1]:+.2f}. Of {len(reading.random)} random sets of the same size, "
        f"{worse} move it down as far or further. Hidden per layer: {span_text(reading.hidden_tokens)} tokens."
    )
    labels = ["logit", "log-probability"]
    chart(
        figures.knockout_bars(reading.targeted, reading.random, labels), key="knock-chart", name="knockout",
        alt="Change of the answer's logit under the chosen and under random knockouts", code=code,
        rows=(
            ("set", "delta_logit", "delta_log_prob"),
            [("chosen", *reading.targeted), *((f"random {n}", *row) for n, row in enumerate(reading.random))],
        ),
    )  # fmt: skip

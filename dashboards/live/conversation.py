"""Questions to a stream, their answers, and what the answers attended to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from dashboards.live.moment import Moment
from dashboards.parts.canvas import show_picture
from dashboards.parts.page_parts import chart
from dashboards.parts.plain_text import plain, printable
from hermes_lab import figures
from hermes_lab.brief import bytes_text
from hermes_lab.recording import Recording
from hermes_lab.snapshot import Answer

if TYPE_CHECKING:
    from dashboards.live.stream_view import StreamView


def live_answers(moment: Moment, view: StreamView) -> None:
    """The last questions to the running stream, newest first."""
    for place, answer in reversed([*enumerate(view.answers)][-4:]):
        conversation(answer, moment, place)


def conversation(answer: Answer, moment: Moment | None, place: int = 0) -> None:
    """One question, its answer, its cost, and the frames that it attended to most."""
    with st.chat_message("user"):
        st.text(printable(answer.question))
    with st.chat_message("assistant"):
        st.text(printable(answer.text) or "(empty answer)")
        tops = ", ".join(f"{plain(t.strip() or '(space)')} {p:.0%}" for t, p in answer.top[:3])
        st.caption(
            f"At {answer.time_s:.0f} s. TTFT {1000 * answer.ttft_s:.0f} ms over {bytes_text(answer.cache_bytes)} of "
            f"cache. Likeliest first words: {tops}."
        )
        if answer.attention is not None and moment is not None:
            attended(answer, moment, place)


def attended(answer: Answer, moment: Moment, place: int) -> None:
    """The frames with most of the question's attention, as pictures."""
    assert answer.attention is not None
    mass = figures.frame_shares(answer.attention, sinks=False).mean((0, 1))
    best = [int(f) for f in np.argsort(-mass, kind="stable")[:6] if mass[f] > 0]
    pictures = {f: p for f in sorted(best) if (p := moment.picture(f)) is not None}
    if not pictures:
        return
    best = list(pictures)
    full = np.ones((len(best), 1, 1), np.float32)
    captions = [f"{f}: {mass[f]:.0%}" for f in best]
    picture, _ = figures.filmstrip(list(pictures.values()), full, captions, height_px=64)
    show_picture(
        picture,
        key=f"live-attended-{answer.step}-{hash(answer.question)}-{place}",
        alt=f"Frames that the question attended to most: {', '.join(captions)}",
        caption="Frames with most attention (mean over layers and heads; the atlas shows each head).",
    )


def recorded_answers(recording: Recording) -> None:
    """Questions that were asked while the recording was made."""
    if not recording.answers:
        return
    with st.expander(f"Questions asked in this recording ({len(recording.answers)})"):
        for answer in recording.answers:
            conversation(answer, None)
        curve = {
            "answers": (
                [a.time_s for a in recording.answers],
                [a.ttft_s for a in recording.answers],
            )
        }
        chart(
            figures.ttft_curves(curve),
            key="live-ttft",
            name="ttft",
            alt="Time to first token of the recorded answers over stream time",
            code=f"""
from hermes_lab import figures
from hermes_lab.brief import bytes_text
from hermes_lab.recording import Recording

answers = Recording.open({str(recording.folder)!r}).answers
figures.ttft_curves({{"answers": ([a.time_s for a in answers], [a.ttft_s for a in answers])}}).show()
""",
            rows=(
                ("time_s", "ttft_s", "question", "text"),
                [(a.time_s, a.ttft_s, a.question, a.text) for a in recording.answers],
            ),
        )

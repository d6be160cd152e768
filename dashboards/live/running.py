"""Running a model on the Live page: what to run, its controls while it runs, and its newest view."""

from __future__ import annotations

from concurrent.futures import Future, wait
from datetime import datetime

import streamlit as st

from dashboards.live import panels
from dashboards.live.arriving import TICK_S, live_arriving
from dashboards.live.conversation import live_answers
from dashboards.live.files import running_files
from dashboards.live.moment import Moment, live_moment
from dashboards.live.sources import source_picker
from dashboards.live.stream_view import UNPACED, StreamSettings, StreamView
from dashboards.live.worker import StreamWorker
from dashboards.parts import keys, snippets, state
from dashboards.parts.controls import model_named, model_picker, policy_picker
from dashboards.parts.keys import Slot, remembered
from dashboards.parts.page_parts import refuse
from dashboards.parts.policy_text import full_spec
from dashboards.parts.resources import session_resources
from dashboards.parts.store import Store
from hermes_lab.errors import LabError
from hermes_lab.worlds import bundled

IDLE_TICK_S = 1.0
HEARD_S = 0.5
"""So long a page waits for what it told the stream; after that it is drawn anew when the stream has done it."""
SPEEDS = {"1x": 1.0, "4x": 4.0, "8x": 8.0, "16x": 16.0, "as fast as it goes": UNPACED}
USUAL_SPEED = "4x"
USUAL_POLICY = "hermes(budget_tokens=256)"
POLICY_ASKED: Slot[str] = Slot(keys.LIVE_POLICY_ASKED)
"""The policy that the running stream was last asked to use, in one line of text."""
SPEED_SET: Slot[tuple[int, str]] = Slot(keys.LIVE_SPEED_SET)
"""Which stream was last told which speed."""


def start_form(view: state.ViewState) -> None:
    """Choose what to run, and run it."""
    source = source_picker(view)
    model = model_picker(keys.MODEL, view.model)
    linked = "" if "|" in view.policy else view.policy  # several are the policy lab's
    policy, name = policy_picker(keys.LIVE_POLICY, linked or USUAL_POLICY)
    left, right = st.columns(2)
    state.lasting(keys.LIVE_CHUNK, min(max(view.chunk or 4, 1), 256))
    chunk = left.number_input("Frames per chunk", 1, 256, key=keys.LIVE_CHUNK)
    state.lasting(keys.LIVE_FPS, min(max(view.fps or 1.0, 0.1), 30.0))
    fps = float(right.number_input("Frames per second", 0.1, 30.0, key=keys.LIVE_FPS))
    state.lasting(keys.LIVE_SPEED, view.speed if view.speed in SPEEDS else USUAL_SPEED)
    speed = st.selectbox("Speed", list(SPEEDS), key=keys.LIVE_SPEED)
    state.lasting(keys.LIVE_RECORD, True)
    record = st.toggle("Record", key=keys.LIVE_RECORD, help="Needed to ask why on the other pages.")
    running = session_resources().worker
    shown = speed
    if running is not None:
        shown = st.session_state[state.lasting(keys.LIVE_SPEED_NOW, speed)]
    state.write(
        model=model,
        policy=full_spec(policy.config()) if policy else name,
        source=source.spec if source else "",
        chunk=int(chunk),
        fps=None if fps == 1.0 else fps,
        speed="" if shown == USUAL_SPEED else shown,
    )
    start, stop = st.columns(2)
    if start.button(
        "Start", type="primary", width="stretch", disabled=policy is None or source is None
    ):
        assert policy is not None and source is not None
        try:
            store = Store.from_environment()
            folder = store.reserve(f"live-{datetime.now():%Y%m%d-%H%M%S}") if record else None
            settings = StreamSettings(
                source=source.path, label=source.label, model=model_named(model), policy=policy.config(),
                fps=fps, chunk_frames=int(chunk), speed=SPEEDS[speed],
                record=folder, record_level="rows",
                max_frames=source.max_frames,
            )  # fmt: skip
            session_resources().start(settings)
            POLICY_ASKED.set(full_spec(policy.config()))
            state.forget(keys.LIVE_SPEED_NOW)  # this stream begins at the speed of the form
            if folder is not None:
                state.change_recording(folder.name)
        except LabError as error:
            refuse(error)
        else:
            st.rerun()  # the controls of a running stream were drawn for none
    if stop.button("Stop", width="stretch", disabled=running is None):
        session_resources().stop()
        st.rerun()
    if policy is not None:
        with st.container():
            change_policy(full_spec(policy.config()), policy.config())
        with st.expander("Copy as Python"):
            code = snippets.stream(
                source.path if source else str(bundled.clip_path()), _loadable(model), full_spec(policy.config()),
                fps=fps, chunk_frames=int(chunk), max_frames=source.max_frames if source else None,
                record="stream" if record else "",
            )  # fmt: skip
            code += "print(session.ask('what was the first object').text)\nsession.close()"
            st.code(code, language="python")


def _loadable(model: str) -> str:
    """What to load for a name on the page; the name itself where it is not offered, which Start says."""
    try:
        return model_named(model)
    except LabError:
        return model


def change_policy(spec: str, config: dict[str, object]) -> None:
    """In mid-stream the policy above takes over from the next decision on."""
    worker = session_resources().worker
    if worker is None or not worker.alive:
        return
    now = worker.latest()
    asked = spec == POLICY_ASKED.get() and now.error is None
    if asked or spec == now.policy:
        return
    st.info("The policy above differs from the one that runs.")
    if st.button("Use it from the next decision on", key="live-change", width="stretch"):
        worker.set_policy(config)
        POLICY_ASKED.set(spec)
        st.rerun()


def heard(done: Future[None]) -> None:
    """Let the stream do what it was told, so that the page shows it, unless the model is busy for longer."""
    wait([done], HEARD_S)


def live_controls(worker: StreamWorker) -> None:
    buttons = st.columns([1, 1, 1, 2, 4], vertical_alignment="bottom")
    if buttons[0].button("Play", icon=":material/play_arrow:", key="live-play", width="stretch"):
        heard(worker.play())
    if buttons[1].button("Pause", icon=":material/pause:", key="live-pause", width="stretch"):
        heard(worker.pause())
    if buttons[2].button("Step", icon=":material/skip_next:", key="live-step", width="stretch"):
        heard(worker.step())
    state.lasting(keys.LIVE_SPEED_NOW, st.session_state[keys.LIVE_SPEED])
    speed = buttons[3].selectbox("Speed", list(SPEEDS), key=keys.LIVE_SPEED_NOW)
    if SPEED_SET.get() != (id(worker), speed):
        worker.set_speed(SPEEDS[speed])
        SPEED_SET.set((id(worker), speed))


def live(view: state.ViewState) -> None:
    """Run a model and draw the newest of its snapshots."""
    with st.sidebar:
        start_form(view)
    worker = session_resources().worker
    if worker is None:
        st.info(
            "Choose a source, a model and a policy on the left, then press **Start**. "
            "The model is loaded only then."
        )
        return
    live_controls(worker)
    # in the page itself it would make Streamlit scroll the page to its end, past the controls and the strip
    question = st.bottom.chat_input("Ask the stream something, at any time")
    if question:
        worker.ask(question)
    current = worker.latest()
    moment = moment_of(worker, current)
    record = worker.settings.record
    name = record.name if record else ""
    panels.messages(worker, current)
    place = st.container()  # what moves stands above its controls, which it obeys
    panels.filmstrip_controls(current.layers)
    panels.explained()
    panels.which_policy(current.policy, worker.settings.model)
    panels.clicked(moment, name)
    if moment is not None:
        live_answers(moment, current)
    drawn = words_of(current, moment)
    moving = is_moving(current)

    @st.fragment(run_every=TICK_S if moving else IDLE_TICK_S)
    def live_view() -> None:
        now = worker.latest()
        moment = moment_of(worker, now)
        if words_of(now, moment) != drawn:
            st.rerun(scope="app")
        arriving = live_arriving(now, worker.settings.chunk_frames)
        panels.tick(
            moment, arriving, panels.thumbnails_of(str(id(worker)), worker.picture), view=now
        )

    with place:
        live_view()
    running_files(worker)


def is_moving(view: StreamView) -> bool:
    return view.status in ("loading", "playing") or view.answering is not None


def moment_of(worker: StreamWorker, view: StreamView) -> Moment | None:
    """The newest moment, made once a step."""
    step = None if view.snapshot is None else view.snapshot.step
    return remembered(
        keys.MOMENT_SHOWN,
        (id(worker), step, len(view.answers), view.policy),
        lambda: live_moment(worker, view),
    )


def words_of(view: StreamView, moment: Moment | None) -> tuple[object, ...]:
    """What the page says in words beside the live view: it is drawn anew where this changes, and only then."""
    return (
        is_moving(view), view.status, view.error, view.notes, view.source_kind, view.policy, view.layers,
        len(view.answers), panels.chosen_state(moment),
    )  # fmt: skip

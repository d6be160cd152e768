"""Running a model on the Live page: what to run, its controls while it runs, and its newest view."""

from __future__ import annotations

import time
from datetime import datetime

import streamlit as st

from dashboards.live import panels as panels
from dashboards.live.arriving import TICK_S, live_way
from dashboards.live.conversation import live_answers
from dashboards.live.files import running_files
from dashboards.live.moment import Scene, live_scene
from dashboards.live.sources import source_picker
from dashboards.live.stream_view import UNPACED, StreamSettings, View
from dashboards.live.worker import StreamWorker
from dashboards.parts import snippets, state
from dashboards.parts.controls import model_named, model_picker, policy_picker
from dashboards.parts.page_parts import refuse
from dashboards.parts.policy_text import full_spec
from dashboards.parts.resources import things
from dashboards.parts.store import Store
from hermes_lab.errors import LabError
from hermes_lab.worlds import bundled

IDLE_TICK_S = 1.0
SPEEDS = {"1x": 1.0, "4x": 4.0, "8x": 8.0, "16x": 16.0, "as fast as it goes": UNPACED}
USUAL_SPEED = "4x"
USUAL_POLICY = "hermes(budget_tokens=256)"


def start_form(view: state.ViewState) -> None:
    """Choose what to run, and run it."""
    source = source_picker(view)
    model = model_picker("w_model", view.model)
    linked = "" if "|" in view.policy else view.policy  # several are the policy lab's
    policy, name = policy_picker("w_policy", linked or USUAL_POLICY)
    left, right = st.columns(2)
    state.lasting("live-chunk", min(max(view.chunk or 4, 1), 256))
    chunk = left.number_input("Frames a chunk", 1, 256, key="live-chunk")
    state.lasting("live-fps", min(max(view.fps or 1.0, 0.1), 30.0))
    fps = float(right.number_input("Frames a second", 0.1, 30.0, key="live-fps"))
    state.lasting("live-speed", view.speed if view.speed in SPEEDS else USUAL_SPEED)
    speed = st.selectbox("Speed", list(SPEEDS), key="live-speed")
    state.lasting("live-record", True)
    record = st.toggle("Record", key="live-record", help="Needed to ask why on the other pages.")
    running = things().worker
    shown = speed
    if running is not None:
        shown = st.session_state[state.lasting("live-speed-now", speed)]
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
            things().start(settings)
            st.session_state["live-policy"] = full_spec(policy.config())
            state.forget("live-speed-now")  # this stream begins at the speed of the form
            if folder is not None:
                state.change_recording(folder.name)
        except LabError as error:
            refuse(error)
        else:
            st.rerun()  # the controls of a running stream were drawn for none
    if stop.button("Stop", width="stretch", disabled=running is None):
        things().stop()
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
    worker = things().worker
    if worker is None or not worker.alive:
        return
    now = worker.latest()
    asked = spec == st.session_state.get("live-policy") and now.error is None
    if asked or spec == now.policy:
        return
    st.info("The policy above differs from the one that runs.")
    if st.button("Use it from the next decision on", key="live-change", width="stretch"):
        worker.set_policy(config)
        st.session_state["live-policy"] = spec
        st.rerun()


def live_controls(worker: StreamWorker) -> None:
    buttons = st.columns([1, 1, 1, 2, 4], vertical_alignment="bottom")
    if buttons[0].button("Play", icon=":material/play_arrow:", key="live-play", width="stretch"):
        worker.play()
        time.sleep(0.05)
    if buttons[1].button("Pause", icon=":material/pause:", key="live-pause", width="stretch"):
        worker.pause()
        time.sleep(0.05)
    if buttons[2].button("Step", icon=":material/skip_next:", key="live-step", width="stretch"):
        worker.step()
    state.lasting("live-speed-now", st.session_state["live-speed"])
    speed = buttons[3].selectbox("Speed", list(SPEEDS), key="live-speed-now")
    if st.session_state.get("live-speed-set") != (id(worker), speed):
        worker.set_speed(SPEEDS[speed])
        st.session_state["live-speed-set"] = (id(worker), speed)


def live(view: state.ViewState) -> None:
    """Run a model and draw the newest of its snapshots."""
    with st.sidebar:
        start_form(view)
    worker = things().worker
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
        time.sleep(0.05)
    current = worker.latest()
    scene = scene_of(worker, current)
    record = worker.settings.record
    name = record.name if record else ""
    panels.messages(worker, current)
    place = st.container()  # the stage stands above its controls, which it obeys
    panels.film_controls(current.layers)
    panels.explained()
    panels.which_policy(current.policy, worker.settings.model)
    panels.clicked(scene, name)
    if scene is not None:
        live_answers(scene, current)
    drawn = words_of(current, scene)
    moving = is_moving(current)

    @st.fragment(run_every=TICK_S if moving else IDLE_TICK_S)
    def stage() -> None:
        now = worker.latest()
        scene = scene_of(worker, now)
        if words_of(now, scene) != drawn:
            st.rerun(scope="app")
        way = live_way(now, worker.settings.chunk_frames)
        panels.tick(scene, way, panels.thumbnails_of(str(id(worker)), worker.picture), view=now)

    with place:
        stage()
    running_files(worker)


def is_moving(view: View) -> bool:
    return view.status in ("loading", "playing") or view.answering is not None


def scene_of(worker: StreamWorker, view: View) -> Scene | None:
    """The newest moment, made once a step."""
    step = None if view.snapshot is None else view.snapshot.step
    return panels.remembered(
        "scene-shown",
        (id(worker), step, len(view.answers), view.policy),
        lambda: live_scene(worker, view),
    )


def words_of(view: View, scene: Scene | None) -> tuple[object, ...]:
    """What the page says in words beside the stage: it is drawn anew where this changes, and only then."""
    return (
        is_moving(view), view.status, view.error, view.notes, view.source_kind, view.policy, view.layers,
        len(view.answers), panels.chosen_state(scene),
    )  # fmt: skip

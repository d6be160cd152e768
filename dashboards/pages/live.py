"""Live: watch a stream being remembered and forgotten - a recording played back, or a model running now."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime

import streamlit as st

from dashboards import live_panels as panels
from dashboards import state
from dashboards.controls import model_named, model_picker, policy_picker, policy_python
from dashboards.player import Player, index_at, next_step_s
from dashboards.resources import chosen_recording, retention_of, things
from dashboards.scene import live_scene, recorded_scene
from dashboards.sources import source_picker
from dashboards.store import Store
from dashboards.worker import UNPACED, StreamSettings, StreamWorker, spec_of
from hermes_lab.errors import LabError
from hermes_lab.recording import Recording

TICK_S = 0.2
IDLE_TICK_S = 1.0
SPEEDS = {"1x": 1.0, "4x": 4.0, "8x": 8.0, "16x": 16.0, "as fast as it goes": UNPACED}
REPLAY, RUN = "Replay a recording", "Run a model"


def replay_player(recording: Recording, view: state.ViewState) -> Player:
    """The needle of this recording; it starts at the step in the URL, or playing from the beginning."""
    key = f"player-{recording.folder}"
    if key not in st.session_state:
        end_s = float(recording.timeline.time_s[-1])
        player = Player(0.0, end_s, speed=max(8.0, end_s / 30), playing=False)
        if view.step is None:
            player = player.play(time.monotonic())
        else:
            steps = recording.timeline.step
            at = int(min(max(steps.searchsorted(view.step), 0), len(steps) - 1))
            player = replace(player, at_s=float(recording.timeline.time_s[at]))
        st.session_state[key] = player
    return st.session_state[key]


def replay_controls(recording: Recording, player: Player) -> Player:
    """Play, pause, step, speed and seek."""
    now = time.monotonic()
    buttons = st.columns([1, 1, 1, 2.2, 5], vertical_alignment="bottom")
    if buttons[0].button("Play", icon=":material/play_arrow:", key="replay-play", width="stretch"):
        player = player.play(now)
    if buttons[1].button("Pause", icon=":material/pause:", key="replay-pause", width="stretch"):
        player = player.pause(now)
    if buttons[2].button("Step", icon=":material/skip_next:", key="replay-step", width="stretch"):
        player = player.pause(now)
        player = player.seek(next_step_s(recording, player.position(now)), now)
    speeds = sorted({1.0, 4.0, 8.0, 32.0, round(max(8.0, player.end_s / 30), 1)})
    state.initial("replay-speed", player.speed if player.speed in speeds else 8.0)
    speed = buttons[3].selectbox(
        "Speed", speeds, key="replay-speed", format_func=lambda s: f"{s:g} stream seconds a second"
    )
    if speed != player.speed:
        player = player.with_speed(speed, now)
    if not player.playing:
        times = recording.timeline.time_s
        shown = index_at(recording, player.position(now))
        if len(times) > 1:
            st.session_state["replay-seek"] = shown
            buttons[4].select_slider(
                "After step",
                range(len(times)),
                key="replay-seek",
                format_func=lambda i: f"{i} ({times[i]:.0f} s)",
                on_change=seek,
                args=(recording,),
            )
        state.write(step=int(recording.timeline.step[shown]))
    else:
        buttons[4].caption("Pause to choose a step, click cells and share the link.")
    return player


def seek(recording: Recording) -> None:
    key = f"player-{recording.folder}"
    index = st.session_state["replay-seek"]
    player: Player = st.session_state[key]
    st.session_state[key] = player.seek(float(recording.timeline.time_s[index]), time.monotonic())


def replay(view: state.ViewState) -> None:
    """Play back a recording; no model is loaded."""
    with st.sidebar:
        recording = chosen_recording(view)
    if recording is None:
        return
    retention = retention_of(recording)
    player = replay_controls(recording, replay_player(recording, view))
    key = f"player-{recording.folder}"
    st.session_state[key] = player

    @st.fragment(run_every=TICK_S if player.playing else None)
    def stage() -> None:
        now = time.monotonic()
        needle: Player = st.session_state[key]
        if needle.playing and needle.ended(now):
            st.session_state[key] = needle.pause(now)
            st.rerun(scope="app")
        scene = recorded_scene(recording, retention, index_at(recording, needle.position(now)))
        panels.stage(scene, recording_name=state.read().recording, now_s=needle.position(now))

    stage()
    panels.recorded_answers(recording)
    panels.strip_offer(recording)


def start_form(view: state.ViewState) -> None:
    """Choose what to run, and run it."""
    source = source_picker(view)
    model = model_picker("w_model", view.model)
    policy, name = policy_picker("w_policy", view.policy or "hermes(budget_tokens=256)")
    left, right = st.columns(2)
    chunk = left.number_input("Frames a chunk", 1, 256, 4, key="live-chunk")
    fps = right.number_input("Frames a second", 0.1, 30.0, 1.0, key="live-fps")
    st.session_state.setdefault("live-speed", "4x")
    speed = st.selectbox("Speed", list(SPEEDS), key="live-speed")
    record = st.toggle("Record", True, key="live-record", help="Needed to ask why on the other pages.")
    running = things().worker
    state.write(
        model=model, policy=spec_of(policy.config()) if policy else name, source=source.spec if source else ""
    )
    start, stop = st.columns(2)
    if start.button("Start", type="primary", width="stretch", disabled=policy is None or source is None):
        assert policy is not None and source is not None
        try:
            store = Store.from_environment()
            run_name = f"live-{datetime.now():%Y%m%d-%H%M%S}"
            settings = StreamSettings(
                source=source.path, label=source.label, model=model_named(model), policy=policy.config(),
                fps=float(fps), chunk_frames=int(chunk), speed=SPEEDS[speed],
                record=store.new_path(run_name) if record else None, record_level="rows",
                max_frames=source.max_frames,
            )  # fmt: skip
            things().start(settings)
            st.session_state["live-policy"] = spec_of(policy.config())
            state.write(recording=run_name if record else view.recording, step=None, layer=None)
        except LabError as error:
            st.error(str(error))
    if stop.button("Stop", width="stretch", disabled=running is None):
        things().stop()
    if policy is not None:
        change_policy(spec_of(policy.config()), policy.config())
        with st.expander("Copy as Python"):
            st.code(
                f"import hermes_lab\nfrom hermes_lab import video\nfrom hermes_lab.session import StreamSession\n"
                f"{policy_python(policy)}\n\nlab = hermes_lab.load({model!r})\n"
                f"with StreamSession(lab, policy, chunk_frames={chunk}, record='runs/first') as run:\n"
                f"    for chunk in video.open({source.path if source else ''!r}, fps={fps:g}).chunks({chunk}):\n"
                f"        run.feed(chunk)\n    print(run.ask('what was the first object').text)",
                language="python",
            )


def change_policy(spec: str, config: dict[str, object]) -> None:
    """In mid-stream the policy above takes over from the next decision on."""
    worker = things().worker
    if worker is None or not worker.alive or spec == st.session_state.get("live-policy"):
        return
    st.info("The policy above differs from the one that runs.")
    if st.button("Use it from the next decision on", key="live-change", width="stretch"):
        worker.set_policy(config)
        st.session_state["live-policy"] = spec
        st.rerun()


def live_controls(worker: StreamWorker) -> None:
    buttons = st.columns([1, 1, 1, 2, 5], vertical_alignment="bottom")
    if buttons[0].button("Play", icon=":material/play_arrow:", key="live-play", width="stretch"):
        worker.play()
        time.sleep(0.05)
    if buttons[1].button("Pause", icon=":material/pause:", key="live-pause", width="stretch"):
        worker.pause()
        time.sleep(0.05)
    if buttons[2].button("Step", icon=":material/skip_next:", key="live-step", width="stretch"):
        worker.step()
    names = list(SPEEDS)
    st.session_state.setdefault("live-speed-now", st.session_state.get("live-speed", "4x"))
    speed = buttons[3].selectbox("Speed", names, key="live-speed-now")
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
    question = st.chat_input("Ask the stream something, at any time")
    if question:
        worker.ask(question)
        time.sleep(0.05)
    current = worker.latest()
    moving = current.status in ("loading", "playing") or current.answering is not None

    @st.fragment(run_every=TICK_S if moving else IDLE_TICK_S)
    def stage() -> None:
        now = worker.latest()
        if (now.status in ("loading", "playing") or now.answering is not None) != moving:
            st.rerun(scope="app")
        panels.messages(worker, now)
        scene = live_scene(worker, now)
        if scene is None:
            panels.waiting(now)
            return
        record = worker.settings.record
        panels.stage(scene, recording_name=record.name if record else "", view=now)
        panels.live_answers(scene, now)

    stage()


view = state.read()
st.title("Live", anchor=False)
with st.sidebar:
    state.initial("w_mode", view.mode if view.mode in (REPLAY, RUN) else REPLAY)
    mode = st.segmented_control("What to show", [REPLAY, RUN], key="w_mode", label_visibility="collapsed")
view = state.write(mode="" if mode in (None, REPLAY) else mode)
if mode == RUN:
    live(view)
else:
    replay(view)

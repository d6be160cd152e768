"""Live: watch a stream being remembered and forgotten - a recording played back, or a model running now."""

from __future__ import annotations

import time
from dataclasses import replace

import streamlit as st

from dashboards.live import panels as panels
from dashboards.live.arriving import TICK_S, replayed_way
from dashboards.live.conversation import recorded_answers
from dashboards.live.files import recorded_files
from dashboards.live.moment import Scene, recorded_scene
from dashboards.live.playback import Player, index_at, next_step_s
from dashboards.parts import state
from dashboards.parts.policy_text import short_spec
from dashboards.parts.resources import chosen_recording, retention_of
from dashboards.parts.store import stamp
from hermes_lab.recording import Recording

REPLAY, RUN = "Replay", "Run a model"


def speeds_of(end_s: float) -> tuple[list[float], float]:
    """Stream seconds a second that are offered for a recording of that length, and the one to start with."""
    usual = round(max(8.0, end_s / 30), 1)
    return sorted({1.0, 4.0, 8.0, 32.0, usual}), usual


def speed_of(text: str, end_s: float) -> float:
    """The speed that a link asks for, where it is offered."""
    speeds, usual = speeds_of(end_s)
    return next((s for s in speeds if f"{s:g}" == text), usual)


def replay_player(recording: Recording, view: state.ViewState) -> Player:
    """The needle of this recording; it starts at the step in the URL, or playing from the beginning."""
    key = f"player-{recording.folder}"
    if key not in st.session_state:
        end_s = float(recording.timeline.time_s[-1])
        player = Player(0.0, end_s, speed=speed_of(view.speed, end_s), playing=False)
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
    buttons = st.columns([1, 1, 1, 2, 4], vertical_alignment="bottom")
    if buttons[0].button("Play", icon=":material/play_arrow:", key="replay-play", width="stretch"):
        player = player.play(now)
    if buttons[1].button("Pause", icon=":material/pause:", key="replay-pause", width="stretch"):
        player = player.pause(now)
    if buttons[2].button("Step", icon=":material/skip_next:", key="replay-step", width="stretch"):
        player = player.pause(now)
        player = player.seek(next_step_s(recording, player.position(now)), now)
    speeds, usual = speeds_of(player.end_s)
    state.initial("replay-speed", player.speed)
    if st.session_state["replay-speed"] not in speeds:  # of a longer recording
        st.session_state["replay-speed"] = usual
    speed = buttons[3].selectbox(
        "Stream seconds a second", speeds, key="replay-speed", format_func=lambda s: f"{s:g}x"
    )
    if speed != player.speed:
        player = player.with_speed(speed, now)
    state.write(speed="" if speed == usual else f"{speed:g}")
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

    place = st.container()  # the stage stands above its controls, which it obeys
    panels.film_controls(recording.layers)
    panels.explained()
    panels.which_policy(short_spec(recording.manifest.policy), recording.manifest.model.name)
    name = state.read().recording

    def scene_at(at_s: float) -> Scene:
        index = index_at(recording, at_s)
        return panels.remembered(
            "scene-shown",
            (stamp(recording.folder), index),
            lambda: recorded_scene(recording, retention, index),
        )

    shown = scene_at(player.position(time.monotonic()))
    panels.clicked(shown, name)
    drawn = panels.chosen_state(shown)

    @st.fragment(run_every=TICK_S if player.playing else None)
    def stage() -> None:
        now = time.monotonic()
        needle: Player = st.session_state[key]
        if needle.playing and needle.ended(now):
            st.session_state[key] = needle.pause(now)
            st.rerun(scope="app")
        scene = scene_at(needle.position(now))
        if panels.chosen_state(scene) != drawn:
            st.rerun(scope="app")
        way = replayed_way(
            recording, scene, needle.position(now), needle.speed if needle.playing else 0.0
        )
        panels.tick(scene, way, panels.thumbnails_of(str(stamp(recording.folder)), scene.picture))

    with place:
        stage()
    recorded_answers(recording)
    recorded_files(recording, retention)


view = state.open_page("live")
st.title("Live", anchor=False)
with st.sidebar:
    state.initial("w_mode", view.mode if view.mode in (REPLAY, RUN) else REPLAY)
    mode = st.segmented_control(
        "What to show", [REPLAY, RUN], key="w_mode", label_visibility="collapsed", width="stretch"
    )
view = state.write(mode="" if mode in (None, REPLAY) else mode)
if mode == RUN:
    from dashboards.live.running import live  # what runs a model imports torch, which takes seconds

    live(view)
else:
    replay(view)

"""Live: watch a stream being remembered and forgotten - a recording played back, or a model running now."""

from __future__ import annotations

import time
from dataclasses import replace

import streamlit as st

from dashboards.live import panels
from dashboards.live.arriving import TICK_S, replayed_arriving
from dashboards.live.conversation import recorded_answers
from dashboards.live.files import recorded_files
from dashboards.live.moment import Moment, recorded_moment
from dashboards.live.playback import Player, index_at, next_step_s
from dashboards.parts import keys, state
from dashboards.parts.keys import Slot, remembered
from dashboards.parts.policy_text import short_spec
from dashboards.parts.resources import chosen_recording, retention_of
from dashboards.parts.store import stamp
from hermes_lab.recording import Recording

REPLAY, RUN = "Replay", "Run a model"


def speeds_of(end_s: float) -> tuple[list[float], float]:
    """Playback speeds, in stream seconds per second, that are offered for a recording of that length, and the one to start with."""
    usual = round(max(8.0, end_s / 30), 1)
    return sorted({1.0, 4.0, 8.0, 32.0, usual}), usual


def speed_of(text: str, end_s: float) -> float:
    """The speed that a link asks for, where it is offered."""
    speeds, usual = speeds_of(end_s)
    return next((s for s in speeds if f"{s:g}" == text), usual)


def player_of(recording: Recording) -> Slot[Player]:
    """Where the needle of this recording is remembered."""
    return Slot(keys.player(recording.folder))


def replay_player(recording: Recording, view: state.ViewState) -> Player:
    """The needle of this recording; it starts at the step in the URL, or playing from the beginning."""
    slot = player_of(recording)
    player = slot.get()
    if player is None:
        end_s = float(recording.timeline.time_s[-1])
        player = Player(0.0, end_s, speed=speed_of(view.speed, end_s), playing=False)
        if view.step is None:
            player = player.play(time.monotonic())
        else:
            steps = recording.timeline.step
            at = int(min(max(steps.searchsorted(view.step), 0), len(steps) - 1))
            player = replace(player, at_s=float(recording.timeline.time_s[at]))
        slot.set(player)
    return player


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
    state.initial(keys.REPLAY_SPEED, player.speed, among=speeds)
    speed = buttons[3].selectbox(
        "Playback speed", speeds, key=keys.REPLAY_SPEED, format_func=lambda s: f"{s:g}x"
    )
    if speed != player.speed:
        player = player.with_speed(speed, now)
    state.write(speed="" if speed == usual else f"{speed:g}")
    if not player.playing:
        times = recording.timeline.time_s
        shown = index_at(recording, player.position(now))
        if len(times) > 1:
            st.session_state[keys.REPLAY_SEEK] = shown
            buttons[4].select_slider(
                "After step",
                range(len(times)),
                key=keys.REPLAY_SEEK,
                format_func=lambda i: f"{i} ({times[i]:.0f} s)",
                on_change=seek,
                args=(recording,),
            )
        state.write(step=int(recording.timeline.step[shown]))
    else:
        buttons[4].caption("Pause to choose a step, click cells and share the link.")
    return player


def seek(recording: Recording) -> None:
    """Move the needle to the step that was chosen."""
    index = st.session_state[keys.REPLAY_SEEK]
    slot = player_of(recording)
    player = replay_player(recording, state.current())
    slot.set(player.seek(float(recording.timeline.time_s[index]), time.monotonic()))


def replay(view: state.ViewState) -> None:
    """Play back a recording; no model is loaded."""
    with st.sidebar:
        recording = chosen_recording(view)
    if recording is None:
        return
    retention = retention_of(recording)
    slot = player_of(recording)
    player = slot.set(replay_controls(recording, replay_player(recording, view)))

    place = st.container()  # what moves stands above its controls, which it obeys
    panels.filmstrip_controls(recording.layers)
    panels.explained()
    panels.which_policy(short_spec(recording.manifest.policy), recording.manifest.model.name)
    name = state.current().recording

    def moment_at(at_s: float) -> Moment:
        index = index_at(recording, at_s)
        return remembered(
            keys.MOMENT_SHOWN,
            (stamp(recording.folder), index),
            lambda: recorded_moment(recording, retention, index),
        )

    shown = moment_at(player.position(time.monotonic()))
    panels.clicked(shown, name)
    drawn = panels.chosen_state(shown)

    @st.fragment(run_every=TICK_S if player.playing else None)
    def live_view() -> None:
        now = time.monotonic()
        needle = slot.get() or player
        if needle.playing and needle.ended(now):
            slot.set(needle.pause(now))
            st.rerun(scope="app")
        moment = moment_at(needle.position(now))
        if panels.chosen_state(moment) != drawn:
            st.rerun(scope="app")
        arriving = replayed_arriving(
            recording, moment, needle.position(now), needle.speed if needle.playing else 0.0
        )
        panels.tick(
            moment, arriving, panels.thumbnails_of(str(stamp(recording.folder)), moment.picture)
        )

    with place:
        live_view()
    recorded_answers(recording)
    recorded_files(recording, retention)


view = state.open_page("live")
st.title("Live", anchor=False)
with st.sidebar:
    state.initial(keys.MODE, view.mode if view.mode in (REPLAY, RUN) else REPLAY)
    mode = st.segmented_control(
        "What to show", [REPLAY, RUN], key=keys.MODE, label_visibility="collapsed", width="stretch"
    )
view = state.write(mode="" if mode in (None, REPLAY) else mode)
if mode == RUN:
    from dashboards.live.running import live  # what runs a model imports torch, which takes seconds

    live(view)
else:
    replay(view)

"""The Live page around its stage: what ticks, what stands still, and the words that are drawn anew when they change."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import streamlit as st

from dashboards.live.arriving import OnTheWay
from dashboards.live.filmstrip import Film, film_of
from dashboards.live.message import Moment, Thumbnails, numbers, payload
from dashboards.live.moment import Scene
from dashboards.live.pictures import Picture
from dashboards.parts import state
from dashboards.parts.canvas import draw_stage
from dashboards.parts.page_parts import about, caution, go_to, refuse
from dashboards.parts.plain_text import code
from hermes_lab import figures
from hermes_lab.recording import TokenState
from hermes_lab.tokens import Role

if TYPE_CHECKING:
    from dashboards.live.stream_view import View
    from dashboards.live.worker import StreamWorker

ALL_LAYERS, WHOLE, NEWEST = "all layers", "whole stream", "newest"
T = TypeVar("T")


def tick(
    scene: Scene | None, way: OnTheWay, thumbnails: Thumbnails, *, view: View | None = None
) -> None:
    """Draw the moment. This is all that is drawn several times a second: each further element would be sent, and
    looked at by the browser, again and again."""
    chosen: state.ViewState = st.session_state["view"]
    newest = chosen.frames == NEWEST
    film: Film | None = None
    cell = None
    if scene is not None:
        moment = scene  # for the function below: a scene, in any case
        film = remembered(
            "film-shown", (thumbnails.stream, scene.seq, chosen.film, newest),
            lambda: film_of(moment, chosen.film if _has_layer(moment, chosen.film) else None, newest),
        )  # fmt: skip
        cell = chosen_cell(scene)
    st.session_state["live-scene"] = scene
    draw_stage(
        payload(
            Moment(
                scene=scene, way=way, numbers={} if scene is None else numbers(scene, view), film=film, newest=newest,
                chosen=cell, answering=None if view is None else view.answering,
                layers=1 if view is None else view.layers,
            ),
            thumbnails,
        ),
        key="live-stage",
        on_cell=cell_clicked,
        on_frame=frame_clicked,
    )  # fmt: skip


def remembered(name: str, key: Hashable, make: Callable[[], T]) -> T:
    """What `make` returned for this key; only the last key is remembered, for this browser session."""
    kept = st.session_state.get(name)
    if kept is None or kept[0] != key:
        kept = st.session_state[name] = (key, make())
    return kept[1]


def thumbnails_of(stream: str, picture: Callable[[int], Picture | None]) -> Thumbnails:
    """This stream's small pictures."""
    return remembered("thumbnails", stream, lambda: Thumbnails(stream, picture))


def _has_layer(scene: Scene, layer: int | None) -> bool:
    return layer is not None and layer < scene.strip.layers


def chosen_cell(scene: Scene) -> tuple[int, int] | None:
    """Layer and column of the token in the URL."""
    view: state.ViewState = st.session_state["view"]
    if view.token is None or not _has_layer(scene, view.layer):
        return None
    assert view.layer is not None
    place = int(np.searchsorted(scene.ids, view.token))
    return (view.layer, scene.strip.column_of(place)) if place < len(scene.ids) else None


def chosen_state(scene: Scene | None) -> tuple[int, int, int] | None:
    """Layer, token and `TokenState` of the token in the URL; None where there is no such token."""
    view: state.ViewState = st.session_state["view"]
    if (
        scene is None
        or view.token is None
        or view.layer is None
        or not _has_layer(scene, view.layer)
    ):
        return None
    place = int(np.searchsorted(scene.ids, view.token))
    if place >= len(scene.ids) or scene.ids[place] != view.token:
        return None
    return view.layer, view.token, int(scene.state[view.layer, place])


def cell_clicked() -> None:
    """Turn a clicked cell into the token that it shows."""
    scene: Scene | None = st.session_state["live-scene"]
    cell = st.session_state["live-stage"].get("cell")
    if not cell or scene is None:
        return
    layer, column = int(cell["layer"]), int(cell["column"])
    if 0 <= layer < scene.strip.layers and 0 <= column < scene.strip.columns:
        choose(scene, scene.token_at(layer, column), layer)


def frame_clicked() -> None:
    """Choose a token in the middle of the clicked frame."""
    scene: Scene | None = st.session_state["live-scene"]
    frame = st.session_state["live-stage"].get("frame")
    if frame is None or scene is None:
        return
    inside = scene.ids[scene.column("frame") == int(frame)]
    if len(inside):
        layer = st.session_state["view"].layer
        choose(scene, int(inside[len(inside) // 2]), layer if layer is not None else 0)


def choose(scene: Scene, token: int, layer: int | None) -> None:
    frame = int(scene.table.column("frame")[token])
    state.write(layer=layer, token=token, frame=frame if frame >= 0 else None)


def film_controls(layers: int) -> None:
    """Which frames the filmstrip shows, and in which layer their patches must survive."""
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    options = [ALL_LAYERS, *range(layers)]
    view: state.ViewState = st.session_state["view"]
    state.initial("film-layer", view.film if view.film in options else ALL_LAYERS)
    if st.session_state["film-layer"] not in options:
        st.session_state["film-layer"] = ALL_LAYERS
    layer = left.select_slider(
        "Patches that survive in",
        options,
        key="film-layer",
        format_func=lambda v: v if isinstance(v, str) else f"layer {v}",
    )
    state.initial("film-which", NEWEST if view.frames == NEWEST else WHOLE)
    which = right.segmented_control("Frames", [WHOLE, NEWEST], key="film-which")
    state.write(
        film=None if layer == ALL_LAYERS else int(layer), frames=NEWEST if which == NEWEST else ""
    )


def explained() -> None:
    """The two sentences of the stage."""
    about(
        "which video tokens each layer (down) still holds of the whole stream (across), then the frames that are on "
        "their way into the next chunk; below, frames whose patches fade as fewer layers hold them. Click a cell or "
        "a frame to look into it.",
        "whether a token is used; a kept token may never be attended to, and an evicted one may live on in a merged one.",
    )


def which_policy(policy: str, model: str) -> None:
    name = code(model.rstrip("/").rsplit("/", 1)[-1])
    st.caption(f"{code(policy)} on {name}" if policy else name)


def clicked(scene: Scene | None, recording_name: str) -> None:
    """What was clicked, in a sentence, with the way to its whole life."""
    found = chosen_state(scene)
    if found is None or scene is None:
        return
    layer, token, now = found
    table = scene.table
    role = Role(int(table.column("role")[token])).name.lower()
    left, right = st.columns([4, 1], vertical_alignment="center")
    left.markdown(
        f"**Token {token}** ({role}, frame {int(table.column('frame')[token])}, row {int(table.column('row')[token])}, "
        f"column {int(table.column('col')[token])}) is **{figures.STATE_WORDS[TokenState(now)]}** in layer {layer}."
    )
    with right:
        if recording_name:
            frame = int(table.column("frame")[token])
            go_to(
                "why", "Why?", recording=recording_name, layer=layer, token=token,
                frame=frame if frame >= 0 else None,
            )  # fmt: skip
        else:
            st.caption("Record the run to ask why.")


def messages(worker: StreamWorker, view: View) -> None:
    """Status, cautions and errors of the running stream."""
    if view.error:
        refuse(view.error)
    for note in view.notes:
        caution(note)
    if view.source_kind:
        from hermes_lab import pocket

        for sentence in pocket.cautions(
            worker.settings.model, view.source_kind, worker.settings.source, view.expected_frames
        ):
            caution(sentence)
    words = {
        "loading": "Loading the model and opening the source ...",
        "playing": "Streaming.",
        "paused": "Paused.",
        "finished": "The stream has ended; questions are still answered.",
        "failed": "The stream has stopped.",
        "stopped": "The stream was stopped.",
    }
    st.caption(f"Status: **{words[view.status]}**")

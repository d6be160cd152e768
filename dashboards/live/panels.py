"""The parts of the Live page: what moves, what stands still, and the words that are drawn anew when they change."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from dashboards.live.arriving import ArrivingFrames
from dashboards.live.filmstrip import Filmstrip, filmstrip_of
from dashboards.live.message import Message, Thumbnails, numbers, payload
from dashboards.live.moment import Moment
from dashboards.live.pictures import Picture
from dashboards.parts import keys, state
from dashboards.parts.canvas import draw_live_view
from dashboards.parts.keys import Slot, remembered, reported
from dashboards.parts.page_parts import about, caution, go_to, refuse
from dashboards.parts.plain_text import code
from hermes_lab import figures
from hermes_lab.recording import TokenState
from hermes_lab.tokens import Role

if TYPE_CHECKING:
    from dashboards.live.stream_view import StreamView
    from dashboards.live.worker import StreamWorker

ALL_LAYERS, WHOLE, NEWEST = "all layers", "whole stream", "newest"
MOMENT: Slot[Moment | None] = Slot(keys.LIVE_MOMENT)
"""What the live view showed last."""


def tick(
    moment: Moment | None,
    arriving: ArrivingFrames,
    thumbnails: Thumbnails,
    *,
    view: StreamView | None = None,
) -> None:
    """Draw the moment. This is all that is drawn several times a second: each further element would be sent, and
    looked at by the browser, again and again."""
    chosen = state.current()
    newest = chosen.frames == NEWEST
    filmstrip: Filmstrip | None = None
    cell = None
    if moment is not None:
        shown = moment  # for the function below: a moment, in any case
        filmstrip = remembered(
            keys.FILMSTRIP_SHOWN, (thumbnails.stream, moment.seq, chosen.filmstrip, newest),
            lambda: filmstrip_of(shown, chosen.filmstrip if _has_layer(shown, chosen.filmstrip) else None, newest),
        )  # fmt: skip
        cell = chosen_cell(moment)
    MOMENT.set(moment)
    draw_live_view(
        payload(
            Message(
                moment=moment, arriving=arriving, numbers={} if moment is None else numbers(moment, view), filmstrip=filmstrip, newest=newest,
                chosen=cell, answering=None if view is None else view.answering,
                layers=1 if view is None else view.layers,
            ),
            thumbnails,
        ),
        key=keys.LIVE_VIEW,
        on_cell=cell_clicked,
        on_frame=frame_clicked,
    )  # fmt: skip


def thumbnails_of(stream: str, picture: Callable[[int], Picture | None]) -> Thumbnails:
    """This stream's small pictures."""
    return remembered(keys.THUMBNAILS, stream, lambda: Thumbnails(stream, picture))


def _has_layer(moment: Moment, layer: int | None) -> bool:
    return layer is not None and layer < moment.strip.layers


def chosen_cell(moment: Moment) -> tuple[int, int] | None:
    """Layer and column of the token in the URL."""
    view = state.current()
    if view.token is None or not _has_layer(moment, view.layer):
        return None
    assert view.layer is not None
    place = int(np.searchsorted(moment.ids, view.token))
    return (view.layer, moment.strip.column_of(place)) if place < len(moment.ids) else None


def chosen_state(moment: Moment | None) -> tuple[int, int, int] | None:
    """Layer, token and `TokenState` of the token in the URL; None where there is no such token."""
    view = state.current()
    if (
        moment is None
        or view.token is None
        or view.layer is None
        or not _has_layer(moment, view.layer)
    ):
        return None
    place = int(np.searchsorted(moment.ids, view.token))
    if place >= len(moment.ids) or moment.ids[place] != view.token:
        return None
    return view.layer, view.token, int(moment.state[view.layer, place])


def cell_clicked() -> None:
    """Turn a clicked cell into the token that it shows."""
    moment, cell = MOMENT.get(), reported(keys.LIVE_VIEW, "cell")
    if not cell or moment is None:
        return
    layer, column = int(cell["layer"]), int(cell["column"])
    if 0 <= layer < moment.strip.layers and 0 <= column < moment.strip.columns:
        choose(moment, moment.token_at(layer, column), layer)


def frame_clicked() -> None:
    """Choose a token in the middle of the clicked frame."""
    moment, frame = MOMENT.get(), reported(keys.LIVE_VIEW, "frame")
    if frame is None or moment is None:
        return
    inside = moment.ids[moment.column("frame") == int(frame)]
    if len(inside):
        layer = state.current().layer
        choose(moment, int(inside[len(inside) // 2]), layer if layer is not None else 0)


def choose(moment: Moment, token: int, layer: int | None) -> None:
    frame = int(moment.table.column("frame")[token])
    state.write(layer=layer, token=token, frame=frame if frame >= 0 else None)


def filmstrip_controls(layers: int) -> None:
    """Which frames the filmstrip shows, and in which layer their patches must survive."""
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    options = [ALL_LAYERS, *range(layers)]
    view = state.current()
    linked = view.filmstrip if view.filmstrip in options else ALL_LAYERS
    state.initial(keys.FILMSTRIP_LAYER, linked, among=options)
    layer = left.select_slider(
        "Patches that survive in",
        options,
        key=keys.FILMSTRIP_LAYER,
        format_func=lambda v: v if isinstance(v, str) else f"layer {v}",
    )
    state.initial(keys.FILMSTRIP_FRAMES, NEWEST if view.frames == NEWEST else WHOLE)
    which = right.segmented_control("Frames", [WHOLE, NEWEST], key=keys.FILMSTRIP_FRAMES)
    state.write(
        filmstrip=None if layer == ALL_LAYERS else int(layer),
        frames=NEWEST if which == NEWEST else "",
    )


def explained() -> None:
    """The two sentences of the live view."""
    about(
        "which video tokens each layer (down) still holds of the whole stream (across), then the frames that are on "
        "their way into the next chunk; below, frames whose patches fade as fewer layers hold them. Click a cell or "
        "a frame to look into it.",
        "whether a token is used; a kept token may never be attended to, and an evicted one may live on in a merged one.",
    )


def which_policy(policy: str, model: str) -> None:
    name = code(model.rstrip("/").rsplit("/", 1)[-1])
    st.caption(f"{code(policy)} on {name}" if policy else name)


def clicked(moment: Moment | None, recording_name: str) -> None:
    """What was clicked, in a sentence, with the way to its whole life."""
    found = chosen_state(moment)
    if found is None or moment is None:
        return
    layer, token, now = found
    table = moment.table
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


def messages(worker: StreamWorker, view: StreamView) -> None:
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

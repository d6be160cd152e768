"""The parts of the Live page: strip, frames, numbers, answers - redrawn several times a second, so kept cheap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import streamlit as st

from dashboards import state
from dashboards.canvas import draw_picture, draw_strip, show_picture
from dashboards.furniture import about, chart, go_to
from dashboards.scene import Scene
from hermes_lab import figures
from hermes_lab.recording import Recording, TokenState
from hermes_lab.snapshot import Answer
from hermes_lab.tokens import Role

if TYPE_CHECKING:
    from dashboards.worker import StreamWorker, View

FILM_FRAMES = 10
FRAME_PX = 160
ALL_LAYERS, WHOLE, NEWEST = "all layers", "whole stream", "newest"
UNBOUNDED = 2**31 - 1  # as in `hermes_lab.policies.base`, whose import takes torch


def stage(
    scene: Scene, *, recording_name: str, now_s: float | None = None, view: View | None = None
) -> None:
    """Everything that moves."""
    numbers(scene, view)
    left, right = st.columns([1, 4.6], gap="small")
    with left:
        frame_now(scene, now_s, view)
    with right:
        strip(scene)
    about(
        "which video tokens each layer (down) still holds of the whole stream (across); anything held at all is coloured.",
        "whether a token is used; a kept token may never be attended to, and an evicted one may live on in a merged one.",
    )
    film(scene)
    with st.container():
        clicked(scene, recording_name)


def numbers(scene: Scene, view: View | None) -> None:
    """Budget, bytes and times."""
    snapshot = scene.snapshot
    held = [ids.shape[1] for ids in snapshot.held]
    budgets = snapshot.budget_tokens
    if budgets is not None and max(budgets) >= UNBOUNDED:
        budgets = None  # the policy's limit is in frames or seconds
    asked = scene.answers[-1].ttft_s if scene.answers else math.nan
    t = snapshot.timings
    busy = t.encode_s + t.prefill_s + t.probe_s + t.decide_s
    rate = (
        view.frames_per_s if view is not None else len(snapshot.frames) / busy if busy else math.nan
    )
    values = {
        "Stream": f"{snapshot.time_s:.0f} s, {snapshot.frames_seen} frames",
        "Held by a layer": _span(held) + ("" if budgets is None else f" of {_span(budgets)}"),
        "KV cache": _mebibytes(snapshot.cache_bytes),
        "Evicted now": f"{sum(int((~d.kept).sum() // len(d.kept)) for d in snapshot.decisions):,}",
        "TTFT, last answer": "-" if math.isnan(asked) else f"{1000 * asked:.0f} ms",
        "Model speed": "-" if math.isnan(rate) else f"{rate:.0f} frames/s",
    }
    cells = "".join(
        f"<div style='min-width:7.2rem'><div style='font-size:.78rem;opacity:.75'>{name}</div>"
        f"<div style='font-size:1.15rem;font-weight:600'>{value}</div></div>"
        for name, value in values.items()
    )
    st.html(f"<div style='display:flex;gap:1.2rem;flex-wrap:wrap'>{cells}</div>")
    st.caption(f"`{scene.policy}` on `{_short(scene.model)}`")


def frame_now(scene: Scene, now_s: float | None, view: View | None) -> None:
    """The newest frame, as it came."""
    if view is not None and view.image is not None:
        picture, text = view.image, f"frame {view.frames_arrived - 1}"
        if view.waiting:
            text += f", {view.waiting} waiting for their chunk"
    else:
        frame = scene.frame
        if now_s is not None:
            # between two steps the replay shows the frames that are on their way into the next chunk
            times = scene.table.column("time_s")[scene.ids]
            frames = scene.table.column("frame")[scene.ids]
            due = frames[times <= now_s + 1e-6]
            frame = int(due.max()) if len(due) else frame
        picture, text = scene.picture(frame), f"frame {frame}"
    if picture is None:
        st.caption(f"{text}: no picture was recorded")
    else:
        show_picture(
            picture,
            key="live-frame",
            width=FRAME_PX,
            caption=text,
            alt=f"The newest frame of the stream, {text}",
        )


def strip(scene: Scene) -> None:
    view: state.ViewState = st.session_state["view"]
    chosen = None
    if view.layer is not None and view.token is not None:
        place = np.searchsorted(scene.ids, view.token)
        if place < len(scene.ids) and view.layer < scene.strip.layers:
            chosen = (view.layer, scene.strip.column_of(int(place)))
    st.session_state["live-scene"] = scene
    draw_strip(scene.strip, key="live-strip", on_cell=cell_clicked, seq=scene.seq, chosen=chosen)


def cell_clicked() -> None:
    """Turn a clicked cell into the token that it shows."""
    scene: Scene = st.session_state["live-scene"]
    cell = st.session_state["live-strip"].get("cell")
    if not cell:
        return
    layer, column = int(cell["layer"]), int(cell["column"])
    if not (0 <= layer < scene.strip.layers and 0 <= column < scene.strip.columns):
        return
    choose(scene, scene.token_at(layer, column), layer)


def choose(scene: Scene, token: int, layer: int | None) -> None:
    frame = int(scene.table.column("frame")[token])
    state.write(layer=layer, token=token, frame=frame if frame >= 0 else None)


def film(scene: Scene) -> None:
    """Frames with what survives of them."""
    layers = scene.strip.layers
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
    shown = film_of(scene, None if layer == ALL_LAYERS else int(layer), which == NEWEST)
    if shown is None:
        st.caption("No pictures of the frames were recorded.")
        return
    width = shown.picture.shape[1]
    st.session_state["live-film-frames"] = shown.frames
    draw_picture(
        shown.picture,
        [(a / width, 0.0, b / width, 1.0) for a, b in shown.spans],
        [
            f"frame {f} at {t:.1f} s: {s.mean():.1%} of it is held"
            for f, t, s in zip(shown.frames, shown.times_s, shown.shares, strict=True)
        ],
        key="live-film",
        on_spot=film_clicked,
        alt=shown.alt,
        hint="Patches fade as fewer layers hold them. Click a frame to look into it.",
        across=len(shown.frames),
    )


@dataclass(frozen=True)
class Film:
    """Frames with what survives of them.

    Attributes:
        shares: of the layers that hold each patch, or 0 / 1 in one layer, [frame, row, col].
        spans: first and last pixel column of each frame.
    """

    frames: list[int]
    times_s: list[float]
    shares: npt.NDArray[np.float32]
    picture: npt.NDArray[np.uint8]
    spans: list[tuple[int, int]]

    @property
    def alt(self) -> str:
        return (
            f"{len(self.frames)} frames of the stream; patches that are forgotten are dark and grey"
        )

    def rows(self) -> tuple[tuple[str, ...], list[tuple[float, ...]]]:
        """The numbers behind the picture."""
        lines = [
            (self.frames[n], self.times_s[n], row, col, float(self.shares[n, row, col]))
            for n, row, col in np.ndindex(*self.shares.shape)
        ]
        return ("frame", "time_s", "row", "col", "share_held"), lines


def film_of(scene: Scene, layer: int | None, newest: bool) -> Film | None:
    """The filmstrip of a moment; None where no frame has a picture."""
    frames = figures.choose_frames(scene.snapshot.frames_seen, FILM_FRAMES, newest)
    pictures = {f: p for f in frames if (p := scene.picture(f)) is not None}
    if not pictures:
        return None
    frames = list(pictures)
    shares = figures.surviving_share(
        scene.state, scene.column("frame"), scene.column("row"), scene.column("col"), frames, scene.grid, layer
    )  # fmt: skip
    times = _times(scene, frames)
    captions = [f"{t:.0f} s {s.mean():.0%}" for t, s in zip(times, shares, strict=True)]
    picture, spans = figures.filmstrip(list(pictures.values()), shares, captions, height_px=92)
    return Film(frames, times, shares, picture, spans)


def film_clicked() -> None:
    scene: Scene = st.session_state["live-scene"]
    spot = st.session_state["live-film"].get("spot")
    frames: list[int] = st.session_state.get("live-film-frames", [])
    if spot is None or not 0 <= int(spot) < len(frames):
        return
    inside = scene.ids[scene.column("frame") == frames[int(spot)]]
    if len(inside):
        layer = st.session_state["view"].layer
        choose(scene, int(inside[len(inside) // 2]), layer if layer is not None else 0)


def clicked(scene: Scene, recording_name: str) -> None:
    """What was clicked, in a sentence, with the way to its whole life."""
    view: state.ViewState = st.session_state["view"]
    if view.token is None or view.layer is None or view.layer >= scene.strip.layers:
        return
    place = int(np.searchsorted(scene.ids, view.token))
    if place >= len(scene.ids) or scene.ids[place] != view.token:
        return
    table, token = scene.table, view.token
    what = figures.STATE_WORDS[TokenState(int(scene.state[view.layer, place]))]
    role = Role(int(table.column("role")[token])).name.lower()
    left, right = st.columns([4, 1], vertical_alignment="center")
    left.markdown(
        f"**Token {token}** ({role}, frame {int(table.column('frame')[token])}, row {int(table.column('row')[token])}, "
        f"column {int(table.column('col')[token])}) is **{what}** in layer {view.layer}."
    )
    with right:
        if recording_name:
            go_to(
                "why", "Why?", recording=recording_name, layer=str(view.layer), token=str(token),
                frame=str(int(table.column("frame")[token])),
            )  # fmt: skip
        else:
            st.caption("Record the run to ask why.")


def messages(worker: StreamWorker, view: View) -> None:
    """Status, cautions and errors of the running stream."""
    if view.error:
        st.error(view.error)
    for note in view.notes:
        st.warning(note)
    if view.source_kind:
        from hermes_lab import pocket

        for caution in pocket.cautions(
            worker.settings.model, view.source_kind, worker.settings.source, view.expected_frames
        ):
            st.warning(caution)
    words = {
        "loading": "Loading the model and opening the source ...",
        "playing": "Streaming.",
        "paused": "Paused.",
        "finished": "The stream has ended; questions are still answered.",
        "failed": "The stream has stopped.",
        "stopped": "The stream was stopped.",
    }
    st.caption(f"Status: **{words[view.status]}**")


def waiting(view: View) -> None:
    """Before the first step there is only the frame that came."""
    if view.image is not None:
        show_picture(
            view.image,
            key="live-first",
            width=FRAME_PX,
            caption=f"{view.waiting} frames wait for the first chunk",
            alt="The newest frame",
        )


def live_answers(scene: Scene, view: View) -> None:
    """The conversation with the running stream."""
    if view.answering is not None:
        with st.chat_message("assistant"):
            st.markdown(view.answering or "...")
    for place, answer in reversed([*enumerate(view.answers)][-4:]):
        conversation(answer, scene, place)


def conversation(answer: Answer, scene: Scene | None, place: int = 0) -> None:
    """One question, its answer, its cost, and the frames that it attended to most."""
    with st.chat_message("user"):
        st.markdown(answer.question)
    with st.chat_message("assistant"):
        st.markdown(f"**{answer.text or '(empty answer)'}**")
        tops = ", ".join(f"{text.strip() or '(space)'} {p:.0%}" for text, p in answer.top[:3])
        st.caption(
            f"At {answer.time_s:.0f} s. TTFT {1000 * answer.ttft_s:.0f} ms over {_mebibytes(answer.cache_bytes)} of "
            f"cache. Likeliest first words: {tops}."
        )
        if answer.attention is not None and scene is not None:
            attended(answer, scene, place)


def attended(answer: Answer, scene: Scene, place: int) -> None:
    """The frames with most of the question's attention, as pictures."""
    assert answer.attention is not None
    mass = figures.frame_shares(answer.attention, sinks=False).mean((0, 1))
    best = [int(f) for f in np.argsort(-mass, kind="stable")[:6] if mass[f] > 0]
    best = sorted(f for f in best if scene.picture(f) is not None)
    if not best:
        return
    pictures = [scene.picture(f) for f in best]
    full = np.ones((len(best), 1, 1), np.float32)
    captions = [f"{f}: {mass[f]:.0%}" for f in best]
    picture, _ = figures.filmstrip(pictures, full, captions, height_px=64)
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
from hermes_lab.recording import Recording

answers = Recording.open({str(recording.folder)!r}).answers
figures.ttft_curves({{"answers": ([a.time_s for a in answers], [a.ttft_s for a in answers])}}).show()
""",
            rows=(
                ("time_s", "ttft_s", "question", "text"),
                [(a.time_s, a.ttft_s, a.question, a.text) for a in recording.answers],
            ),
        )


def _times(scene: Scene, frames: list[int]) -> list[float]:
    frame, time_s = scene.column("frame"), scene.column("time_s")
    return [float(time_s[np.searchsorted(frame, f)]) if f in frame else float(f) for f in frames]


def _span(values: object) -> str:
    numbers_ = list(values)  # type: ignore[call-overload]
    low, high = min(numbers_, default=0), max(numbers_, default=0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 / 10 else f"{count / 1024:.0f} KiB"


def _short(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1]

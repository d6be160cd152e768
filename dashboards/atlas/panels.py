"""The parts of the attention atlas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import streamlit as st

from dashboards.atlas.patches import patches, picture_of
from dashboards.parts import keys, snippets, state
from dashboards.parts.keys import Slot, remembered
from dashboards.parts.page_parts import about, chart, refuse
from dashboards.parts.plain_text import printable
from dashboards.parts.resources import session_resources
from hermes_lab import figures
from hermes_lab.figures import HeldFrames
from hermes_lab.recording import Recording
from hermes_lab.snapshot import AttentionSummary

Floats = npt.NDArray[np.float64]
THUMBNAILS = "thumbnails"
MASS, WEIGHTED = "attention mass", "value-weighted"
QUESTION = "what was the first object"
HEAD_COUNT: Slot[int] = Slot(keys.ATLAS_HEAD_COUNT)
"""Heads in a row of the map, for what is clicked."""


@dataclass(frozen=True)
class Reading:
    """A value-weighted reading of the running stream, what it was asked for, and Python that does it again."""

    asked: tuple[int, int, str]
    mass: Floats
    weighted: Floats
    time_s: Floats
    code: str


READING: Slot[Reading] = Slot(keys.ATLAS_READING)


@dataclass(frozen=True)
class Probe:
    """One reading of attention.

    Attributes:
        name: for the menu; also in the URL.
        code: Python that gets `summary` and `held` from `recording`.
        index: of the step whose cache was read.
    """

    name: str
    summary: AttentionSummary
    index: int
    code: str


def probes_of(recording: Recording) -> list[Probe]:
    """Everything in a recording whose attention was kept: its answers, and the probes of three of its steps."""
    found: list[Probe] = []
    steps = recording.timeline.step
    for n, answer in enumerate(recording.answers):
        if answer.attention is not None:
            index = max(0, int(np.searchsorted(steps, answer.step - 1, side="right")) - 1)
            found.append(
                Probe(
                    printable(f"question {n + 1}: {answer.question} ({answer.time_s:.0f} s)"), answer.attention, index,
                    f"summary = recording.answers[{n}].attention\n"
                    f"held = figures.held_frames(recording.steps[{index}], recording.tokens)",
                )
            )  # fmt: skip
    last = len(recording.steps) - 1
    for index in sorted({last // 3, 2 * last // 3, last}):
        snapshot = recording.steps[index]
        for n, summary in enumerate(snapshot.attention):
            found.append(
                Probe(
                    f"{summary.group} at step {snapshot.step} ({snapshot.time_s:.0f} s)", summary, index,
                    f"summary = recording.steps[{index}].attention[{n}]\n"
                    f"held = figures.held_frames(recording.steps[{index}], recording.tokens)",
                )
            )  # fmt: skip
    return found


def choose_probe(probes: list[Probe], view: state.ViewState) -> Probe:
    """The query group, and what to draw of it."""
    names = [p.name for p in probes]
    with st.sidebar:
        linked = view.group if view.group in names else names[0]
        state.initial(keys.GROUP, linked, among=names)
        name = st.selectbox(
            "Queries", names, key=keys.GROUP,
            help="Attention of a question, of a policy's guidance prompt, or of a chunk's last frame on the cache.",
        )  # fmt: skip
        options = [*figures.METRICS, THUMBNAILS]
        state.initial(keys.METRIC, view.metric if view.metric in options else "recency")
        metric = st.selectbox("Score of a head", options, key=keys.METRIC)
        st.caption(
            "Each head's attention over stream time, to its own peak."
            if metric == THUMBNAILS
            else figures.METRICS[metric]
        )
        state.initial(keys.ATLAS_SINKS, bool(view.sinks))
        sinks = st.toggle(
            "With sinks", key=keys.ATLAS_SINKS,
            help="Off: shares of what falls on video. On: shares of all attention, which sinks and text take part in.",
        )  # fmt: skip
        state.initial(keys.ATLAS_WEIGHTING, WEIGHTED if view.weighting == WEIGHTED else MASS)
        weighting = st.segmented_control(
            "Weighting", [MASS, WEIGHTED], key=keys.ATLAS_WEIGHTING,
            help="Value-weighted multiplies each weight by the length of its value vector (Kobayashi et al. 2020); "
            "it needs the model, so it is there for a running stream.",
        )  # fmt: skip
    state.write(
        group=name, metric=metric, sinks=1 if sinks else None, weighting=WEIGHTED if weighting == WEIGHTED else "",
    )  # fmt: skip
    return probes[names.index(name)]


def held_of(recording: Recording, probe: Probe) -> HeldFrames:
    """What could be attended to; recomputed only when another step is shown."""
    return remembered(
        keys.ATLAS_HELD,
        (str(recording.folder), probe.index),
        lambda: figures.held_frames(recording.steps[probe.index], recording.tokens),
    )


def preamble(recording: Recording, probe: Probe) -> str:
    return (
        f"from hermes_lab import figures\nfrom hermes_lab.recording import Recording\n\n"
        f"recording = Recording.open({str(recording.folder)!r})\n{probe.code}\n"
    )


def overview(recording: Recording, probe: Probe, view: state.ViewState) -> None:
    """Layer x head, clickable."""
    metric = st.session_state[keys.METRIC]
    held = held_of(recording, probe)
    chosen = (view.layer or 0, view.head or 0)
    layers, heads = probe.summary.entropy.shape
    HEAD_COUNT.set(heads)
    chosen = (min(chosen[0], layers - 1), min(chosen[1], heads - 1))
    if metric == THUMBNAILS:
        figure = figures.profile_tiles(probe.summary, sinks=st.session_state[keys.ATLAS_SINKS])
        call = f"figures.profile_tiles(summary, sinks={st.session_state[keys.ATLAS_SINKS]}).show()"
        values = figures.frame_shares(probe.summary, sinks=st.session_state[keys.ATLAS_SINKS])
        rows = (
            ("layer", "head", "frame", "share"),
            [(y, x, f, values[y, x, f]) for y, x, f in np.ndindex(*values.shape)],
        )
        said = (
            "attention over stream time of every head (left: oldest), each scaled to its own peak."
        )
    else:
        scores = figures.head_scores(probe.summary, held, metric)
        figure = figures.atlas(scores, metric=metric, chosen=chosen)
        call = f"scores = figures.head_scores(summary, held, {metric!r})\nfigures.atlas(scores, metric={metric!r}).show()"
        rows = (
            ("layer", "head", metric),
            [(y, x, scores[y, x]) for y, x in np.ndindex(*scores.shape)],
        )
        said = (
            f"{metric} of every head; white is what uniform attention over the same tokens would score "
            f"({figures.NULLS[metric]:g})."
        )
    chart(
        figure, key=keys.ATLAS_MAP, name=f"atlas-{metric}", alt=f"Map of {metric} over {layers} layers and {heads} heads",
        code=f"{preamble(recording, probe)}{call}", rows=rows, on_select=head_clicked,
    )  # fmt: skip
    unread = [n for n in range(layers) if not probe.summary.visible[n]]
    if unread:
        said += f" Empty rows (layers {spans(unread)}): these queries were not read there; record at level rows to read them in every layer."
    about(
        said + " Click a head to see its frames.",
        "whether the head matters: attention is not contribution; knock it out on the Findings page. One question of one "
        "stream has no interval; the studies have.",
    )


def spans(layers: Sequence[int]) -> str:
    """Layer numbers with runs written as "first to last"."""
    runs: list[list[int]] = []
    for n in layers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(f"{r[0]} to {r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def head_clicked() -> None:
    choose_head(st.session_state[keys.ATLAS_MAP])


def choose_head(event: Mapping[str, Any]) -> None:
    cell = clicked_cell(event, HEAD_COUNT.get() or 1)
    if cell is not None:
        st.session_state[keys.LAYER], st.session_state[keys.HEAD] = cell


def clicked_cell(event: Mapping[str, Any], heads: int) -> tuple[int, int] | None:
    """Layer and head of a click on a map whose invisible markers run over heads, then layers; None without one.

    By the marker's number: its customdata comes back as a list or as an object, depending on how it was sent.
    """
    points = event.get("selection", {}).get("points", [])
    if not points or points[0].get("point_index") is None:
        return None
    layer, head = divmod(int(points[0]["point_index"]), heads)
    return layer, head


def head_to_frames(recording: Recording, probe: Probe) -> None:
    """One head's attention over frames beside uniform, and the mean of its layer after it."""
    layers, heads = probe.summary.entropy.shape
    view = state.current()
    state.initial(keys.LAYER, view.layer or 0)
    state.initial(keys.HEAD, view.head or 0)
    state.at_most(keys.LAYER, layers - 1)
    state.at_most(keys.HEAD, heads - 1)
    st.subheader("From a head to its frames", anchor=False)
    one, two, _ = st.columns([1, 1, 3])
    layer = int(one.number_input("Layer", 0, layers - 1, key=keys.LAYER))
    head = int(two.number_input("Head", 0, heads - 1, key=keys.HEAD))
    state.write(layer=layer, head=head)
    sinks = bool(st.session_state[keys.ATLAS_SINKS])
    share = figures.frame_shares(probe.summary, sinks=sinks)
    if not probe.summary.visible[layer]:
        st.info(
            f"These queries were not read in layer {layer}: the policy does not use them there. Choose another layer or "
            "query group, or record at level rows, which reads them in every layer."
        )
    held = held_of(recording, probe)
    frames = min(share.shape[-1], len(held.time_s))
    tokens = held.tokens[layer, :frames]
    uniform = tokens / max(tokens.sum(), 1)
    if sinks:
        uniform = tokens / max(float(probe.summary.visible[layer]), 1)
    time_s = held.time_s[:frames]
    y = "share of all attention" if sinks else "share of attention on video"
    rows = (
        ("frame", "time_s", "head", "layer_mean", "uniform"),
        list(
            zip(
                range(frames),
                time_s,
                share[layer, head, :frames],
                share[layer].mean(0)[:frames],
                uniform,
                strict=True,
            )
        ),
    )
    whole = f"max(float(summary.visible[{layer}]), 1)" if sinks else "max(tokens.sum(), 1)"
    code = (
        f"{preamble(recording, probe)}share = figures.frame_shares(summary, sinks={sinks})[{layer}]\n"
        f"tokens = held.tokens[{layer}, :{frames}]\nuniform = tokens / {whole}\n"
        f"figures.frame_bars(SHOWN[:{frames}], held.time_s[:{frames}], uniform=uniform, y={y!r}).show()"
    )
    chosen = view.frame
    left, right = st.columns(2)
    with left:
        chart(
            figures.frame_bars(
                share[layer, head, :frames], time_s, uniform=uniform, chosen=chosen, y=y, title=f"Layer {layer}, head {head}"
            ),
            key=keys.ATLAS_FRAMES, name=f"layer-{layer}-head-{head}", alt=f"Attention of layer {layer} head {head} over frames",
            code=code.replace("SHOWN", f"share[{head}]"), rows=rows, on_select=frame_clicked,
        )  # fmt: skip
    with right:
        chart(
            figures.frame_bars(
                share[layer].mean(0)[:frames], time_s, uniform=uniform, chosen=chosen, y=y,
                title=f"Layer {layer}, mean over its {heads} heads",
            ),
            key="atlas-mean", name=f"layer-{layer}-mean", alt=f"Mean attention of layer {layer} over frames",
            code=code.replace("SHOWN", "share.mean(0)"), rows=rows,
        )  # fmt: skip
    about(
        "where this head's attention falls in the stream, beside what uniform attention over the held tokens would give; "
        "then the mean of the layer, which no single head has to resemble.",
        "evicted frames: their bars are zero because they are gone, not because the head would not look at them.",
    )
    patches(recording, probe.summary, preamble(recording, probe), layer, head)
    weighted(layer, head)


def frame_clicked() -> None:
    points = st.session_state[keys.ATLAS_FRAMES].get("selection", {}).get("points", [])
    if points and points[0].get("x") is not None:
        st.session_state[keys.FRAME] = int(points[0]["x"])


def frame_to_heads(recording: Recording, probe: Probe) -> None:
    """One frame's attention from every head."""
    st.subheader("From a frame to its heads", anchor=False)
    frames = probe.summary.frame_mass.shape[-1]
    view = state.current()
    share = figures.frame_shares(probe.summary, sinks=bool(st.session_state[keys.ATLAS_SINKS]))
    best = int(share.mean((0, 1)).argmax())
    state.initial(keys.FRAME, min(view.frame if view.frame is not None else best, frames - 1))
    state.at_most(keys.FRAME, frames - 1)
    left, right = st.columns([1, 3], vertical_alignment="top")
    with left:
        frame = int(st.number_input("Frame", 0, frames - 1, key=keys.FRAME))
        picture = picture_of(recording, frame)
        if picture is not None:
            st.image(picture, width="stretch", alt=f"Frame {frame}", caption=f"frame {frame}")
    state.write(frame=frame)
    mass = share[..., frame]
    with right:
        chart(
            figures.atlas(mass, metric=f"share on frame {frame}"), key=keys.ATLAS_HEADS, name=f"frame-{frame}-heads",
            alt=f"Share of every head's attention on frame {frame}",
            code=f"{preamble(recording, probe)}share = figures.frame_shares(summary, sinks={bool(st.session_state[keys.ATLAS_SINKS])})\n"
            f"figures.atlas(share[..., {frame}], metric='share on frame {frame}').show()",
            rows=(("layer", "head", "share"), [(y, x, mass[y, x]) for y, x in np.ndindex(*mass.shape)]),
            on_select=frame_head_clicked,
        )  # fmt: skip
    about(
        f"how much of each head's attention frame {frame} gets; click a head to see all of its frames above.",
        "why a head looks there: content, position and sinks look alike in attention alone.",
    )


def frame_head_clicked() -> None:
    choose_head(st.session_state[keys.ATLAS_HEADS])


def weighted(layer: int, head: int) -> None:
    """Attention times the length of the values it reads, for the running stream."""
    if st.session_state.get(keys.ATLAS_WEIGHTING) != WEIGHTED:
        return
    worker = session_resources().worker
    if worker is None or not worker.alive:
        st.info(
            "Value-weighted attention needs the model: start a stream on the Live page, then come back."
        )
        return
    view = state.current()
    state.initial(keys.ATLAS_QUESTION, view.question or QUESTION)
    question = st.text_input("Question to the running stream", key=keys.ATLAS_QUESTION)
    state.write(question="" if question == QUESTION else question)
    if st.button("Read it", key="atlas-read"):
        from dashboards.parts.readings import value_weighted

        READING.pop()
        try:
            found = worker.submit(lambda s: value_weighted(s, question, layer, head)).result(60)
        except Exception as error:
            refuse(str(error) or "The stream is busy; pause it and try again.")
        else:
            code = (
                snippets.WORKBENCH
                + worker.snippet("from dashboards.parts.readings import value_weighted", "from hermes_lab import figures")
                + f"\nmass, weighted, time_s = value_weighted(session, {question!r}, {layer}, {head})\n"
                'figures.frame_bars(weighted, time_s, y="share").show()'
            )  # fmt: skip
            READING.set(Reading((layer, head, question), *found, code))
    read = READING.get()
    if read is None or read.asked != (layer, head, question):
        return
    chart(
        figures.frame_bars(read.weighted, read.time_s, title=f"Value-weighted, layer {layer}, head {head} (running stream)", y="share"),
        key="atlas-weighted", name=f"value-weighted-{layer}-{head}",
        alt="Value-weighted attention over frames of the running stream",
        code=read.code,
        rows=(
            ("frame", "time_s", "mass", "value_weighted"),
            list(zip(range(len(read.mass)), read.time_s, read.mass, read.weighted, strict=True)),
        ),
    )  # fmt: skip
    about(
        "the same attention multiplied by the length of the value vectors that it reads, as shares by frame.",
        "the direction of what is read; long values can cancel. The recording above and this stream may differ.",
    )

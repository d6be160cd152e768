"""The parts of the Why page: a token's frame, its trials, its fate in every layer, and the heads that looked at it."""

from __future__ import annotations

import numpy as np
import streamlit as st

from dashboards.live.moment import Moment
from dashboards.parts import keys, state
from dashboards.parts.attention_rows import row_of, where_rows_are
from dashboards.parts.canvas import draw_picture
from dashboards.parts.keys import Slot, reported
from dashboards.parts.page_parts import about, chart, offer, picture_offer
from dashboards.parts.plain_text import printable
from hermes_lab import figures
from hermes_lab.recording import LayerLife, Recording, TokenLife
from hermes_lab.snapshot import AttentionSummary

MOMENT: Slot[Moment] = Slot(keys.WHY_MOMENT)
FRAME: Slot[int] = Slot(keys.WHY_FRAME)
"""The end of the recording, and the frame whose patches are drawn, for what is clicked."""


def life(recording: Recording, moment: Moment, layer: int, token: int) -> None:
    """Everything that happened to one token in one layer, and its fate in the others."""
    found = recording.life(token)
    here = found.layers[layer]
    left, right = st.columns([1.1, 3], gap="medium")
    with left:
        patches(recording, moment, found, layer)
    with right:
        story(found, here)
        if here.trials:
            trials(recording, found, here)
        else:
            st.info("No compression ranked this token here; it was never compared with others.")
    fates(recording, found, layer)


def story(found: TokenLife, here: LayerLife) -> None:
    """The life in sentences."""
    where = f"frame {found.frame} at {found.time_s:.1f} s" if found.frame >= 0 else "no frame"
    cell = f", row {found.row}, column {found.col}" if found.row >= 0 else ""
    lines = [
        f"**Token {found.id}** is a {found.role.name.lower()} token of {where}{cell}. In layer {here.layer}:"
    ]
    if here.entered_step is not None:
        lines.append(f"- came in with feed step {here.entered_step}")
    if here.trials:
        won = sum(t.kept for t in here.trials)
        lines.append(f"- was ranked {len(here.trials)} times and survived {won} of them")
    lines.append(f"- {here.reason[0].lower()}{here.reason[1:]}")
    if here.merged_into:
        lines.append(f"- went into the summary token {', '.join(map(str, here.merged_into))}")
    if here.sources:
        few = ", ".join(map(str, here.sources[:12]))
        lines.append(
            f"- was made of {len(here.sources)} tokens: {few}{' ...' if len(here.sources) > 12 else ''}"
        )
    st.markdown("\n".join(lines))


def trials(recording: Recording, found: TokenLife, here: LayerLife) -> None:
    """Score, terms and rank over the stream."""
    code = f"""
from hermes_lab import figures
from hermes_lab.recording import Recording

life = Recording.open({str(recording.folder)!r}).life({found.id}, layer={here.layer})
figures.trial_curves(life.layers[0].trials).show()
figures.rank_curve(life.layers[0].trials).show()
"""
    terms = list(dict.fromkeys(k for t in here.trials for k in t.terms))
    rows = [
        (
            t.step,
            t.head,
            t.score,
            t.rank,
            t.candidates,
            t.budget_tokens,
            t.kept,
            *(t.terms.get(k) for k in terms),
        )
        for t in here.trials
    ]
    header = ("step", "head", "score", "rank", "candidates", "budget_tokens", "kept", *terms)
    one, two = st.tabs(["Score and its terms", "Rank against the budget"])
    with one:
        chart(
            figures.trial_curves(here.trials), key="why-trials", name=f"token-{found.id}-layer-{here.layer}",
            alt=f"Score and score terms of token {found.id} in layer {here.layer} at {len(here.trials)} compressions",
            code=code, rows=(header, rows),
        )  # fmt: skip
        about(
            "the score that decided, and the named parts that it was made of, at every compression; a cross is a loss.",
            "how the parts were combined beyond what the policy names; smoothing across layers is in the score only.",
        )
    with two:
        chart(
            figures.rank_curve(here.trials), key="why-rank", name=f"token-{found.id}-rank",
            alt=f"Rank of token {found.id} among the candidates at every compression",
            code=code, rows=(header, rows),
        )  # fmt: skip


def patches(recording: Recording, moment: Moment, found: TokenLife, layer: int) -> None:
    """The token's frame; a patch that nobody holds is dark, and a click follows another patch."""
    if found.frame < 0 or (picture := moment.picture(found.frame)) is None:
        st.caption("This token has no picture: it is no patch of a frame, or none was recorded.")
        return
    share = figures.surviving_share(
        moment.state,
        moment.column("frame"),
        moment.column("row"),
        moment.column("col"),
        [found.frame],
        moment.grid,
        layer,
    )[0]
    drawn = figures.overlay(picture, share, height_px=240).copy()
    rows, cols = moment.grid
    high, wide = drawn.shape[:2]
    spots: list[tuple[float, float, float, float]] = []
    names: list[str] = []
    for row in range(rows):
        for col in range(cols):
            spots.append((col / cols, row / rows, (col + 1) / cols, (row + 1) / rows))
            names.append(
                f"row {row}, column {col}: {'held' if share[row, col] else 'not held'} in layer {layer}"
            )
    if found.row >= 0:
        y0, y1 = found.row * high // rows, (found.row + 1) * high // rows
        x0, x1 = found.col * wide // cols, (found.col + 1) * wide // cols
        for edge in (
            np.s_[y0 : y0 + 3, x0:x1],
            np.s_[y1 - 3 : y1, x0:x1],
            np.s_[y0:y1, x0 : x0 + 3],
            np.s_[y0:y1, x1 - 3 : x1],
        ):
            drawn[edge] = (213, 94, 0)
    FRAME.set(found.frame)
    draw_picture(
        drawn, spots, names, key=keys.WHY_PATCHES, on_spot=patch_clicked,
        alt=f"Frame {found.frame}; the token's patch is framed", across=cols,
        hint=f"Frame {found.frame}. Dark patches are not held in layer {layer}; click one to follow it.",
    )  # fmt: skip
    picture_offer(
        lambda: drawn, key="why-patches-files", name=f"frame-{found.frame}-layer-{layer}",
        alt=f"Frame {found.frame}; patches that layer {layer} does not hold are dark",
        rows=(("row", "col", "held"), [(y, x, int(share[y, x])) for y, x in np.ndindex(*share.shape)]),
        code=f"""
from PIL import Image

from hermes_lab import figures
from hermes_lab.recording import Recording

recording = Recording.open({str(recording.folder)!r})
retention, table = recording.retention(), recording.tokens
frame, row, col = (table.column(c)[retention.ids] for c in ("frame", "row", "col"))
(share,) = figures.surviving_share(
    retention.state(), frame, row, col, [{found.frame}], recording.manifest.model.grid, {layer}
)
Image.fromarray(figures.overlay(recording.thumbnail({found.frame}), share, height_px=240)).show()
""",
    )  # fmt: skip


def patch_clicked() -> None:
    """Follow a token of the clicked patch."""
    moment, spot = MOMENT.get(), reported(keys.WHY_PATCHES, "spot")
    if moment is None or spot is None:
        return
    rows, cols = moment.grid
    if not 0 <= int(spot) < rows * cols:
        return
    row, col = divmod(int(spot), cols)
    here = (moment.column("frame") == FRAME.get()) & (moment.column("row") == row)
    found = moment.ids[here & (moment.column("col") == col)]
    if len(found):
        st.session_state[keys.TOKEN] = int(found[0])


def fates(recording: Recording, found: TokenLife, layer: int) -> None:
    """One line per layer."""
    st.subheader("In every layer", anchor=False)
    rows = [
        {
            "layer": one.layer,
            "fate": one.fate,
            "entered": one.entered_step,
            "left": one.left_step,
            "times ranked": len(one.trials),
            "last rank": f"{one.trials[-1].rank} of {one.trials[-1].candidates}"
            if one.trials
            else "",
            "last score": one.trials[-1].score if one.trials else None,
            "reason": one.reason,
        }
        for one in found.layers
    ]
    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        height=min(300, 38 + 35 * len(rows)),
        key="why-fates",
    )
    offer(
        key="why-fates-files", name=f"token-{found.id}",
        code=f"""
from hermes_lab.recording import Recording

for layer in Recording.open({str(recording.folder)!r}).life({found.id}).layers:
    print(layer.layer, layer.fate, layer.reason)
""",
        rows=(tuple(rows[0]) if rows else (), [tuple(r.values()) for r in rows]),
    )  # fmt: skip


def attended(recording: Recording, layer: int, token: int) -> None:
    """Which heads looked at the token's frame, and at the token itself where full rows were recorded."""
    st.subheader("Which heads attended to it", anchor=False)
    frame = int(recording.tokens.column("frame")[token])
    if frame < 0:
        st.info("The token belongs to no frame; attention was recorded by frame.")
        return
    probes = [
        (printable(f"answer {n}: {a.question}"), a.attention)
        for n, a in enumerate(recording.answers)
        if a.attention
    ]
    last = recording.steps[len(recording.steps) - 1]
    probes += [(f"{s.group}, last step", s) for s in last.attention]
    probes = [(name, s) for name, s in probes if frame < s.frame_mass.shape[-1]]
    if not probes:
        st.info("No attention was recorded after this token came.")
        return
    names = [name for name, _ in probes]
    state.lasting(keys.WHY_PROBE, names[0], among=names)
    chosen = st.selectbox("Queries", names, key=keys.WHY_PROBE)
    summary: AttentionSummary = probes[names.index(chosen)][1]
    mass = np.asarray(summary.frame_mass[:, :, frame], float)
    chart(
        figures.atlas(mass, metric=f"mass on frame {frame}", chosen=None), key="why-heads", name=f"heads-frame-{frame}",
        alt=f"Attention mass of every layer and head on frame {frame}",
        code=f"""
from hermes_lab import figures
from hermes_lab.recording import Recording

recording = Recording.open({str(recording.folder)!r})
{_summary_code(chosen, recording)}
figures.atlas(summary.frame_mass[:, :, {frame}], metric="mass on frame {frame}").show()
""",
        rows=(("layer", "head", "mass"), [(y, x, mass[y, x]) for y in range(mass.shape[0]) for x in range(mass.shape[1])]),
    )  # fmt: skip
    about(
        f"the attention that each head's queries gave to frame {frame} as a whole.",
        "which patch of the frame it fell on; a recording keeps mass by frame, unless made with record_level='rows'.",
    )
    exact(summary, layer, token)


def _summary_code(chosen: str, recording: Recording) -> str:
    if chosen.startswith("answer "):
        return (
            f"summary = recording.answers[{chosen.split(':')[0].removeprefix('answer ')}].attention"
        )
    group = chosen.removesuffix(", last step")
    return f"summary = next(s for s in recording.steps[-1].attention if s.group == {group!r})"


def exact(summary: AttentionSummary, layer: int, token: int) -> None:
    """The attention on the token itself, where the rows of its layer were kept."""
    if layer not in summary.rows:
        st.caption(where_rows_are(summary))
        return
    weights: list[float] = []
    for head in range(summary.rows[layer].shape[0]):
        ids, weight = row_of(summary, layer, head)
        place = np.flatnonzero(ids == token)
        weights.append(float(weight[place[0]]) if len(place) else 0.0)
    best = int(np.argmax(weights))
    if not any(weights):
        st.caption(f"Layer {layer} did not hold the token when this question was read.")
        return
    words = ", ".join(f"head {h}: {w:.2%}" for h, w in enumerate(weights))
    st.markdown(f"On the token itself, in layer {layer}: {words}. Head {best} looked at it most.")

"""What the Live page shows as code and files: strip and filmstrip, of a recording or of the running stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from dashboards.live.filmstrip import FILM_FRAMES, film_of
from dashboards.live.moment import Scene, live_scene, recorded_scene
from dashboards.live.panels import NEWEST
from dashboards.parts import snippets, state
from dashboards.parts.page_parts import offer, picture_offer
from hermes_lab import figures
from hermes_lab.recording import Recording, Retention

if TYPE_CHECKING:
    from dashboards.live.worker import StreamWorker


def recorded_files(recording: Recording, retention: Retention) -> None:
    """The strip and the filmstrip of a recording after the step in the URL (the last one while it plays).

    Args:
        retention: of the recording. A file is made outside of the page's run, where no cache of the session can be asked.
    """
    view: state.ViewState = st.session_state["view"]
    index = len(recording.steps) - 1
    if view.step is not None:
        index = min(int(recording.timeline.step.searchsorted(view.step)), index)

    def scene() -> Scene:
        return recorded_scene(recording, retention, index)

    offer(
        key="live-strip-files", name="retention-strip", of="the strip",
        code=f"""
from hermes_lab import figures
from hermes_lab.recording import Recording

recording = Recording.open({str(recording.folder)!r})
strip = figures.recorded_strip(recording{"" if view.step is None else f", step={view.step}"})
figures.retention_figure(strip).show()
""",
        html=lambda: figures.to_html(figures.retention_figure(scene().strip), "Retention strip"),
        svg=lambda: figures.strip_svg(scene().strip), csv_text=lambda: figures.strip_csv(scene().strip),
    )  # fmt: skip
    shown = film_of(scene(), view.film, view.frames == NEWEST)
    if shown is not None:
        picture_offer(
            lambda: shown.picture, key="live-film-files", name="filmstrip", of="the filmstrip", alt=shown.alt, rows=shown.rows(),
            code=snippets.film(
                str(recording.folder), step=view.step, layer=view.film, count=FILM_FRAMES, newest=view.frames == NEWEST
            ),
        )  # fmt: skip


def running_files(worker: StreamWorker) -> None:
    """The strip of the running stream, as it is when a file is asked for."""

    def strip() -> figures.Strip:
        scene = live_scene(worker, worker.latest())
        if scene is None:
            return figures.make_strip(np.empty((0, 0), np.int8), np.empty(0), np.empty(0))
        return scene.strip

    imports = ("from hermes_lab import figures", "from hermes_lab.recording import Recording")
    offer(
        key="live-strip-files", name="retention-strip", of="the strip",
        code=worker.snippet(*imports, record="stream")
        + "session.close()\n\nfigures.retention_figure(figures.recorded_strip(Recording.open(folder))).show()",
        html=lambda: figures.to_html(figures.retention_figure(strip()), "Retention strip"),
        svg=lambda: figures.strip_svg(strip()), csv_text=lambda: figures.strip_csv(strip()),
    )  # fmt: skip

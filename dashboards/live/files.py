"""What the Live page shows as code and files: strip and filmstrip, of a recording or of the running stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dashboards.live.filmstrip import FILMSTRIP_FRAMES, filmstrip_of
from dashboards.live.moment import Moment, live_moment, recorded_moment
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
    view = state.current()
    index = len(recording.steps) - 1
    if view.step is not None:
        index = min(int(recording.timeline.step.searchsorted(view.step)), index)

    def moment() -> Moment:
        return recorded_moment(recording, retention, index)

    offer(
        key="live-strip-files", name="retention-strip", of="the strip",
        code=f"""
from hermes_lab import figures
from hermes_lab.recording import Recording

recording = Recording.open({str(recording.folder)!r})
strip = figures.recorded_strip(recording{"" if view.step is None else f", step={view.step}"})
figures.retention_figure(strip).show()
""",
        html=lambda: figures.to_html(figures.retention_figure(moment().strip), "Retention strip"),
        svg=lambda: figures.strip_svg(moment().strip), csv_text=lambda: figures.strip_csv(moment().strip),
    )  # fmt: skip
    shown = filmstrip_of(moment(), view.filmstrip, view.frames == NEWEST)
    if shown is not None:
        picture_offer(
            lambda: shown.picture, key="live-filmstrip-files", name="filmstrip", of="the filmstrip", alt=shown.alt, rows=shown.rows(),
            code=snippets.filmstrip(
                str(recording.folder), step=view.step, layer=view.filmstrip, count=FILMSTRIP_FRAMES, newest=view.frames == NEWEST
            ),
        )  # fmt: skip


def running_files(worker: StreamWorker) -> None:
    """The strip of the running stream, as it is when a file is asked for."""

    def strip() -> figures.Strip:
        moment = live_moment(worker, worker.latest())
        if moment is None:
            return figures.make_strip(np.empty((0, 0), np.int8), np.empty(0, np.int64), np.empty(0))
        return moment.strip

    imports = ("from hermes_lab import figures", "from hermes_lab.recording import Recording")
    offer(
        key="live-strip-files", name="retention-strip", of="the strip",
        code=worker.snippet(*imports, record="stream")
        + "session.close()\n\nfigures.retention_figure(figures.recorded_strip(Recording.open(folder))).show()",
        html=lambda: figures.to_html(figures.retention_figure(strip()), "Retention strip"),
        svg=lambda: figures.strip_svg(strip()), csv_text=lambda: figures.strip_csv(strip()),
    )  # fmt: skip

"""How fast the dashboard is, measured in a headless Chromium; prints one line a number.

    python scripts/measure_dashboard.py [--model pocket] [--seconds 20]

First content: from starting the command to a painted strip. Views: different pictures of the strip painted a second,
while a stream runs at 4 times the stream's speed and in the replay; those that the server sent (frames that came, chunks
that were decided) are also counted alone, without the clock that the browser carries on between them. Busy share: the
browser's main thread (CDP Performance.getMetrics, TaskDuration over the time that passed), by the clock and by
processor time; the first counts it as busy while other programs hold its core. Page change: from the click to the other
page at rest. One-hour recording: 3600 frames in 225 steps, made up, opened in a fresh tab.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.dashboard_browser import chromium, server, settled
from tests.recording_streams import Stream, manifest

PAGES = ("Why", "Attention atlas", "Policy lab", "Findings", "Recordings", "Live")
PATIENCE_MS = 240_000


def say(name: str, value: float, unit: str) -> None:
    print(f"{name:58s} {value:8.2f} {unit}", flush=True)


def painted(page: Page) -> None:
    page.wait_for_function("(window.__hermesStripDraws || 0) >= 1", timeout=PATIENCE_MS)


def moving(page: Page, seconds: float, name: str) -> None:
    """What the main thread and the strip do in some seconds."""
    clocks = {}
    for domain in ("timeTicks", "threadTicks"):
        clocks[domain] = page.context.new_cdp_session(page)
        clocks[domain].send("Performance.enable", {"timeDomain": domain})

    def read() -> tuple[float, float, float, float, float]:
        worked = []
        for session in clocks.values():
            metrics = session.send("Performance.getMetrics")["metrics"]
            worked.append(next(m["value"] for m in metrics if m["name"] == "TaskDuration"))
        counts: Any = page.evaluate(
            "[window.__hermesStripChanges || 0, window.__hermesStripSteps || 0]"
        )
        return time.perf_counter(), *worked, *counts

    before = read()
    page.wait_for_timeout(1000 * seconds)
    after = read()
    passed, busy, worked, changes, steps = (b - a for a, b in zip(before, after, strict=True))
    say(f"{name}: main thread busy", 100 * busy / passed, "%")
    say(f"{name}: main thread, processor time", 100 * worked / passed, "%")
    say(f"{name}: different views painted", changes / passed, "a second")
    say(f"{name}: of these, sent by the server", steps / passed, "a second")


def one_hour(folder: Path) -> None:
    """A recording of 3600 frames: 28 layers of 4 tokens per frame under a budget of 512."""
    from hermes_lab.recording import RecordingWriter
    from hermes_lab.recording.format import ModelInfo

    stream = Stream(layers=28, chunk_frames=16, budget=512, query_heads=28, tokens_per_frame=4)
    model = ModelInfo("made-up", "llava_onevision", 28, 28, 4, 128, 4, (2, 2), None)
    with RecordingWriter(folder, manifest(model=model, chunk_frames=16)) as writer:
        for snapshot, table in stream.play(225):
            writer.write_step(snapshot, table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        one_hour(runs / "one-hour")
        begun = time.perf_counter()
        with server(runs) as address, chromium() as browser:
            page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.goto(address)
            painted(page)
            say("first content (server, browser and page start)", time.perf_counter() - begun, "s")
            moving(page, min(options.seconds, 8.0), "replay")
            settled(page, 120)
            page.get_by_role("button", name="Pause", exact=True).click()
            settled(page, 120)
            page.wait_for_timeout(
                15_000
            )  # libraries that run models are imported in the background once
            for name in PAGES:
                start = time.perf_counter()
                page.get_by_role("link", name=name, exact=True).click()
                page.get_by_role("heading", name=name, exact=True).wait_for()
                settled(page, 120)
                say(f"page change to {name}", time.perf_counter() - start, "s")
            hour = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
            hour.set_default_timeout(PATIENCE_MS)
            start = time.perf_counter()
            hour.goto(f"{address}/?recording=one-hour&step=224")
            painted(hour)
            say("one-hour recording opens (fresh tab)", time.perf_counter() - start, "s")
            hour.context.close()
            page.goto(
                f"{address}/?mode=Run+a+model&source=world:seed%3D7,frames%3D4096&model={options.model}"
            )
            settled(page, 120)
            page.get_by_role("button", name="Start", exact=True).click()
            page.wait_for_function("(window.__hermesStripDraws || 0) >= 8", timeout=PATIENCE_MS)
            moving(page, options.seconds, "live at 4 times the stream's speed")
            page.context.close()
    print(f"load average after: {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A real Chromium on a real server: what a person sees and clicks. Needs Chromium (CHROMIUM names another one)."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Browser, Page, expect  # noqa: E402

from scripts.dashboard_browser import CHROMIUM, settled  # noqa: E402
from tests.browser.steps import (  # noqa: E402
    PATIENCE_MS,
    RUN_LINK,
    counted,
    go,
    start,
    wait_for_count,
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"no browser at {CHROMIUM}"),
]
PAGES = {"": "Live", "why": "Why", "atlas": "Attention atlas", "lab": "Policy lab", "findings": "Findings",
         "recordings": "Recordings"}  # fmt: skip


STILL = """selector => {
  const r = document.querySelector(selector).getBoundingClientRect(), now = [r.x, r.y, r.width, r.height].join();
  const same = window.__stood === now;
  window.__stood = now;
  return same;
}"""
"""Whether an element stood still since the last look: where it was before is not where to click."""


@pytest.mark.parametrize("path", PAGES)
def test_each_page_opens(page: Page, address: str, path: str) -> None:
    go(page, f"{address}/{path}")
    expect(page.get_by_role("heading", name=PAGES[path], exact=True)).to_be_visible()


def test_the_strip_of_the_bundled_recording_is_painted_and_a_clicked_cell_says_what_it_is(
    page: Page, address: str
) -> None:
    go(page, f"{address}/?step=5")
    canvas = page.locator("canvas.strip")
    expect(canvas).to_be_visible()
    colours = canvas.evaluate(
        "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, seen = new Set();"
        " for (let i = 0; i < d.length; i += 4) seen.add(d[i] + ',' + d[i + 1] + ',' + d[i + 2]); return [...seen]; }"
    )
    assert "0,114,178" in colours  # kept
    assert "222,222,222" in colours  # evicted
    box = canvas.bounding_box()
    assert box is not None
    canvas.click(position={"x": 30, "y": box["height"] - 4})
    expect(page.get_by_text(re.compile(r"Token \d+"))).to_be_visible()
    page.get_by_role("link", name="Why?").click()
    expect(page.get_by_role("heading", name="Why", exact=True)).to_be_visible()
    expect(page.get_by_text(re.compile(r"came in with feed step"))).to_be_visible()
    assert "token=" in page.url


def test_the_strip_can_be_walked_with_the_keyboard(page: Page, address: str) -> None:
    go(page, f"{address}/?step=5")
    canvas = page.locator("canvas.strip")
    canvas.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    expect(page.get_by_text(re.compile(r"^layer 2, frame"))).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile(r"in layer 2\."))).to_be_visible()


def test_replay_plays_and_pauses(page: Page, address: str) -> None:
    go(page, f"{address}/?step=0")
    page.get_by_role("button", name="Play", exact=True).click()
    wait_for_count(page, "__hermesStripSteps", 3)
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(page.get_by_text("After step")).to_be_visible()
    settled(page)
    before = counted(page, "__hermesStripChanges")
    page.wait_for_timeout(1500)
    assert counted(page, "__hermesStripChanges") == before
    assert "step=" in page.url


def test_the_strip_moves_between_two_messages_and_only_while_the_stream_does(
    page: Page, address: str
) -> None:
    """The recording's frames come one a second: in between the browser carries the clock on by itself."""
    go(page, f"{address}/?step=0&speed=1")
    page.get_by_role("button", name="Play", exact=True).click()
    wait_for_count(page, "__hermesStripSteps", 3)
    wait_for_count(page, "__hermesStripChanges", 3 * counted(page, "__hermesStripSteps"))
    expect(page.locator(".filmstrip .coming")).to_have_count(1)
    expect(page.get_by_text("on its way", exact=True)).to_be_visible()
    expect(page.locator("figcaption")).to_contain_text("of the next chunk")


def test_a_frame_of_the_filmstrip_is_chosen_with_the_keyboard(page: Page, address: str) -> None:
    go(page, f"{address}/?step=5")
    tile = page.get_by_role("button", name=re.compile(r"^frame 0 at 0\.0 s"))
    tile.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile(r"frame 0, row"))).to_be_visible()
    assert "frame=0" in page.url


def test_a_stream_is_played_asked_paused_and_its_policy_changed(page: Page, address: str) -> None:
    start(page, address, frames=512)
    wait_for_count(page, "__hermesStripSteps", 4)
    box = page.get_by_placeholder("Ask the stream something, at any time")
    box.fill("what was the first object")
    box.press("Enter")
    expect(page.get_by_text(re.compile(r"TTFT \d+ ms over"))).to_be_visible()
    page.get_by_role("combobox", name=re.compile("Policy")).fill(
        "uniform"
    )  # the list draws what is in view
    page.get_by_role("option", name=re.compile("^uniform")).click()
    page.get_by_role("button", name="Use it from the next decision on").click()
    running = page.get_by_test_id("stMainBlockContainer").get_by_text(
        "uniform(budget_tokens=48)",
        exact=True,  # the snippet under the strip names it too
    )
    expect(running).to_be_visible()
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(page.get_by_text("Paused.")).to_be_visible()
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_text("Choose a source, a model and a policy")).to_be_visible()


def test_two_tabs_do_not_disturb_each_other(page: Page, browser: Browser, address: str) -> None:
    start(page, address, frames=512)
    other = browser.new_context()
    second = other.new_page()
    second.set_default_timeout(PATIENCE_MS)
    second.goto(address + RUN_LINK.format(frames=64))
    settled(second, PATIENCE_MS / 1000)
    expect(second.get_by_text("Choose a source, a model and a policy")).to_be_visible()
    other.close()
    wait_for_count(page, "__hermesStripSteps", counted(page, "__hermesStripSteps") + 2)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_text("Choose a source, a model and a policy")).to_be_visible()


def test_a_shared_link_opens_the_same_view(page: Page, address: str) -> None:
    go(page, f"{address}/why?layer=4&token=300")
    expect(page.get_by_text("Token 300")).to_be_visible()
    expect(page.get_by_text(re.compile("In layer 4:"))).to_be_visible()
    go(page, f"{address}/atlas?layer=3&head=2&metric=entropy")
    expect(page.get_by_label("Layer", exact=True)).to_have_value("3")
    expect(page.get_by_label("Head", exact=True)).to_have_value("2")


def test_a_clicked_head_of_the_atlas_shows_its_frames(page: Page, address: str) -> None:
    go(page, f"{address}/atlas?layer=0&head=0")
    plot = page.locator(".js-plotly-plot").first
    expect(plot).to_be_visible()
    page.wait_for_function(STILL, arg=".js-plotly-plot", polling=400)
    spot = plot.evaluate(
        "p => { const x = p._fullLayout.xaxis, y = p._fullLayout.yaxis, r = p.getBoundingClientRect();"
        " return [r.left + x._offset + x.d2p(2), r.top + y._offset + y.d2p(3)]; }"
    )
    page.mouse.move(*spot)
    page.mouse.click(*spot)
    expect(page.get_by_label("Layer", exact=True)).to_have_value("3")
    expect(page.get_by_label("Head", exact=True)).to_have_value("2")


def test_a_broken_upload_is_one_sentence(page: Page, address: str) -> None:
    go(page, f"{address}/?mode=Run+a+model&model=tiny")
    page.get_by_role("combobox", name=re.compile("Source")).click()
    page.get_by_role("option", name="Upload").click()
    page.locator("input[type=file]").set_input_files(
        {"name": "holiday.mp4", "mimeType": "video/mp4", "buffer": b"this is no video"}
    )
    alert = page.get_by_test_id("stAlert").filter(has_text="holiday.mp4")
    expect(alert).to_be_visible()
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_disabled()


def test_dark_follows_the_system(browser: Browser, address: str) -> None:
    context = browser.new_context(color_scheme="dark", viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    go(page, f"{address}/?step=5")
    corner = page.locator("canvas.strip").evaluate(
        "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        ".reduce((seen, v, i, d) => (i % 4 ? seen : seen.add([d[i], d[i + 1], d[i + 2]].join())), new Set()).has('86,180,233')"
    )
    assert corner
    context.close()


def test_closing_the_tab_stops_its_stream_and_removes_its_files(
    browser: Browser, address: str, runs: Path, scratch: Path
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    before = set(runs.iterdir())
    start(page, address, frames=4096)
    (recording,) = set(runs.iterdir()) - before
    assert '"status": "open"' in (recording / "manifest.json").read_text()
    mine = {p for p in scratch.iterdir() if p.name.startswith("hermes-lab-")}
    assert mine
    context.close()
    until = time.monotonic() + PATIENCE_MS / 1000
    while '"status": "open"' in (recording / "manifest.json").read_text():
        assert time.monotonic() < until, "the stream goes on after its tab is closed"
        time.sleep(0.5)
    assert '"status": "finished"' in (recording / "manifest.json").read_text()
    while any(p.exists() for p in mine):
        assert time.monotonic() < until, "temporary files outlive their session"
        time.sleep(0.5)

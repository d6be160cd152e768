"""Going from page to page keeps what was chosen: recording, layer, running stream and form."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Page, expect  # noqa: E402

from scripts.dashboard_browser import CHROMIUM, settled  # noqa: E402
from tests.browser.steps import PATIENCE_MS, go, start  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"no browser at {CHROMIUM}"),
]
HEADINGS = {"Live": "", "Why": "why", "Attention atlas": "atlas", "Findings": "findings",
            "Policy lab": "lab", "Recordings": "recordings"}  # fmt: skip


def turn_to(page: Page, title: str, link: str = "") -> None:
    """Click a page in the bar at the top, or a link on the page, and wait until it is drawn."""
    top = page.get_by_role("link", name=link or title, exact=not link)
    top.first.click()
    expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()
    page.wait_for_url(re.compile(rf"/{HEADINGS[title]}(\?|$)"))
    settled(page, PATIENCE_MS / 1000)


def shows(page: Page, recording: str, layer: int | None = None) -> None:
    """The page and its address name this recording and this layer."""
    box = page.get_by_role("combobox", name="Recording", exact=True)
    if "/recordings" in page.url:
        box = page.get_by_role("combobox", name="Open", exact=True)
    expect(box).to_have_value(recording)
    page.wait_for_url(re.compile(rf"[?&]recording={recording}(&|$)"))
    if layer is not None:
        page.wait_for_url(re.compile(rf"[?&]layer={layer}(&|$)"))
        if "/recordings" not in page.url:
            expect(page.get_by_label("Layer", exact=True)).to_have_value(str(layer))


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()
    settled(page, PATIENCE_MS / 1000)


def test_navigation_keeps_recording_and_layer(page: Page, address: str) -> None:
    go(page, f"{address}/atlas?recording=mine&layer=5")
    shows(page, "mine", 5)
    for title in (
        "Why",
        "Attention atlas",
        "Recordings",
        "Why",
        "Policy lab",
        "Findings",
        "Attention atlas",
        "Why",
    ):
        turn_to(page, title)
        if title not in ("Policy lab", "Findings"):
            shows(page, "mine", 5)


def test_a_recording_chosen_by_hand_is_kept_on_every_page(page: Page, address: str) -> None:
    go(page, f"{address}/why")
    choose(page, "Recording", "mine")
    for title in ("Attention atlas", "Why", "Live", "Why", "Recordings", "Live"):
        turn_to(page, title)
        shows(page, "mine")


@pytest.mark.parametrize(
    ("link", "title"),
    [("Replay it", "Live"), ("Ask why", "Why"), ("Its attention", "Attention atlas")],
)
def test_the_links_of_a_recording_open_that_recording(
    page: Page, address: str, link: str, title: str
) -> None:
    go(page, f"{address}/recordings?recording=mine&layer=5&mode=Run+a+model")
    turn_to(page, title, link)
    shows(page, "mine", None if title == "Live" else 5)
    turn_to(page, "Recordings")
    shows(page, "mine", 5)


def test_back_shows_at_once_what_the_page_showed_before(page: Page, address: str) -> None:
    go(page, f"{address}/why?recording=mine&layer=5&token=300")
    shows(page, "mine", 5)
    layer = page.get_by_label("Layer", exact=True)
    layer.fill("2")
    layer.press("Enter")
    shows(page, "mine", 2)
    page.go_back()
    shows(page, "mine", 5)
    page.go_forward()
    shows(page, "mine", 2)


def test_a_running_stream_and_its_form_outlast_other_pages(page: Page, address: str) -> None:
    start(page, address, frames=1024)
    budget = page.get_by_label("Budget: video tokens per layer", exact=True)
    budget.fill("96")
    budget.press("Enter")
    form = page.get_by_test_id("stSidebar")
    rate = form.get_by_label("Frames per second")
    rate.fill("2.5")
    rate.press("Enter")
    form.get_by_text("Record", exact=True).click()
    speed = page.get_by_test_id("stMainBlockContainer").get_by_role("combobox", name="Speed")
    speed.click()
    page.get_by_role("option", name="1x", exact=True).click()
    expect(page.get_by_text("The policy above differs")).to_be_visible()
    canvas = page.locator("canvas.strip")
    canvas.click(position={"x": 6, "y": 4})
    turn_to(page, "Why", "Why?")
    expect(page.get_by_role("combobox", name="Recording", exact=True)).to_have_value(
        re.compile("^live-")
    )
    turn_to(page, "Policy lab")
    turn_to(page, "Live")
    expect(page.get_by_text("Streaming.")).to_be_visible()
    expect(canvas).to_be_visible()
    expect(form.get_by_role("combobox", name="Source", exact=True)).to_have_value(
        "Procedural world"
    )
    expect(form.get_by_label("Seed")).to_have_value("3")
    expect(form.get_by_label("Frames", exact=True)).to_have_value("1024")
    expect(form.get_by_role("combobox", name="Policy", exact=True)).to_have_value(
        re.compile("^fifo")
    )
    expect(budget).to_have_value("96")
    expect(rate).to_have_value("2.50")
    expect(form.get_by_role("switch", name="Record")).not_to_be_checked()
    expect(speed).to_have_value("1x")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_text("Choose a source, a model and a policy")).to_be_visible()

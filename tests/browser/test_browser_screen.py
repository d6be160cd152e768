"""What must be on the screen without scrolling, on a laptop and on a projector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Browser, Locator, Page, expect  # noqa: E402

from scripts.dashboard_browser import CHROMIUM, settled  # noqa: E402
from tests.browser.steps import PATIENCE_MS, start, wait_for_count  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"no browser at {CHROMIUM}"),
]
SCREENS = [(1440, 900), (1280, 720)]
SCROLLED = """() => [...document.querySelectorAll('*')]
  .filter(e => !e.closest('[data-testid=stSidebar]')).reduce((most, e) => Math.max(most, e.scrollTop), 0)"""
"""How far the page, or anything on it, is scrolled down; the form beside it may be."""


@pytest.fixture(params=SCREENS, ids="{0[0]}x{0[1]}".format)
def screen(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(PATIENCE_MS)
    yield context.new_page()
    context.close()


def top_of(place: Locator) -> float:
    """Where an element begins, in pixels under the upper edge of the window."""
    box = place.bounding_box()
    assert box is not None
    return box["y"]


def in_view(page: Page) -> None:
    """Nothing is scrolled, the controls and the strip's top are on the screen."""
    assert page.evaluate(SCROLLED) == 0
    assert page.viewport_size is not None
    for place in (
        page.get_by_role("button", name="Play", exact=True),
        page.locator("canvas.strip"),
    ):
        assert 0 <= top_of(place) < page.viewport_size["height"]


def test_a_running_stream_never_scrolls_the_page_past_its_controls(
    screen: Page, address: str
) -> None:
    start(screen, address, frames=512)
    in_view(screen)
    wait_for_count(screen, "__hermesStripSteps", 3)
    in_view(screen)
    box = screen.get_by_placeholder("Ask the stream something, at any time")
    box.fill("what was the first object")
    box.press("Enter")
    expect(screen.get_by_text("TTFT, last answer")).to_be_visible()
    expect(screen.get_by_text("Likeliest first words")).to_be_attached()
    settled(screen)
    in_view(screen)
    strip = screen.locator("canvas.strip")
    strip.click(position={"x": 6, "y": 4})
    expect(screen.get_by_role("link", name="Why?")).to_be_attached()
    settled(screen)
    in_view(screen)
    screen.get_by_role("button", name="Stop", exact=True).click()

"""What browser tests do on a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts.dashboard_browser import settled

if TYPE_CHECKING:
    from playwright.sync_api import Page

PATIENCE_MS = 240_000  # a loaded machine is slow, not broken
RUN_LINK = "/?mode=Run+a+model&source=world:seed%3D3,frames%3D{frames}&model=tiny&policy=fifo(budget_tokens%3D48)"


def go(page: Page, url: str) -> None:
    """Open an address and wait until the page is drawn."""
    from playwright.sync_api import expect

    page.goto(url)
    settled(page, PATIENCE_MS / 1000)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def counted(page: Page, name: str) -> int:
    """One of the counters in `dashboards/browser/strip_parts.js`; 0 until something was painted."""
    return page.evaluate("name => window[name] || 0", name)


def wait_for_count(page: Page, name: str, least: int) -> None:
    page.wait_for_function("([name, least]) => (window[name] || 0) >= least", arg=[name, least])


def start(page: Page, address: str, frames: int) -> None:
    """Start a stream, and wait until a frame of it is drawn."""
    from playwright.sync_api import expect

    go(page, address + RUN_LINK.format(frames=frames))
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator("canvas.strip")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.locator("figcaption")).to_contain_text("frame")

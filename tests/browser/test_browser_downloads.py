"""Every download button gives a file."""

from __future__ import annotations

from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Page, expect  # noqa: E402

from scripts.dashboard_browser import CHROMIUM  # noqa: E402
from tests.browser.steps import go  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"no browser at {CHROMIUM}"),
]


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("?step=5&recording=mine", {"retention-strip.csv", "retention-strip.html", "retention-strip.svg", "filmstrip.svg"}),
        ("why?recording=mine&layer=4&token=300", {"token-300.csv", "heads-frame-18.html"}),
        ("recordings?recording=mine&other=bundled", {"mine.zip", "recordings.csv", "mine-bundled.csv"}),
    ],
)  # fmt: skip
def test_every_download_arrives(page: Page, address: str, path: str, files: set[str]) -> None:
    go(page, f"{address}/{path}")
    expect(page.get_by_text("Copy as Python, download").last).to_be_visible()
    page.wait_for_timeout(1000)
    for box in page.locator("summary").element_handles():  # an outer one before those inside it
        if box.is_visible():
            box.click()
    arrived: set[str] = set()
    for button in (
        page.get_by_test_id("stDownloadButton").get_by_role("button").filter(visible=True).all()
    ):
        with page.expect_download() as download:
            button.click()
        assert download.value.path().stat().st_size > 10
        arrived.add(download.value.suggested_filename)
    assert files <= arrived

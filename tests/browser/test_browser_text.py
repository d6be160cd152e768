"""What people and models say is shown letter by letter, and makes the browser ask nobody for anything."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

playwright = pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Page, expect  # noqa: E402

from scripts.dashboard_browser import CHROMIUM  # noqa: E402
from tests.browser.steps import go, start  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"no browser at {CHROMIUM}"),
]
HOSTILE = "is it $5 or $10, *really* __so__? ![p](http://evil.example/p.png) <b>x</b> [l](http://evil.example) :red[y]"


@pytest.fixture
def asked(page: Page) -> list[str]:
    """Every address that the page asks for."""
    found: list[str] = []
    page.on("request", lambda request: found.append(request.url))
    return found


def test_a_question_is_shown_as_it_was_typed(page: Page, address: str, asked: list[str]) -> None:
    start(page, address, frames=64)
    expect(
        page.get_by_text("of 48").first
    ).to_be_visible()  # the first chunk is in: there is something to ask about
    box = page.get_by_placeholder("Ask the stream something, at any time")
    box.fill(HOSTILE)
    box.press("Enter")
    expect(page.get_by_test_id("stChatMessage").first).to_contain_text(HOSTILE)
    page.wait_for_timeout(500)
    assert [url for url in asked if "evil.example" in url] == []
    page.get_by_role("button", name="Stop", exact=True).click()


@pytest.mark.parametrize("place", ["why", "", "atlas", "recordings"])
def test_a_link_is_quoted_as_it_is_written(
    page: Page, address: str, asked: list[str], place: str
) -> None:
    go(page, f"{address}/{place}?recording={quote(HOSTILE)}")
    warning = page.get_by_test_id("stAlert").filter(has_text="There is no recording")
    expect(warning).to_contain_text(f"There is no recording '{HOSTILE}' here")
    page.wait_for_timeout(500)
    assert [url for url in asked if url.startswith("http://evil.example")] == []


@pytest.fixture(
    params=["実験 1 (fifo,b=256) #2 100%", os.fsdecode(b"caf\xe9"), "two\nlines", "![x](y)*a*"]
)
def named(runs: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A recording of that name, by the name that pages call it by."""
    shutil.copytree(runs / "mine", runs / request.param)
    yield request.param.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    shutil.rmtree(runs / request.param)


def test_a_recording_of_any_name_opens_from_its_link_and_comes_as_a_zip(
    page: Page, address: str, named: str
) -> None:
    go(page, f"{address}/recordings?recording={quote(named)}")
    expect(page.get_by_text(f"Recording   {named.splitlines()[0]}")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as zip").click()
    assert download.value.suggested_filename.endswith(".zip")
    assert download.value.path().stat().st_size > 10_000
    page.get_by_role("link", name="Ask why").click()
    expect(page.get_by_role("heading", name="Why", exact=True)).to_be_visible()
    expect(page.get_by_text("came in with feed step")).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)
    expect(page.get_by_test_id("stAlert")).to_have_count(0)

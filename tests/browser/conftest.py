"""A real server and a real Chromium, and pages whose console must stay free of errors."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Browser, Page, expect  # noqa: E402

from scripts.dashboard_browser import chromium, server  # noqa: E402
from tests.browser.steps import PATIENCE_MS  # noqa: E402

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one recording, "mine", beside the bundled one."""
    from hermes_lab import bundled

    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(bundled.recording_path(), folder / "mine")
    return folder


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server puts temporary files."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory, runs: Path, scratch: Path) -> Iterator[str]:
    from tests.checkpoints import write_checkpoint

    model = write_checkpoint(
        "llava_onevision", tmp_path_factory.mktemp("models") / "tiny", layers=3
    )
    with server(runs, {"HERMES_LAB_MODELS": str(model), "TMPDIR": str(scratch)}) as url:
        yield url


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh page whose console must stay free of errors."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE_MS)
    opened = context.new_page()
    said: list[str] = []
    opened.on(
        "console",
        lambda m: (
            said.append(f"{m.text} {m.location.get('url', '')}") if m.type == "error" else None
        ),
    )
    opened.on("pageerror", lambda e: said.append(str(e)))
    yield opened
    context.close()
    # Streamlit itself asks for these under a page's own path first, then at the root
    assert [s for s in said if "_stcore/" not in s] == []

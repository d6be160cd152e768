"""Files are made when somebody asks for them: in a thread of the server, with no page and no session around it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from tests.app.pages import press, sound

LINK = {"mode": "Run a model", "source": "world:seed=3,frames=16", "model": "tiny"}


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], Any]]:
    """What the download buttons of the pages drawn so far would make, by file name."""
    found: dict[str, Callable[[], Any]] = {}
    real = DeltaGenerator.download_button

    def noting(self: DeltaGenerator, label: str, data: Any, **how: Any) -> bool:
        found[how["file_name"]] = data
        return real(self, label, data, **how)

    monkeypatch.setattr(DeltaGenerator, "download_button", noting)
    monkeypatch.setattr(st, "download_button", lambda *a, **k: noting(st._main, *a, **k))
    return found


def made(offered: dict[str, Callable[[], Any]]) -> dict[str, int]:
    """The length of each file, made outside of the page's thread."""
    with ThreadPoolExecutor(1) as elsewhere:
        return {name: len(elsewhere.submit(make).result()) for name, make in offered.items()}


@pytest.mark.parametrize("page", ["live", "why", "atlas", "recordings"])
def test_every_file_of_a_page_can_be_made_without_the_page(open_page, offered, page: str) -> None:
    app = sound(open_page(page, recording="first", step="2", other="second"))
    assert not app.error
    sizes = made(offered)
    assert len(sizes) >= 5
    assert min(sizes.values()) > 10, sizes
    if page == "live":
        kinds = {f"retention-strip.{kind}" for kind in ("csv", "html", "svg")}
        assert kinds < set(sizes)


def test_every_file_of_a_running_stream_can_be_made_without_the_page(open_page, offered) -> None:
    from tests.app.test_app_streams import says, until

    app = sound(open_page("live", policy="fifo(budget_tokens=48)", **LINK))
    press(app, "Start")
    until(app, says("The stream has ended"))
    assert set(made(offered)) == {f"retention-strip.{kind}" for kind in ("csv", "html", "svg")}

"""A recordings folder made once from a procedural world and a tiny checkpoint, and pages to run on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

APP = Path(__file__).resolve().parents[2] / "dashboards" / "app.py"
PATIENCE_S = 120
FRAMES = 24


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.checkpoints import write_checkpoint

    return write_checkpoint("llava_onevision", tmp_path_factory.mktemp("models") / "tiny", layers=3)


@pytest.fixture(scope="session")
def lab(model_folder: Path):
    import hermes_lab

    return hermes_lab.load(model_folder)


@pytest.fixture(scope="session")
def recorded(lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of one stream, "first" under hermes and "second" under fifo."""
    from hermes_lab import video
    from hermes_lab.stream.session import StreamSession

    root = tmp_path_factory.mktemp("runs")
    for name, policy in (
        ("first", "hermes(budget_tokens=40)"),
        ("second", "fifo(budget_tokens=40)"),
    ):
        source = video.open(f"world:seed=7,frames={FRAMES}")
        session = StreamSession(
            lab, policy, chunk_frames=4, record=root / name, record_level="rows", fps=1,
            source={"name": source.name, "kind": source.kind},
        )  # fmt: skip
        with session:
            for chunk in source.chunks(4):
                session.feed(chunk)
            session.ask("what was the first object", max_new_tokens=3)
    return root


@pytest.fixture
def runs(
    recorded: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of the recordings folder that a test may change, in the app's environment."""
    root = tmp_path / "runs"
    shutil.copytree(recorded, root)
    monkeypatch.setenv("HERMES_LAB_RECORDINGS", str(root))
    monkeypatch.setenv("HERMES_LAB_MODELS", str(model_folder))
    monkeypatch.setenv("HERMES_LAB_REPORTS", str(tmp_path / "reports"))
    return root


@pytest.fixture
def open_page(runs: Path) -> Iterator[Callable[..., AppTest]]:
    """`open_page("why", layer="1")`: a page opened by a link with these parameters."""
    opened: list[AppTest] = []

    def go(page: str = "live", **params: str) -> AppTest:
        app = AppTest.from_file(str(APP), default_timeout=PATIENCE_S)
        for name, value in params.items():
            app.query_params[name] = value
        if page != "live":
            # before its first run an AppTest knows pages by the names of their files, which are all alike
            app._page_hash = calc_hash(page)
        app.run()
        opened.append(app)
        return app

    yield go
    from dashboards.live.worker import StreamWorker

    for worker in StreamWorker.running():
        worker.stop()

"""A dashboard server and a headless Chromium for scripts and browser tests; both end with their context."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SERVER_PATIENCE_S = 90.0


@contextmanager
def server(recordings: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a dashboard started by the command line, as a person starts it."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    process = subprocess.Popen(
        [
            sys.executable, "-c", "from hermes_lab.cli import entry; entry()", "dashboard", "--no-browser", "--port", str(port),
            "--recordings", str(recordings),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | dict(environment or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    address = f"http://localhost:{port}"
    try:
        _wait(address, process)
        yield address
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 15)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait(10)


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + SERVER_PATIENCE_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"The dashboard ended with status {process.returncode}.")
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("The dashboard did not answer in time.")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def settled(page: Page, timeout_s: float = 60.0) -> None:
    """Wait until the page has drawn its content and its script has come to rest."""
    page.wait_for_selector("[data-testid=stMainBlockContainer] h1", timeout=1000 * timeout_s)
    page.wait_for_function(
        "document.querySelector('[data-testid=stApp]')?.dataset.testScriptState !== 'running'",
        timeout=1000 * timeout_s,
    )

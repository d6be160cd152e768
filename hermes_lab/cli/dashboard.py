"""`hermes-lab dashboard`: start the Streamlit application."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from hermes_lab.errors import LabError


def workbench(folder: str) -> Path:
    """Where `analysis` or `dashboards` is: beside the package in a checkout, inside it in a wheel.

    Raises:
        LabError: it is in neither place.
    """
    package = Path(__file__).resolve().parents[1]
    for base in (package.parent, package / "_workbench"):
        if (base / folder / "__init__.py").exists():
            return base
    raise LabError(
        f"The folder {folder!r} is missing beside hermes_lab; install the wheel or run from a checkout."
    )


def dashboard(
    recordings: Annotated[Path, typer.Option(help="Folder whose recordings are offered.")] = Path(
        "runs"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on localhost.")] = 8501,
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
) -> int:
    """Open the dashboard on localhost; it starts on the bundled recording, with no model loaded."""
    base = workbench("dashboards")
    if find_spec("streamlit") is None:
        raise LabError("The dashboard needs streamlit; run `pip install streamlit`.")
    command = [
        sys.executable, "-m", "streamlit", "run", str(base / "dashboards" / "app.py"),
        "--server.address", "localhost", "--server.port", str(port),
        "--server.headless", str(not browser).lower(), "--browser.gatherUsageStats", "false",
        "--server.maxUploadSize", "200", "--server.fileWatcherType", "none",
        "--server.showEmailPrompt", "false",
    ]  # fmt: skip
    path = os.pathsep.join(p for p in (str(base), os.environ.get("PYTHONPATH", "")) if p)
    environment = os.environ | {
        "HERMES_LAB_RECORDINGS": str(recordings.resolve()),
        "PYTHONPATH": path,
    }
    return _become(command, environment)


def _become(command: list[str], environment: dict[str, str]) -> int:
    """Run the server in place of this process, so that a signal to it reaches the server; its exit status.

    Windows has no such thing: there the server is a process of its own, and this one waits for it.
    """
    if sys.platform == "win32":
        return subprocess.run(command, env=environment, check=False).returncode
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, environment)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(dashboard)

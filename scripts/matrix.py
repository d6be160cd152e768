"""Run the tests that meet other people's libraries on the oldest and the newest versions that pyproject.toml allows.

    python scripts/matrix.py                  # both rows, in fresh environments under .matrix/
    python scripts/matrix.py --only newest    # one row
    python scripts/matrix.py --if-moved       # the newest row, and only where it differs from constraints.txt

Each row builds the wheel, installs it without the lock into an environment of its own, streams the bundled clip with
the installed command, and runs the tests marked `upstream`. A table says what was installed and what came out; the
exit status is 1 where a row failed. torch is not in the ranges that are tried: `--torch` says which build to take.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from tested_versions import add_pairs, pins

ROOT = Path(__file__).parents[1]
HOME = ROOT / ".matrix"
PAIR = ("transformers", "transformer-lens")
SHOWN = (*PAIR, "torch", "numpy", "av", "plotly", "streamlit")
QUIET = ("-qq", "--disable-pip-version-check")


@dataclass(frozen=True)
class Row:
    """What came out of one environment.

    Attributes:
        name: "oldest" or "newest".
        versions: installed version of each shown package.
        demo: whether the installed command streamed the bundled clip without a warning.
        tests: pytest's closing line.
        minutes: of the whole row.
    """

    name: str
    versions: dict[str, str]
    demo: bool
    tests: str
    minutes: float

    @property
    def passed(self) -> bool:
        return self.demo and "passed" in self.tests and not re.search("failed|error", self.tests)


def direct() -> list[Requirement]:
    """The dependencies of the package itself, torch excepted."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found = [Requirement(text) for text in project["dependencies"]]
    return [requirement for requirement in found if requirement.name != "torch"]


def lowest(requirement: Requirement) -> str:
    """The oldest version that a requirement allows, as a pin."""
    bounds = [s.version for s in requirement.specifier if s.operator in (">=", "==")]
    if not bounds:
        sys.exit(f"{requirement.name} has no lower bound in pyproject.toml; give it one.")
    return f"{requirement.name}=={bounds[0]}"


def newest_pair() -> dict[str, str]:
    """The newest released versions of the two libraries that pyproject.toml allows."""
    wanted = [str(r) for r in direct() if r.name in PAIR]
    report = subprocess.run(
        [sys.executable, "-m", "pip", "install", *QUIET, "--dry-run", "--no-deps",
         "--ignore-installed", "--report", "-", *wanted],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(report.stdout)["install"]
    return {item["metadata"]["name"]: item["metadata"]["version"] for item in found}


def build_wheel() -> Path:
    """The wheel of this checkout."""
    folder = HOME / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        *QUIET,
        "--no-deps",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def install(name: str, wheel: Path, torch: str) -> Path:
    """A fresh environment with the wheel at one end of its ranges; returns its Python.

    Without pins pip takes the newest of everything, except torch, which is there already.
    """
    folder = HOME / name
    venv.create(folder, clear=True, with_pip=True)
    python = folder / "bin" / "python"
    oldest = [lowest(r) for r in direct()] if name == "oldest" else []
    pip = [str(python), "-m", "pip", "install", *QUIET]
    subprocess.run([*pip, torch], check=True)
    subprocess.run([*pip, str(wheel), *oldest], check=True)
    dev = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    tools = [
        t
        for t in dev["project"]["optional-dependencies"]["dev"]
        if t.startswith(("pytest", "hypothesis", "hatchling"))  # which builds the example packages
    ]
    subprocess.run([*pip, *tools, *oldest], check=True)
    return python


def versions(python: Path) -> dict[str, str]:
    """What is installed of the packages that the table shows."""
    code = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {SHOWN!r}}}))"
    return json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True).stdout)


def demo(python: Path) -> bool:
    """Stream the bundled clip with the installed command, away from the checkout, warnings as errors."""
    folder = HOME / "elsewhere"
    folder.mkdir(exist_ok=True)
    command = [str(python), "-W", "error", "-m", "hermes_lab", "run", "--max-frames", "48"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], sep="\n")
    return done.returncode == 0


def tests(python: Path, name: str) -> str:
    """Run the marked tests; returns pytest's closing line, and leaves its output in .matrix/NAME.log."""
    log = HOME / f"{name}.log"
    command = [
        str(python),
        "-m",
        "pytest",
        "tests/integration",
        "-q",
        "-m",
        "upstream",
        "-n",
        "2",
        "--dist",
        "loadfile",
        "-p",
        "no:cacheprovider",
    ]
    environment = {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "SHAPE_CHECKS": "0",  # an older jaxtyping trips over annotations of other libraries
    }
    with log.open("w", encoding="utf-8") as out:
        subprocess.run(
            ["env", *(f"{k}={v}" for k, v in environment.items()), *command],
            cwd=ROOT, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    lines = log.read_text("utf-8").strip().splitlines() or ["nothing was printed"]
    return lines[-1].strip("= ")


def run(name: str, wheel: Path, torch: str, console: Console) -> Row:
    """One row of the matrix."""
    started = time.monotonic()
    console.print(f"{name}: installing ...")
    python = install(name, wheel, torch)
    found = versions(python)
    console.print(f"{name}: " + ", ".join(f"{n} {v}" for n, v in found.items()))
    streamed = demo(python)
    closing = tests(python, name)
    return Row(name, found, streamed, closing, (time.monotonic() - started) / 60)


def show(rows: list[Row], console: Console) -> None:
    """The table."""
    table = Table(title="Versions that pyproject.toml allows")
    for column in ("row", *SHOWN, "demo", "tests marked upstream", "minutes"):
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = [row.versions.get(name, "?") for name in SHOWN]
        table.add_row(
            row.name, *cells, "ok" if row.demo else "FAILED", row.tests, f"{row.minutes:.1f}"
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("oldest", "newest"), help="one row instead of both")
    parser.add_argument(
        "--if-moved", action="store_true", help="the newest, where it is not locked"
    )
    parser.add_argument("--record", action="store_true", help="tell the package what passed")
    parser.add_argument("--torch", default="torch==2.13.0", help="the build to install first")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    names = [options.only] if options.only else ["oldest", "newest"]
    if options.if_moved:
        locked, pair = pins(), newest_pair()
        if all(locked.get(name) == released for name, released in pair.items()):
            console.print(f"The newest pair is the locked one: {pair}. Nothing else to run.")
            return
        names = ["newest"]
    HOME.mkdir(exist_ok=True)
    wheel = build_wheel()
    rows = [run(name, wheel, options.torch, console) for name in names]
    show(rows, console)
    if options.record:
        add_pairs((r.versions[PAIR[0]], r.versions[PAIR[1]]) for r in rows if r.passed)
    sys.exit(0 if all(row.passed for row in rows) else 1)


if __name__ == "__main__":
    main()

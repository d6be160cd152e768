"""The example study is built, installed and run by the commands of the guide, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "study_example"
GUIDE = ROOT / "docs" / "guides" / "run-a-study.md"
CLI = "import sys; from hermes_lab.cli import main; sys.exit(main(sys.argv[1:]))"
DRAW = """
from pathlib import Path
from analysis.drawing import drawn
from analysis.report import read
study = read(Path("reports/first_frame/report.json")).studies[0]
print(len(drawn(study, study.figures[0]).data))
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def commands() -> list[list[str]]:
    """What the guide says to type, after its heading "Write one"."""
    text = GUIDE.read_text(encoding="utf-8").split("## Write one")[1]
    (block,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [shlex.split(line) for line in block.splitlines()]


@pytest.fixture(scope="module")
def installed(commands: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder into which the guide's first command has installed the example."""
    pip, *arguments = commands[0]
    assert [pip, *arguments] == ["pip", "install", "-e", "tests/study_example"]
    target = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", target, EXAMPLE]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    return target


@pytest.fixture
def python(tmp_path: Path) -> Run:
    """Run code in a folder of its own, with further folders of packages on the path."""

    def call(
        code: str, *arguments: str, packages: tuple[Path, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(map(str, [ROOT, *packages]))
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, *arguments],
            capture_output=True, text=True, timeout=1800, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip

    return call


def test_the_guides_commands_run(
    commands: list[list[str]], installed: Path, python: Run, tmp_path: Path
) -> None:
    for program, *arguments in commands[1:]:
        assert program == "hermes-lab"
        done = python(CLI, *arguments, packages=(installed,))
        assert done.returncode == 0, done.stderr
        if arguments == ["studies"]:
            line = next(x for x in done.stdout.splitlines() if x.startswith("first_frame"))
            assert line.endswith("than an untrained network does? (hermes-lab-first-frame)")
    folder = tmp_path / "reports" / "first_frame"
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    (study,) = found["studies"]
    assert study["study"] == "first_frame"
    # the planted model has anchors and recency, and nothing at the first frame
    assert [f["verdict"] for f in study["findings"]] == ["not supported"]
    assert "The first frame by head" in (folder / "report.html").read_text(encoding="utf-8")
    assert (folder / "tables" / "first_frame" / "heads.csv").exists()
    drawn = python(DRAW, packages=(installed,))
    assert drawn.stdout.strip() == "2", drawn.stderr
    without = python(DRAW)
    assert "comes with study 'first_frame', which cannot be loaded here" in without.stderr


def test_it_is_not_there_without_being_installed(python: Run) -> None:
    done = python(CLI, "study", "first_frame")
    assert done.returncode == 2
    assert "There is no study 'first_frame'" in done.stderr


def test_the_guide_announces_it_as_the_example_does() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml title=\"pyproject.toml\"\n(.*?)```", text, re.DOTALL)
    assert block.strip() in (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")

"""`hermes-lab doctor` as a person runs it, and what is said of versions that were not tested."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import hermes_lab
from hermes_lab import StreamSession
from hermes_lab.cli import main
from hermes_lab.environment import examination, versions
from hermes_lab.environment.checks import Check

ROOT = Path(__file__).resolve().parents[2]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_table_ends_in_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"HERMES Lab {hermes_lab.__version__}")
    for name in ("Python", "transformers", "CPU", "h264", "pocket", "accelerate", "Chromium"):
        assert name in said
    assert said.rstrip().endswith("Everything that is needed is here.")


def test_what_fails_is_told_with_its_command_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fix = 'python -m pip install "numpy[/x]>=2"'  # as long and as odd as a command can be
    checks = [Check("numpy", "missing", None, ">=2", fix, True), Check("ray", "absent", fix="more")]
    monkeypatch.setattr(examination, "packages", lambda: checks)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert f"To fix:\n  numpy (missing): {fix}\n" in said
    assert "Optional:\n  ray (absent): more\n" in said
    assert said.rstrip().endswith("Needed, but missing or wrong: numpy.")
    assert main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert found["packages"][0]["fix"] == fix


def test_it_answers_where_hardly_anything_can_be_imported() -> None:
    script = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'av', 'PIL', 'transformers', 'transformer_lens', 'scipy', 'plotly',\n"
        "             'streamlit', 'einops', 'jaxtyping', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "from hermes_lab.cli import main\n"
        "sys.exit(main(['doctor', '--json']))\n"
    )
    done = python("-c", script)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert {c["name"] for c in [*found["devices"], *found["codecs"]]} == {"torch", "PyAV"}
    assert all(c["fix"] for c in [*found["devices"], *found["codecs"]])


def test_the_package_runs_as_a_module() -> None:
    done = python("-m", "hermes_lab", "--version")
    assert (done.returncode, done.stdout) == (0, f"hermes-lab {hermes_lab.__version__}\n")
    assert python("-m", "hermes_lab", "run", "missing.mp4").returncode == 2


# --- versions that were not tested ---------------------------------------------------------------
@pytest.fixture
def untested(monkeypatch: pytest.MonkeyPatch) -> str:
    """The sentence on a pair of versions that nobody tested, as if it were installed."""
    monkeypatch.setattr(versions, "installed", {"transformers": "5.99.0"}.get)
    said = versions.untested()
    assert said is not None
    return said


@pytest.fixture
def model(checkpoint: Callable[..., Path]) -> str:
    return str(checkpoint("llava_onevision"))


def test_a_lab_says_so_in_its_first_snapshot_only_and_never_as_a_warning(
    model: str, untested: str
) -> None:
    frames = np.zeros((4, 64, 64, 3), np.uint8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lab = hermes_lab.load(model)
        run = StreamSession(lab)
        first, second = run.feed(frames), run.feed(frames)
    assert lab.notes == (untested,)
    assert first.notes[0] == untested
    assert untested not in second.notes
    assert not [w for w in caught if "not tested" in str(w.message)]


def test_tested_versions_leave_no_note(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = dict(zip(versions.PAIR, versions.tested_pairs()[-1], strict=True))
    monkeypatch.setattr(versions, "installed", newest.get)
    assert hermes_lab.load(model).notes == ()


@pytest.mark.parametrize("options", [("--quiet",), ("--json",), ()])
def test_run_says_so_in_one_line(
    model: str, untested: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["run", "world:seed=7,frames=4", "--model", model, "--policy", "full", *options]) == 0
    )
    assert capsys.readouterr().err.splitlines().count(f"Note: {untested}") == 1


def test_eval_says_so_before_it_starts(untested: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--streams", "0"]) == 2
    first, *_ = capsys.readouterr().err.splitlines()
    assert first == f"Note: {untested}"

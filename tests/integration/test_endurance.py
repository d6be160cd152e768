"""The commands for long runs, on short ones: soak, kills and fuzz say what they found, and their status says it too."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_short_soak_prints_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soak = script("soak")
    soak.SLOWER = 100.0  # no judgement of time in a test
    assert soak.main(["--frames", "400", "--record", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert said.count("ms of processor time per step") == soak.PIECES
    assert "Flat." in said


def test_what_grows_is_said() -> None:
    soak = script("soak")
    flat = [soak.Piece(1000 * n, 0.01, 10**8, 99) for n in range(1, 11)]
    assert soak.grown(flat, 100) == []
    slower = [soak.Piece(p.frames, 0.01 * n, p.resident_bytes, 99) for n, p in enumerate(flat, 1)]
    larger = [soak.Piece(p.frames, 0.01, n * 10**8, 99) for n, p in enumerate(flat, 1)]
    further = [soak.Piece(p.frames, 0.01, 10**8, 100) for p in flat]
    assert "A step took" in soak.grown(slower, 100)[0]
    assert "Memory grew" in soak.grown(larger, 100)[0]
    assert "Position 100 was reached" in soak.grown(further, 100)[0]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_a_few_kills_lose_nothing() -> None:
    done = run("scripts/kills.py", "--kills", "3", "--seed", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills (3 SIGKILL, 0 SIGTERM)" in done.stdout
    assert "0 recordings with a fault." in done.stdout


def test_a_few_cases_are_fuzzed(tmp_path: Path) -> None:
    done = run(
        "scripts/fuzz.py",
        "--minutes",
        "0",
        "--seed",
        "0",
        "--only",
        "recording",
        "--keep",
        str(tmp_path),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Seed 0" in done.stdout
    assert "3 cases" in done.stdout
    assert "No fault." in done.stdout
    assert "unknown kinds" in run("scripts/fuzz.py", "--only", "nothing").stderr


def test_a_case_that_hangs_is_a_fault(tmp_path: Path) -> None:
    fuzz = script("fuzz")
    worker = fuzz.Worker("recording")
    try:
        with pytest.raises(fuzz.Gone, match="gave no answer within 0 s"):
            worker.run("0-0", 0)
    finally:
        worker.close()

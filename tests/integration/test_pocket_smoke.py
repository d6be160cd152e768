"""The whole training pipeline learns, and goes on after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hermes_lab
from hermes_lab.training import checkpoint
from hermes_lab.training.config import PocketConfig, Recipe, Stage, TextShape, VisionShape
from hermes_lab.training.process import PROGRESS
from hermes_lab.training.train import train

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "from hermes_lab.cli import entry; entry()", "train-pocket"]


def _lines(folder: Path, phase: str) -> list[dict[str, Any]]:
    path = folder / PROGRESS
    texts = path.read_text().splitlines(keepends=True) if path.exists() else []
    lines = [json.loads(text) for text in texts if text.endswith("\n")]
    return [line for line in lines if line["phase"] == phase]


@pytest.mark.parametrize("name", ["pocket", "pocket-mrope"])
def test_the_smoke_recipe_learns_to_see_and_to_answer(name: str, tmp_path: Path) -> None:
    """Its length is counted in steps, and one process draws the same streams everywhere."""
    done = subprocess.run(
        [*COMMAND, name, "--smoke", "--processes", "1", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "model") in done.stdout.replace("\n", "")
    assert "perception:" in done.stderr
    seen, answered = _lines(tmp_path, "perception"), _lines(tmp_path, "decoder")
    first, last = seen[0], seen[-1]
    assert last["loss"] < 0.6 * first["loss"]
    assert last["colour"] > last["colour_majority"] + 0.3
    assert last["scene"] > 0.6
    assert answered[-1]["loss"] < 0.75 * answered[0]["loss"]
    # the first question that a decoder learns to answer; a blind answer is right half the time
    assert _lines(tmp_path, "development")[-1]["types"]["now_side"] > 0.65
    lab = hermes_lab.load(tmp_path / "model")
    assert lab.adapter.rotary_axes == (3 if name == "pocket-mrope" else 1)


TINY = PocketConfig(
    name="tiny",
    family="qwen2_5_vl",
    vision=VisionShape(width=32, layers=1, heads=2, mlp=32),
    text=TextShape(width=32, layers=3, heads=4, kv_heads=2, mlp=48),
    recipe=Recipe(
        perception_steps=3,
        decoder_steps=100_000,
        stages=(Stage(6, 2, 6, 1.0),),
        perception_frames=16,
        report_s=0.0,
        checkpoint_s=0.0,
        dev_every_s=1e9,
    ),
)
_CHILD = """
import sys
from pathlib import Path
from tests.integration.test_pocket_smoke import TINY
from hermes_lab.training.train import train

train(TINY, Path(sys.argv[1]), processes=1)
"""


def _children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(") ")[2][0] != "Z"  # dead, and nobody has asked how it ended


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children are read from /proc")
def test_a_killed_run_ends_with_its_processes_and_goes_on_where_it_was(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as run:
        while len(_lines(tmp_path, "decoder")) < 3:
            assert run.poll() is None
            time.sleep(0.1)
        workers = _children(run.pid)
        assert workers
        run.send_signal(signal.SIGKILL)
        run.wait()
    for pid in workers:  # a worker left behind would train on beside the one that takes over
        while _alive(pid):
            time.sleep(0.1)
    kept = checkpoint.load(tmp_path)
    assert kept is not None
    clock = kept[0]
    assert clock.phase == "decoder"
    assert clock.step >= 2
    before = len(_lines(tmp_path, "decoder"))
    rest = replace(TINY, recipe=replace(TINY.recipe, decoder_steps=clock.step + 3))
    told: list[dict[str, Any]] = []
    report = train(rest, tmp_path, processes=1, progress=told.append)
    assert [line["phase"] for line in told] == ["decoder"] * 3 + ["development"]
    assert [line["step"] for line in told[:3]] == [clock.step + n for n in (1, 2, 3)]
    assert told[0]["streams"] > clock.streams
    assert len(_lines(tmp_path, "decoder")) == before + 3
    assert (report.folder / "model.safetensors").exists()

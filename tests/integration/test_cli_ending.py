"""However a run ends, its recording says so, and nobody else takes it away before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from hermes_lab.cli import main
from hermes_lab.cli.ending import EndedBySignal, ends_when_told, listening
from hermes_lab.recording import Recording

ROOT = Path(__file__).parents[2]
LONG = "world:seed=7,frames=4000"
PATIENCE_S = 300
SOME_PARTS = 4


@contextmanager
def running(
    folder: Path, before: Callable[[], object] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """`hermes-lab run` that records a long stream, some steps of which are there already."""
    command = "from hermes_lab.cli import entry; entry()"
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", command, "run", LONG, "--policy", "fifo", "--budget", "64",
         "--chunk-frames", "4", "--quiet", "--record", str(folder)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=before,
    )  # fmt: skip
    try:
        wait_for_parts(folder, SOME_PARTS)
        yield child
    finally:
        child.kill()
        child.wait()
        assert child.stderr is not None
        child.stderr.close()


def wait_for_parts(folder: Path, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(list((folder / "parts").glob("*-step.safetensors"))) < count:
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.05)


def end_of(child: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = child.communicate(timeout=PATIENCE_S)
    return child.returncode, said


@pytest.mark.parametrize(
    ("number", "code", "status", "reason"),
    [
        (signal.SIGTERM, 143, "aborted", "stopped by SIGTERM"),
        (signal.SIGHUP, 129, "aborted", "stopped by SIGHUP"),
        (signal.SIGINT, 130, "aborted", "interrupted by Ctrl-C"),
        (signal.SIGKILL, -9, "interrupted", None),
    ],
)
def test_a_run_that_is_ended_leaves_a_true_status(
    tmp_path: Path, number: int, code: int, status: str, reason: str | None
) -> None:
    with running(tmp_path / "run") as child:
        assert Recording.open(tmp_path / "run").status == "open"
        child.send_signal(number)
        returned, said = end_of(child)
    assert returned == code
    assert "Traceback" not in said
    if reason is not None:
        assert "Interrupted" in said
    read = Recording.open(tmp_path / "run")
    assert (read.status, read.manifest.reason) == (status, reason)
    assert read.verify() == []
    assert [step.step for step in read.steps] == list(range(len(read.steps)))
    assert len(read.steps) >= SOME_PARTS
    assert main(["show", str(tmp_path / "run")]) == 0


def test_under_nohup_a_terminal_that_goes_away_is_no_matter(tmp_path: Path) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with running(tmp_path / "run", ignore) as child:
        child.send_signal(signal.SIGHUP)
        wait_for_parts(tmp_path / "run", SOME_PARTS + 3)
        child.send_signal(signal.SIGTERM)
        assert end_of(child)[0] == 143


def test_a_running_recording_cannot_be_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path / "run") as child:
        code = main(["run", "world:seed=8,frames=16", "--policy", "fifo", "--quiet", "--record",
                     str(tmp_path / "run"), "--overwrite"])  # fmt: skip
        assert code == 2
        assert f"is being written by process {child.pid} on" in capsys.readouterr().err
        wait_for_parts(tmp_path / "run", SOME_PARTS + 3)
        child.send_signal(signal.SIGTERM)
        assert end_of(child)[0] == 143
    read = Recording.open(tmp_path / "run")
    assert read.verify() == [] and len(read.steps) >= SOME_PARTS + 3


def test_a_recording_that_goes_away_ends_the_recording_but_not_the_run(tmp_path: Path) -> None:
    with running(tmp_path / "run") as child:
        (tmp_path / "run").rename(tmp_path / "moved")
        before = len(list((tmp_path / "moved" / "parts").iterdir()))
        time.sleep(0.5)
        assert child.poll() is None
        child.send_signal(signal.SIGTERM)
        assert end_of(child)[0] == 143
    assert not (tmp_path / "run").exists()
    assert len(list((tmp_path / "moved" / "parts").iterdir())) <= before + 1


# --- the signals themselves ------------------------------------------------------------------------
def test_signals_are_heard_inside_the_block_alone() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)

    def work() -> None:
        with listening():
            assert signal.getsignal(signal.SIGTERM) != before[0]
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(EndedBySignal, match="stopped by SIGTERM"):
        work()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == before


def test_a_second_signal_ends_the_process_at_once() -> None:
    script = (
        "import os, signal\n"
        "from hermes_lab.cli.ending import EndedBySignal, listening\n"
        "with listening():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    except EndedBySignal:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")


def test_in_another_thread_a_command_runs_without_listening() -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(ends_when_told(lambda: 5)()))
    thread.start()
    thread.join()
    assert found == [5]


def test_a_command_keeps_its_name_and_its_options() -> None:
    from typer.main import get_command

    from hermes_lab.cli import app

    command = cast(Any, get_command(app)).commands["run"]
    assert {"--record", "--policy"} <= {name for option in command.params for name in option.opts}

"""Kill a process that records, many times at random moments, and see that no step that it had completed is lost.

    python scripts/kills.py                 # 500 kills, prints figures; status 1 if anything was lost
    python scripts/kills.py --kills 20 --seed 1

Four of five kills are SIGKILL, which nobody hears: the recording must open, hold every step that was told as completed,
verify clean, and be called interrupted. The others are SIGTERM to `hermes-lab run --record`, which closes the recording
with the true reason and ends with status 143.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hermes_lab.errors import LabError  # noqa: E402
from hermes_lab.recording import Recording  # noqa: E402

LONGEST_S = 0.25
PATIENCE_S = 300.0


def child(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    with (folder.parent / "stderr").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
        )


def kill_hard(folder: Path, seed: int, after_s: float) -> tuple[list[str], int]:
    """SIGKILL a process that records made-up steps: what is wrong afterwards, and steps that were completed."""
    process = child(["tests.integration.recording_child", str(folder), str(seed)], folder)
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        return ["the process did not begin"], 0
    time.sleep(after_s)
    process.kill()
    told = len(process.communicate()[0].split())
    recording = Recording.open(folder)
    wrong = [*recording.problems, *recording.verify()]
    if len(recording.steps) < told:
        wrong.append(f"{told} steps were completed, {len(recording.steps)} can be read")
    if recording.status != "interrupted":
        wrong.append(f"its status is {recording.status!r}")
    return wrong, told


def end_politely(folder: Path, seed: int, after_s: float) -> tuple[list[str], int]:
    """SIGTERM the command line once it has recorded something: what is wrong afterwards, and steps that were recorded."""
    source = f"world:seed={seed},frames=4000"
    process = child(
        ["hermes_lab", "run", source, "--policy", "fifo", "--budget", "64", "--chunk-frames", "2", "--quiet",
         "--record", str(folder)],
        folder,
    )  # fmt: skip
    ends = time.monotonic() + PATIENCE_S
    while not any(folder.glob("parts/*-step.*")) and process.poll() is None:
        if time.monotonic() > ends:
            process.kill()
            return ["it recorded nothing"], 0
        time.sleep(0.02)
    time.sleep(after_s)
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return ["it did not end"], 0
    recording = Recording.open(folder)
    wrong = [*recording.problems, *recording.verify()]
    if process.returncode != 128 + signal.SIGTERM:
        wrong.append(f"it ended with status {process.returncode}")
    reason = recording.manifest.reason or ""
    if recording.status != "aborted" or "SIGTERM" not in reason:
        wrong.append(f"its status is {recording.status!r}, because {reason!r}")
    return wrong, len(recording.steps)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    count: Counter[str] = Counter()
    began = time.monotonic()
    for number in range(options.kills):
        hard = number % 5 != 4
        with tempfile.TemporaryDirectory(prefix="hermes-lab-kills-") as root:
            folder = Path(root) / "run"
            try:
                act = kill_hard if hard else end_politely
                wrong, steps = act(folder, rng.randrange(10**6), rng.uniform(0, LONGEST_S))
            except LabError as error:
                wrong, steps = [str(error)], 0
        count["SIGKILL" if hard else "SIGTERM"] += 1
        count["steps"] += steps
        count["wrong"] += bool(wrong)
        for sentence in wrong:
            print(f"  kill {number}: {sentence}", flush=True)
    print(
        f"{options.kills} kills ({count['SIGKILL']} SIGKILL, {count['SIGTERM']} SIGTERM) in "
        f"{time.monotonic() - began:.0f} s: {count['steps']} completed steps, {count['wrong']} recordings with a fault."
    )
    return 1 if count["wrong"] or not count["steps"] else 0


if __name__ == "__main__":
    sys.exit(main())

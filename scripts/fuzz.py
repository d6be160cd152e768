"""Damage everything that comes from outside, at random, and see that the answer is right or one sentence.

    python scripts/fuzz.py --minutes 5                  # all kinds, with a seed of its own, which is printed
    python scripts/fuzz.py --minutes 1 --seed 0         # the same cases again
    python scripts/fuzz.py --only recording,checkpoint

Videos, recordings, reports, checkpoints, policies and links to the dashboard. A traceback, a hang, a file written
elsewhere, a flood of memory or garbage in silence is a fault: its case is kept, and the exit status is 1. To keep it
from coming back, move its folder into tests/corpus/KIND, which tests/unit/test_corpus.py runs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
NAMES = ("video", "recording", "report", "checkpoint", "policy", "link")
_FEWEST = 3  # cases of a kind, however slow the machine is
_START_S = 300.0


class Gone(Exception):
    """The process gave no answer in time, or ended."""


class Worker:
    """A process that runs cases of one kind."""

    def __init__(self, kind: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"hermes-lab-fuzz-{kind}-"))
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
        }  # fmt: skip
        with (self.folder / "stderr").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker", kind, str(self.folder)],
                cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        self._line(_START_S)

    def run(self, seed: str, patience_s: float) -> dict[str, Any]:
        """Run the case of a seed.

        Raises:
            Gone: a hang or a crash.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seed}\n".encode())
        self._process.stdin.flush()
        return json.loads(self._line(patience_s))

    def close(self) -> None:
        """End the process and remove its files."""
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _line(self, patience_s: float) -> bytes:
        out = self._process.stdout
        assert out is not None
        if not select.select([out], [], [], patience_s)[0]:
            raise Gone(f"gave no answer within {patience_s:g} s")
        line = out.readline()
        if not line:
            errors = (self.folder / "stderr").read_text("utf-8", "replace")
            raise Gone(f"the process ended ({self._process.wait()}): {errors[-500:]}")
        return line


@dataclass
class Tally:
    """What came of one kind."""

    right: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    faults: list[str] = field(default_factory=list[str])


def fuzz(kind: str, seed: str, seconds: float, patience_s: float, keep: Path) -> Tally:
    """Run cases for a time, from when the process is ready; those with a fault are kept."""
    tally, worker, number = Tally(), Worker(kind), 0
    ends = time.monotonic() + seconds
    while time.monotonic() < ends or number < _FEWEST:
        name = f"{seed}-{number}"
        number += 1
        try:
            told = worker.run(name, patience_s)
        except Gone as gone:
            told = {"verdict": "fault", "fault": str(gone), "seconds": patience_s}
        tally.slowest_s = max(tally.slowest_s, told["seconds"])
        if told["verdict"] == "fault":
            kept = keep / kind / name
            shutil.copytree(worker.folder / "case", kept, dirs_exist_ok=True)
            tally.faults.append(f"{kept}: {told['fault']}")
            print(f"  {tally.faults[-1]}\n{told.get('trace', '')}", flush=True)
            if "trace" not in told:
                worker.close()
                worker = Worker(kind)
        else:
            setattr(tally, told["verdict"], getattr(tally, told["verdict"]) + 1)
    worker.close()
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=5.0, help="for all kinds together")
    parser.add_argument("--seed", default="", help="which cases; one is drawn where none is given")
    parser.add_argument(
        "--only", default="", help=f"some of {', '.join(NAMES)}, with commas between"
    )
    parser.add_argument("--patience", type=float, default=60.0, help="seconds for one case")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-faults"), help="where faults go")
    options = parser.parse_args()
    kinds = options.only.split(",") if options.only else list(NAMES)
    if unknown := set(kinds) - set(NAMES):
        parser.error(f"unknown kinds {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    seed = options.seed or str(random.SystemRandom().randrange(10**6))
    print(f"Seed {seed}, {options.minutes:g} minutes for {', '.join(kinds)}.", flush=True)
    faults = 0
    for kind in kinds:
        seconds = 60 * options.minutes / len(kinds)
        tally = fuzz(kind, seed, seconds, options.patience, options.keep.resolve())
        faults += len(tally.faults)
        cases = tally.right + tally.refused + len(tally.faults)
        print(
            f"{kind:<11} {cases:5} cases: {tally.right:5} right, {tally.refused:5} refused, {len(tally.faults):3} faults, "
            f"slowest {tally.slowest_s:.1f} s",
            flush=True,
        )
    print("No fault." if not faults else f"{faults} faults; their cases lie in {options.keep}.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

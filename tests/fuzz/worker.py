"""A process that runs cases of one kind, so that a hang, a crash or a flood ends it and not who asked.

python -m tests.fuzz.worker KIND FOLDER     reads one seed a line, answers one line of JSON each
"""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from tests.fuzz.cases import Fault, Target, judge, save
from tests.fuzz.targets import KINDS

_MOST_GROWTH_KB = 1_500_000


def main(kind: str, folder: Path) -> None:
    """Answer until the input ends; the case that runs lies in `folder`/case meanwhile."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed besides goes to standard error
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    target = KINDS[kind]()
    made = folder / "sound"
    made.mkdir()
    target.prepare(made)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(target, line.strip(), folder)), file=answers, flush=True)


def _answer(target: Target, seed: str, folder: Path) -> dict[str, object]:
    case = target.draw(random.Random(seed))
    shutil.rmtree(folder / "case", ignore_errors=True)
    save(case, folder / "case")
    began, memory = time.monotonic(), _peak_kb()
    told: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="hermes-lab-fuzz-") as root:
        try:
            told["verdict"] = judge(target, case, Path(root))
        except Fault as fault:
            told |= {"verdict": "fault", "fault": str(fault), "trace": traceback.format_exc()}
    if _peak_kb() - memory > _MOST_GROWTH_KB:
        told |= {"verdict": "fault", "fault": f"took {(_peak_kb() - memory) >> 10} MiB of memory"}
    return told | {"seconds": time.monotonic() - began}


def _peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

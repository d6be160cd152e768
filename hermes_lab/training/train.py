"""Train a pocket model: dense perception first, then questions over growing streams.

On a CPU several single-thread processes average their gradients; with a GPU there is one process. A run can
be killed at any moment and taken up again.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hermes_lab.training import checkpoint
from hermes_lab.training.config import PocketConfig
from hermes_lab.training.config import smoke as smoke_config
from hermes_lab.training.decode import Decoding
from hermes_lab.training.perceive import perceive
from hermes_lab.training.process import PROGRESS, Process
from hermes_lab.training.recipes import config as named_config
from hermes_lab.training.warm import warmed


@dataclass(frozen=True)
class Report:
    """What a finished training run left behind.

    Attributes:
        accuracy: by horizon, on development streams of `frames` frames.
        seconds: CPU time of the decoder's training in one process.
    """

    name: str
    folder: Path
    frames: int
    accuracy: dict[str, float]
    seconds: float

    def __str__(self) -> str:
        scores = ", ".join(f"{h.upper()} {a:.3f}" for h, a in self.accuracy.items())
        return (
            f"{self.name} is in {self.folder} after {self.seconds / 60:.1f} CPU minutes of decoder training; "
            f"on development streams of {self.frames} frames: {scores}."
        )


def planned(
    config: PocketConfig | str,
    *,
    seed: int | None = None,
    smoke: bool = False,
    init_from: str | None = None,
) -> PocketConfig:
    """The configuration that a training run follows.

    Raises:
        LabError: no configuration has that name, or `init_from` cannot lend its decoder.
    """
    config = named_config(config) if isinstance(config, str) else config
    config = config if seed is None else replace(config, seed=seed)
    config = warmed(config, init_from) if init_from else config
    return smoke_config(config) if smoke else config


def train(
    config: PocketConfig | str,
    out_dir: Path,
    *,
    seed: int | None = None,
    smoke: bool = False,
    resume: bool = True,
    processes: int | None = None,
    init_from: str | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Report:
    """Train, and say where the finished model is and how it did on development streams.

    `init_from`, a shipped model's name or a folder, lends its decoder: `hermes_lab.training.warm` says what
    that means. `progress` gets every line of `out_dir/progress.jsonl` as it is written.

    Raises:
        LabError: `out_dir` holds a checkpoint of another training.
    """
    config = planned(config, seed=seed, smoke=smoke, init_from=init_from)
    out_dir.mkdir(parents=True, exist_ok=True)
    log = out_dir / PROGRESS
    if not resume:
        for old in (out_dir / checkpoint.FILE, log):
            old.unlink(missing_ok=True)
    checkpoint.belongs(out_dir, config.training)
    on_gpu = torch.cuda.is_available()
    count = 1 if on_gpu else processes or max(1, os.cpu_count() or 2)
    read = log.stat().st_size if log.exists() else 0
    with tempfile.TemporaryDirectory() as meeting:
        workers = mp.start_processes(  # pyright: ignore[reportPrivateImportUsage]  # torch's public name
            _worker, (count, meeting, config, str(out_dir)), count, join=False, start_method="spawn"
        )
        done = False
        while not done:
            done = cast(Any, workers).join(timeout=1.0)
            read = _relay(log, read, progress)
    lines = [json.loads(text) for text in log.read_text().splitlines()]
    last = [line for line in lines if line["phase"] == "development"][-1]
    return Report(config.name, out_dir / "model", last["frames"], last["accuracy"], last["seconds"])


def _relay(log: Path, read: int, progress: Callable[[dict[str, Any]], None] | None) -> int:
    if not log.exists():
        return read
    with log.open() as file:
        file.seek(read)
        for line in file:
            if not line.endswith("\n"):
                break
            read += len(line.encode())
            if progress:
                progress(json.loads(line))
    return read


def _worker(rank: int, count: int, meeting: str, config: PocketConfig, out_dir: str) -> None:
    # torch has the kernel send SIGINT when the parent dies; a run started in the background inherits it ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    dist.init_process_group("gloo", f"file://{meeting}/meet", rank=rank, world_size=count)
    on_gpu = torch.cuda.is_available()
    if not on_gpu and count > 1:
        torch.set_num_threads(1)
    try:
        run = Process(config, Path(out_dir), rank, count, "cuda" if on_gpu else "cpu")
        if run.clock.phase == "perception":
            perceive(run)
        Decoding(run).go()
    finally:
        dist.destroy_process_group()

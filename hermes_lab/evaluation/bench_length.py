"""Tables about the length of a stream: TTFT and memory after so many frames, frames per second."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence

from hermes_lab.evaluation.bench_inputs import (
    BUDGET_CHUNKS,
    CHUNK_FRAMES,
    QUESTION,
    Side,
    budgeted,
    pictures,
)
from hermes_lab.evaluation.report import Cell, Section
from hermes_lab.stream.session import StreamSession

POLICIES = ("full", "fifo", "hermes", "recent_frames")


def ttft(side: Side, marks: Sequence[int]) -> Section:
    """TTFT and memory after so many frames, all policies interleaved.

    The budget is what the first mark fills, so that the memory of a bounded policy is full at every mark.
    """
    title = f"{side.label}: TTFT and memory by frames streamed"
    budget = marks[0] // CHUNK_FRAMES * len(side.segment)
    runs = {n: StreamSession(side.lab, budgeted(n, budget)) for n in POLICIES}
    weights = sum(p.numel() * p.element_size() for p in side.lab.adapter.model.parameters())
    memory: dict[tuple[str, int], float] = {}
    stands: dict[tuple[str, int], StreamSession] = {}
    feeds = marks[-1] // CHUNK_FRAMES * len(runs)
    total = feeds + (side.repeats + 1) * len(runs) * len(marks)
    seen = done = 0
    for mark in marks:
        while seen < mark:
            for run in runs.values():
                run.feed_segment(side.segment)
                done += 1
                side.tick(title, done, total)
            seen += CHUNK_FRAMES
        for name, run in runs.items():
            # a fork is free, and lets every length be timed in the same minute
            stands[name, mark] = run.fork()
            memory[name, mark] = weights + run.cache_bytes
    times: dict[tuple[str, int], list[float]] = {key: [] for key in stands}
    order = random.Random(0)
    for _ in range(side.repeats + 1):
        # in an order that changes: a session that comes after one with a long cache finds the processor's caches full of it
        for key in order.sample(list(stands), len(stands)):
            times[key].append(stands[key].ask(QUESTION, max_new_tokens=1, attention=False).ttft_s)
            done += 1
            side.tick(title, done, total)
    # the first round warms up
    asked = {key: statistics.median(values[1:]) for key, values in times.items()}
    first, last = marks[0], marks[-1]
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            name,
            *(asked[name, m] * 1e3 for m in marks),
            asked[name, last] / asked[name, first],
            memory[name, last] / memory[name, first],
            runs[name].cache_bytes / 2**20,
        )
        for name in POLICIES
    )
    columns = (
        "policy", *(f"TTFT ms @{m}" for m in marks), f"TTFT {last}/{first}",
        "memory ratio", "cache MiB",
    )  # fmt: skip
    note = (
        f"Budget {budget} tokens per layer: what {first} frames fill. Median of {side.repeats}. Memory: weights and "
        f"KV cache, at the last mark over the first."
    )
    return Section(title, columns, rows, note)


def throughput(side: Side) -> Section:
    """Frames per second from pixels to the decided cache, without recording."""
    title = f"{side.label}: frames per second, encoding included"
    frames = pictures(CHUNK_FRAMES)
    specs = ("full", "fifo", "hermes")
    runs = {spec: StreamSession(side.lab, budgeted(spec, side.budget_tokens)) for spec in specs}
    rates: dict[str, list[float]] = {spec: [] for spec in specs}
    rounds = side.repeats + BUDGET_CHUNKS + 1
    for number in range(rounds):
        for spec, run in runs.items():
            started = time.perf_counter()
            run.feed(frames)
            rates[spec].append(CHUNK_FRAMES / (time.perf_counter() - started))
        side.tick(title, number + 1, rounds)
    rows = tuple((spec, statistics.median(rates[spec][-side.repeats :])) for spec in specs)
    return Section(title, ("policy", "frames/s"), rows)

"""Tables about the length of a stream: TTFT and memory after so many frames, frames per second."""

from __future__ import annotations

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
from hermes_lab.session import StreamSession

POLICIES = ("full", "fifo", "hermes", "recent_frames")


def ttft(side: Side, marks: Sequence[int]) -> Section:
    """TTFT and memory after so many frames, all policies interleaved."""
    title = f"{side.label}: TTFT and memory by frames streamed"
    runs = {n: StreamSession(side.lab, budgeted(n, side.budget_tokens)) for n in POLICIES}
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
    for _ in range(side.repeats + 1):
        for key, run in stands.items():
            times[key].append(run.ask(QUESTION, max_new_tokens=1, attention=False).ttft_s)
            done += 1
            side.tick(title, done, total)
    # the first round warms up
    asked = {key: statistics.median(values[1:]) for key, values in times.items()}
    # a bounded cache is full only after its budget: compare with the first mark at which it is
    full_at = next((m for m in marks if m >= BUDGET_CHUNKS * CHUNK_FRAMES), marks[-1])
    first, last = marks[0], marks[-1]
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            name,
            *(asked[name, m] * 1e3 for m in marks),
            asked[name, last] / asked[name, first],
            asked[name, last] / asked[name, full_at],
            memory[name, last] / memory[name, full_at],
            runs[name].cache_bytes / 2**20,
        )
        for name in POLICIES
    )
    columns = (
        "policy", *(f"TTFT ms @{m}" for m in marks), f"TTFT {last}/{first}",
        f"TTFT {last}/full budget", "memory ratio", "cache MiB",
    )  # fmt: skip
    note = (
        f"Budget {side.budget_tokens} tokens per layer, median of {side.repeats}. Memory: weights and KV cache, "
        f"at the last mark over the first mark with a full budget ({full_at} frames)."
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

"""What streaming costs: time to first token, memory, compression, recording - all sides in one run.

Every comparison interleaves its sides and reports medians, because a shared machine drifts; trust the
ratios. Frames are encoded once and fed as visual tokens, so that the decoder is what is measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

from hermes_lab import policies as registry
from hermes_lab.evaluation import bench_length, bench_steps
from hermes_lab.evaluation.bench_inputs import (
    CHUNK_FRAMES,
    QUESTION,
    Side,
    Tick,
    budget_of,
    budgeted,
    encoded_chunk,
    no_tick,
)
from hermes_lab.evaluation.mid_size import mid_size_lab
from hermes_lab.evaluation.report import Cell, Report, Section, machine
from hermes_lab.lab import Lab, load
from hermes_lab.stream.session import StreamSession

OnTable = Callable[[Report], None]
"""Receives the report whenever a table was added to it."""


def engine(
    model: str = "pocket",
    *,
    mid: bool = True,
    quick: bool = False,
    tick: Tick = no_tick,
    on_table: OnTable = lambda report: None,
) -> Report:
    """The tables of `hermes-lab bench`; see the module docstring.

    Args:
        model: any model that loads.
        mid: also a mid-size decoder with random weights.
        quick: shorter streams, fewer repetitions, and no chunks as long as the paper's.
        tick: told of every measurement.
        on_table: told of every finished table.
    """
    report = Report("HERMES Lab, engine benchmark", machine())
    marks = (16, 64, 128) if quick else (16, 64, 256, 512)

    def measure(label: str, lab: Lab, repeats: int) -> None:
        side = Side(label, lab, encoded_chunk(lab), repeats, tick)
        lengths = [CHUNK_FRAMES, bench_steps.LARGE_CHUNK_FRAMES]
        paper = [] if quick else [bench_steps.paper_chunk_frames(side)]
        tables: list[Callable[[Side], Section]] = [
            partial(bench_length.ttft, marks=marks),
            *(partial(bench_steps.compression, chunk_frames=n) for n in sorted({*lengths, *paper})),
            *(partial(bench_steps.recording, chunk_frames=n) for n in lengths),
            bench_steps.against_sdpa,
            bench_length.throughput,
        ]
        for table in tables:
            report.sections.append(table(side))
            on_table(report)

    measure(model, load(model), 3 if quick else 9)
    if mid:
        tick("building the mid-size decoder (random weights)", 0, 1)
        lab = mid_size_lab()
        tick("building the mid-size decoder (random weights)", 1, 1)
        measure("mid-size, RANDOM WEIGHTS", lab, 3 if quick else 5)
    return report


def policies(
    model: str = "pocket",
    *,
    quick: bool = False,
    tick: Tick = no_tick,
    on_table: OnTable = lambda report: None,
) -> Report:
    """Decision and query cost of every policy at one budget on one stream; arguments as of `engine`."""
    lab = load(model)
    segment = encoded_chunk(lab, want_saliency=True)
    budget = budget_of(segment)
    chunks = 6 if quick else 12
    # upper bounds need the future, combinators need their parts
    infos = [registry.info(name) for name in registry.names()]
    names = [
        i.name for i in infos if not i.evaluation_only and not any(f.required for f in i.fields)
    ]
    title = "Cost of every policy"
    rows: list[tuple[Cell, ...]] = []
    for number, name in enumerate(names):
        run = StreamSession(lab, budgeted(name, budget), chunk_frames=CHUNK_FRAMES)
        seconds: list[float] = []
        shares: list[float] = []
        for _ in range(chunks):
            times = run.feed_segment(segment).timings
            seconds.append(times.probe_s + times.decide_s)
            shares.append(seconds[-1] / times.prefill_s)
        asked = [run.ask(QUESTION, max_new_tokens=1).ttft_s for _ in range(5)]
        rows.append(
            (
                name,
                statistics.median(seconds[chunks // 2 :]) * 1e3,
                statistics.median(shares[chunks // 2 :]),
                statistics.median(asked[1:]) * 1e3,
                max(state.tokens for state in run.stream.cache.states),
                run.cache_bytes / 2**20,
                run.stream.cache.archive_bytes / 2**20,
            )
        )
        tick(title, number + 1, len(names))
    columns = (
        "policy", "decision ms/chunk", "share of prefill", "TTFT ms", "tokens in the largest layer",
        "cache MiB", "archive MiB",
    )  # fmt: skip
    note = f"Budget {budget} tokens per layer where the policy takes one, {chunks} chunks of {CHUNK_FRAMES} frames."
    report = Report(f"HERMES Lab, policies on {lab.name}", machine())
    report.sections.append(Section(title, columns, tuple(rows), note))
    on_table(report)
    return report

"""What streaming costs: time to first token, memory, compression, recording - all sides in one run.

Every comparison interleaves its sides and reports medians, because a shared machine drifts; trust the
ratios. Frames are encoded once and fed as visual tokens, so that the decoder is what is measured.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from hermes_lab import guidance
from hermes_lab import policies as registry
from hermes_lab.attention import NAME
from hermes_lab.evaluation.mid_size import mid_size_lab
from hermes_lab.evaluation.report import Cell, Report, Section, machine
from hermes_lab.lab import Lab, load
from hermes_lab.models.base import Segment
from hermes_lab.policies.base import Policy
from hermes_lab.session import RecordLevel, StreamSession

QUESTION = "what was the first object?"
CHUNK_FRAMES = 16
BUDGET_FRAMES = 32
Progress = Callable[[str], None]


def engine(
    model: str = "pocket",
    *,
    mid: bool = True,
    quick: bool = False,
    progress: Progress = lambda _: None,
) -> Report:
    """The tables of `hermes-lab bench`; see the module docstring.

    Args:
        model: any model that loads.
        mid: also a mid-size decoder with random weights.
        quick: shorter streams and fewer repetitions.
        progress: receives one line per measurement.
    """
    sides: list[tuple[str, Lab]] = [(model, load(model))]
    if mid:
        progress("building the mid-size decoder (random weights)")
        sides.append(("mid-size, RANDOM WEIGHTS", mid_size_lab()))
    report = Report("HERMES Lab, engine benchmark", machine())
    marks = (16, 64, 128) if quick else (16, 64, 256, 512)
    repeats = 3 if quick else 7
    for label, lab in sides:
        segment = _encoded_chunk(lab)
        progress(f"{label}: TTFT and memory by stream length")
        report.sections.append(_ttft(label, lab, segment, marks, repeats))
        progress(f"{label}: cost of compression")
        report.sections.append(_compression(label, lab, segment, repeats))
        progress(f"{label}: cost of recording")
        report.sections.append(_recording(label, lab, segment, repeats))
        progress(f"{label}: streaming chunk against plain SDPA prefill")
        report.sections.append(_against_sdpa(label, lab, segment, repeats))
        progress(f"{label}: frames per second")
        report.sections.append(_throughput(label, lab, repeats))
    return report


def policies(model: str = "pocket", *, quick: bool = False) -> Report:
    """Decision and query cost of every policy at one budget on one stream."""
    lab = load(model)
    segment = _encoded_chunk(lab, want_saliency=True)
    budget = _budget(lab, segment)
    rows: list[tuple[Cell, ...]] = []
    chunks = 6 if quick else 12
    for name in registry.names():
        info = registry.info(name)
        if info.evaluation_only or any(f.required for f in info.fields):
            continue  # upper bounds need the future, combinators need their parts
        run = StreamSession(lab, _budgeted(name, budget), chunk_frames=CHUNK_FRAMES)
        shares: list[float] = []
        seconds: list[float] = []
        for _ in range(chunks):
            times = run.feed_segment(segment).timings
            seconds.append(times.probe_s + times.decide_s)
            shares.append(seconds[-1] / times.prefill_s)
        asked = [run.ask(QUESTION, max_new_tokens=1).ttft_s for _ in range(5)]
        held = max(state.tokens for state in run.stream.cache.states)
        rows.append(
            (
                name,
                statistics.median(seconds[chunks // 2 :]) * 1e3,
                statistics.median(shares[chunks // 2 :]),
                statistics.median(asked) * 1e3,
                held,
                run.cache_bytes / 2**20,
                run.stream.cache.archive_bytes / 2**20,
            )
        )
    columns = (
        "policy", "decision ms/chunk", "share of prefill", "TTFT ms", "tokens in the largest layer",
        "cache MiB", "archive MiB",
    )  # fmt: skip
    note = f"Budget {budget} tokens per layer where the policy takes one, {chunks} chunks of {CHUNK_FRAMES} frames."
    report = Report(f"HERMES Lab, policies on {lab.name}", machine())
    report.sections.append(Section("Cost of every policy", columns, tuple(rows), note))
    return report


# --- the tables -----------------------------------------------------------------------------------
def _ttft(label: str, lab: Lab, segment: Segment, marks: Sequence[int], repeats: int) -> Section:
    """TTFT and memory after so many frames, all policies interleaved."""
    budget = _budget(lab, segment)
    names = ("full", "fifo", "hermes", "recent_frames")
    runs = {name: StreamSession(lab, _budgeted(name, budget)) for name in names}
    weights = sum(p.numel() * p.element_size() for p in lab.adapter.model.parameters())
    memory: dict[tuple[str, int], float] = {}
    stands: dict[tuple[str, int], StreamSession] = {}
    seen = 0
    for mark in marks:
        while seen < mark:
            for run in runs.values():
                run.feed_segment(segment)
            seen += CHUNK_FRAMES
        for name, run in runs.items():
            stands[name, mark] = (
                run.fork()
            )  # free, and lets every length be timed in the same minute
            memory[name, mark] = weights + run.cache_bytes
    times: dict[tuple[str, int], list[float]] = {key: [] for key in stands}
    for _ in range(repeats + 1):
        for key, run in stands.items():
            times[key].append(run.ask(QUESTION, max_new_tokens=1, attention=False).ttft_s)
    asked = {
        key: statistics.median(values[1:]) for key, values in times.items()
    }  # the first warms up
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        first, last = marks[0], marks[-1]
        # a bounded cache is full only after its budget: compare with the first mark at which it is
        full_at = next((m for m in marks if m >= BUDGET_FRAMES), last)
        rows.append(
            (
                name,
                *(asked[name, m] * 1e3 for m in marks),
                asked[name, last] / asked[name, first],
                asked[name, last] / asked[name, full_at],
                memory[name, last] / memory[name, full_at],
                runs[name].cache_bytes / 2**20,
            )
        )
    columns = (
        "policy", *(f"TTFT ms @{m}" for m in marks), f"TTFT {marks[-1]}/{marks[0]}",
        f"TTFT {marks[-1]}/full budget", "memory ratio", "cache MiB",
    )  # fmt: skip
    note = (
        f"Budget {budget} tokens per layer, median of {repeats}. Memory: weights and KV cache, at the last mark over "
        f"the first mark with a full budget ({next((m for m in marks if m >= BUDGET_FRAMES), marks[-1])} frames)."
    )
    return Section(f"{label}: TTFT and memory by frames streamed", columns, tuple(rows), note)


def _compression(label: str, lab: Lab, segment: Segment, repeats: int) -> Section:
    """What a HERMES compression step costs beside the chunk's prefill; one guidance pass against three."""
    budget = _budget(lab, segment)
    rows: list[tuple[Cell, ...]] = []
    for spec in ("fifo", "hermes", "hermes:released"):
        run = StreamSession(lab, _budgeted(spec, budget))
        prefill: list[float] = []
        probe: list[float] = []
        decide: list[float] = []
        for _ in range(repeats + 4):
            times = run.feed_segment(segment).timings
            prefill.append(times.prefill_s)
            probe.append(times.probe_s)
            decide.append(times.decide_s)
        medians = [statistics.median(v[4:]) for v in (prefill, probe, decide)]
        rows.append((spec, *(m * 1e3 for m in medians), (medians[1] + medians[2]) / medians[0]))
    run = StreamSession(lab, _budgeted("hermes", budget))
    for _ in range(4):
        run.feed_segment(segment)
    one, three = _guidance_passes(run, repeats)
    note = (
        f"Guidance read in one block-masked pass: {one * 1e3:.1f} ms; in three passes: {three * 1e3:.1f} ms "
        f"(three/one = {three / one:.2f}). A chunk is {len(segment)} tokens here."
    )
    columns = ("policy", "prefill ms", "probe ms", "decide ms", "compression / prefill")
    return Section(f"{label}: cost of a compression step", columns, tuple(rows), note)


def _guidance_passes(run: StreamSession, repeats: int) -> tuple[float, float]:
    wanted = registry.get("hermes(read_local=True)").guidance([])
    prompts = guidance.segments_for(run.engine, wanted, None)
    cache = run.stream.cache

    def ignore(name: str, layer: int, rows: Tensor) -> None:
        del name, layer, rows

    one: list[float] = []
    three: list[float] = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        guidance.read(run.engine, cache, prompts, ignore)
        one.append(time.perf_counter() - started)
        started = time.perf_counter()
        for name, prompt in prompts.items():
            guidance.read(run.engine, cache, {name: prompt}, ignore)
        three.append(time.perf_counter() - started)
    return statistics.median(one[1:]), statistics.median(three[1:])


def _recording(label: str, lab: Lab, segment: Segment, repeats: int) -> Section:
    """A whole feed step with recording off, at summary level and with rows, interleaved."""
    budget = _budget(lab, segment)
    levels: tuple[RecordLevel, ...] = ("off", "summary", "rows")
    seconds: dict[str, list[float]] = {level: [] for level in levels}
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            level: StreamSession(
                lab, _budgeted("hermes", budget), record_level=level,
                record=None if level == "off" else Path(folder) / level,
            )
            for level in levels
        }  # fmt: skip
        for _ in range(repeats + 4):
            for level, run in runs.items():
                started = time.perf_counter()
                run.feed_segment(segment)
                seconds[level].append(time.perf_counter() - started)
        for run in runs.values():
            run.close()
        sizes = {
            level: sum(f.stat().st_size for f in (Path(folder) / level).rglob("*") if f.is_file())
            for level in levels
        }
    medians = {level: statistics.median(values[4:]) for level, values in seconds.items()}
    rows = tuple(
        (
            level,
            medians[level] * 1e3,
            medians[level] / medians["off"] - 1,
            sizes[level] / (repeats + 4) / 1024,
        )
        for level in levels
    )
    columns = ("recording", "feed step ms", "extra", "KiB a step")
    return Section(
        f"{label}: cost of recording", columns, rows, "Policy hermes; thumbnails not included."
    )


def _against_sdpa(label: str, lab: Lab, segment: Segment, repeats: int) -> Section:
    """The same chunk on the same cache through this engine and through transformers' own SDPA and cache."""
    run = StreamSession(lab, "full")
    decoder = cast(Any, lab.adapter.decoder)
    plain = DynamicCache()
    for _ in range(3):
        run.feed_segment(segment)
    for layer, state in enumerate(run.stream.cache.states):
        assert state.keys is not None and state.values is not None
        plain.update(state.keys, state.values, layer)
    cached = plain.get_seq_length()
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(2 * repeats + 1):
        with run.stream.cache.transient():
            started = time.perf_counter()
            run.engine.forward(run.stream.cache, segment, "chunk")
            ours.append(time.perf_counter() - started)
        with _sdpa(decoder), torch.no_grad():
            started = time.perf_counter()
            decoder(inputs_embeds=segment.embeds[None], past_key_values=plain, use_cache=True)
            theirs.append(time.perf_counter() - started)
        plain.crop(cached - plain.get_seq_length())
    mine, other = statistics.median(ours[1:]), statistics.median(theirs[1:])
    rows = (("stream", mine * 1e3, mine / other), ("plain SDPA", other * 1e3, 1.0))
    columns = ("attention", "chunk prefill ms", "ratio")
    return Section(
        f"{label}: streaming chunk against plain SDPA prefill", columns, rows,
        f"{len(segment)} new tokens on {cached} cached ones, no listeners.",
    )  # fmt: skip


class _sdpa(nullcontext[None]):
    """Run a decoder with transformers' own attention inside the block."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self._config = decoder.config

    def __enter__(self) -> None:
        self._config._attn_implementation = "sdpa"

    def __exit__(self, *_: object) -> None:
        self._config._attn_implementation = NAME


def _throughput(label: str, lab: Lab, repeats: int) -> Section:
    """Frames per second from pixels to the decided cache, without recording."""
    frames = _pictures(CHUNK_FRAMES)
    rows: list[tuple[Cell, ...]] = []
    for spec in ("full", "fifo", "hermes"):
        run = StreamSession(lab, _budgeted(spec, BUDGET_FRAMES * 16))
        rates: list[float] = []
        for _ in range(repeats + 3):
            started = time.perf_counter()
            run.feed(frames)
            rates.append(CHUNK_FRAMES / (time.perf_counter() - started))
        rows.append((spec, statistics.median(rates[3:])))
    return Section(
        f"{label}: frames per second, encoding included", ("policy", "frames/s"), tuple(rows)
    )


# --- what is fed ------------------------------------------------------------------------------------
def _pictures(count: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(count)]


def _encoded_chunk(lab: Lab, want_saliency: bool = False) -> Segment:
    times = tuple(float(t) for t in range(CHUNK_FRAMES))
    pictures = _pictures(CHUNK_FRAMES)
    return replace(lab.adapter.encode(pictures, times, want_saliency=want_saliency), time_s=times)


def _budget(lab: Lab, segment: Segment) -> int:
    """32 frames' worth of visual tokens: what a budget of 4K to 6K is at 196 tokens a frame."""
    return len(segment) // CHUNK_FRAMES * BUDGET_FRAMES


def _budgeted(spec: str, budget: int) -> Policy:
    policy = registry.get(spec)
    if policy.name in ("full", "recent_frames"):
        return policy
    return registry.get(spec, budget_tokens=budget)

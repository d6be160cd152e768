"""Tables about one feed step: compression, guidance passes, recording, and the prefill itself."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from hermes_lab import policies as registry
from hermes_lab.engine import upstream
from hermes_lab.evaluation.bench_inputs import (
    BUDGET_CHUNKS,
    CHUNK_FRAMES,
    Side,
    budget_of,
    budgeted,
    encoded_chunk,
)
from hermes_lab.evaluation.report import Cell, Section
from hermes_lab.models.twin import twin_of
from hermes_lab.retention import guidance
from hermes_lab.stream.session import RecordLevel, StreamSession

WARM_UP = BUDGET_CHUNKS + 1  # chunks until every step compresses
LARGE_CHUNK_FRAMES = 4 * CHUNK_FRAMES
PAPER_CHUNK_TOKENS = 16 * 196  # 16 frames of LLaVA-OneVision, as in the paper


def paper_chunk_frames(side: Side) -> int:
    """Frames of this model that make a chunk of the paper's length in tokens."""
    return max(round(PAPER_CHUNK_TOKENS * CHUNK_FRAMES / len(side.segment)), 1)


def compression(side: Side, chunk_frames: int = CHUNK_FRAMES) -> Section:
    """What a HERMES compression step costs beside the chunk's prefill; one guidance pass against three."""
    segment = encoded_chunk(side.lab, chunk_frames)
    title = f"{side.label}: cost of a compression step, chunks of {len(segment)} tokens"
    budget = budget_of(segment)
    specs = ("fifo", "hermes", "hermes:released")
    filled = StreamSession(side.lab, budgeted("fifo", budget))
    rounds = WARM_UP + side.repeats + 1
    for number in range(WARM_UP):
        filled.feed_segment(segment)
        side.tick(title, number + 1, rounds)
    runs = {spec: filled.fork(budgeted(spec, budget)) for spec in specs}
    parts: dict[str, list[tuple[float, float, float]]] = {spec: [] for spec in specs}
    for number in range(side.repeats + 1):
        for spec, run in runs.items():
            times = run.feed_segment(segment).timings
            parts[spec].append((times.prefill_s, times.probe_s, times.decide_s))
        side.tick(title, WARM_UP + number + 1, rounds)
    rows: list[tuple[Cell, ...]] = []
    for spec in specs:
        prefill, probe, decide = (
            statistics.median(column) for column in zip(*parts[spec][1:], strict=True)
        )
        share = (probe + decide) / prefill
        rows.append((spec, prefill * 1e3, probe * 1e3, decide * 1e3, share))
    run = runs["hermes"]
    prompts = guidance.segments_for(run.engine, run.policy.guidance([]), None)
    read_rows = sum(len(s) for _, s in prompts.values())
    one, three = _guidance_passes(run, side.repeats)
    note = (
        f"Budget {budget} tokens per layer. The prompts of hermes have {read_rows} tokens, so that their share of a "
        f"chunk's tokens ({read_rows / len(segment):.2f}) bounds what reading them can cost. Three prompts read in one "
        f"block-masked pass: {one * 1e3:.1f} ms; in three passes: {three * 1e3:.1f} ms (three/one = {three / one:.2f})."
    )
    columns = ("policy", "prefill ms", "probe ms", "decide ms", "compression / prefill")
    return Section(title, columns, tuple(rows), note)


def _guidance_passes(run: StreamSession, repeats: int) -> tuple[float, float]:
    """Seconds of reading all three prompts in all layers, at once and one after the other."""
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


def recording(side: Side, chunk_frames: int = CHUNK_FRAMES) -> Section:
    """A whole feed step with recording off, at summary level and with rows, interleaved."""
    segment = encoded_chunk(side.lab, chunk_frames)
    title = f"{side.label}: cost of recording, chunks of {len(segment)} tokens"
    levels: tuple[RecordLevel, ...] = ("off", "summary", "rows")
    seconds: dict[str, list[float]] = {level: [] for level in levels}
    rounds = WARM_UP + side.repeats
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            level: StreamSession(
                side.lab, budgeted("hermes", budget_of(segment)), record_level=level,
                record=None if level == "off" else Path(folder) / level,
            )
            for level in levels
        }  # fmt: skip
        for number in range(rounds):
            for level, run in runs.items():
                started = time.perf_counter()
                run.feed_segment(segment)
                seconds[level].append(time.perf_counter() - started)
            side.tick(title, number + 1, rounds)
        for run in runs.values():
            run.close()
        sizes = {
            level: sum(f.stat().st_size for f in (Path(folder) / level).rglob("*") if f.is_file())
            for level in levels
        }
    medians = {level: statistics.median(values[WARM_UP:]) for level, values in seconds.items()}
    rows = tuple(
        (level, medians[level] * 1e3, medians[level] / medians["off"] - 1, sizes[level] / rounds / 1024)
        for level in levels
    )  # fmt: skip
    columns = ("recording", "feed step ms", "extra", "KiB per step")
    return Section(title, columns, rows, "Policy hermes; thumbnails not included.")


def against_sdpa(side: Side) -> Section:
    """The same chunk on the same cache through this engine and through transformers' own SDPA and cache."""
    title = f"{side.label}: streaming chunk against plain SDPA prefill"
    run = StreamSession(side.lab, "full")
    plain, decoder = DynamicCache(), _stock(side.lab.adapter.decoder)
    for _ in range(WARM_UP):
        run.feed_segment(side.segment)
    for layer, state in enumerate(run.stream.cache.states):
        assert state.keys is not None and state.values is not None
        plain.update(state.keys, state.values, layer)
    cached = plain.get_seq_length()
    ours: list[float] = []
    theirs: list[float] = []
    rounds = 2 * side.repeats + 1
    for number in range(rounds):
        cache = run.stream.cache.beside()
        started = time.perf_counter()
        run.engine.forward(cache, side.segment, "chunk")
        ours.append(time.perf_counter() - started)
        with torch.no_grad():
            where = torch.arange(cached, cached + len(side.segment))[None]
            started = time.perf_counter()
            upstream.run_decoder(decoder, plain, side.segment.embeds, where)
            theirs.append(time.perf_counter() - started)
        plain.crop(cached - plain.get_seq_length())
        side.tick(title, number + 1, rounds)
    mine, other = statistics.median(ours[1:]), statistics.median(theirs[1:])
    rows = (("stream", mine * 1e3, mine / other), ("plain SDPA", other * 1e3, 1.0))
    columns = ("attention", "chunk prefill ms", "ratio")
    return Section(
        title, columns, rows,
        f"{len(side.segment)} new tokens on {cached} cached ones, no listeners.",
    )  # fmt: skip


def _stock(decoder: nn.Module) -> nn.Module:
    """The same weights with transformers' own attention, for a comparison that no session notices."""
    twin = cast(nn.Module, twin_of(decoder))
    upstream.set_attention(twin, "sdpa")
    return twin

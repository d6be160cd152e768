"""Benchmarks print what they promise; how fast anything is, is not tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hermes_lab import policies as registry
from hermes_lab.cli import main
from hermes_lab.evaluation import bench_steps, benchmark
from hermes_lab.evaluation.bench_inputs import Side, encoded_chunk
from hermes_lab.evaluation.report import Report, Section
from hermes_lab.lab import load


def test_engine_tables_hold_every_side(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    saved = tmp_path / "bench.json"
    model = str(checkpoint("llava_onevision"))
    assert main(["bench", "--model", model, "--no-mid", "--quick", "--save", str(saved)]) == 0
    report = json.loads(saved.read_text())
    assert report["machine"]["cores"] >= 1
    sections = {s["title"].split(": ", 1)[1]: s for s in report["sections"]}
    ttft = sections["TTFT and memory by frames streamed"]
    assert [row[0] for row in ttft["rows"]] == ["full", "fifo", "hermes", "recent_frames"]
    memory = ttft["columns"].index("memory ratio")
    by_policy = {row[0]: row for row in ttft["rows"]}
    # counted bytes are exact: a bounded cache that is full does not grow, the full one does
    assert by_policy["fifo"][memory] == 1.0
    assert by_policy["full"][memory] > 1.0
    recording = [s["rows"] for title, s in sections.items() if "cost of recording" in title]
    assert len(recording) == 2  # two lengths of chunk
    for rows in recording:
        assert [row[0] for row in rows] == ["off", "summary", "rows"]
        assert rows[0][-1] == 0
        assert rows[1][-1] > 0
    compression = [rows for title, rows in sections.items() if "compression step" in title]
    assert len(compression) == 2  # two lengths of chunk
    for section in compression:
        assert {"fifo", "hermes", "hermes:released"} == {row[0] for row in section["rows"]}


def test_long_chunks_have_the_length_of_the_papers() -> None:
    lab = load("pocket")
    side = Side("pocket", lab, encoded_chunk(lab), 1)
    frames = bench_steps.paper_chunk_frames(side)
    assert len(encoded_chunk(lab, frames)) == 16 * 196


def test_policy_table_holds_every_policy(checkpoint: Callable[..., Path]) -> None:
    report = benchmark.policies(str(checkpoint("llava_onevision")), quick=True)
    named = {row[0] for row in report.sections[0].rows}
    infos = [registry.info(name) for name in registry.names()]
    complete = {i.name for i in infos if not any(f.required for f in i.fields)}
    assert named == complete - {i.name for i in infos if i.evaluation_only}
    assert {"full", "hermes", "rekv", "h2o"} <= named


def test_reports_print_their_machine_and_notes() -> None:
    section = Section("A table", ("a", "b"), (("x", 1.23456), ("y", None)), "A note.")
    text = Report("Title", {"cores": 2}, [section]).table()
    for part in ("Title", "cores: 2", "A table", "1.235", "A note."):
        assert part in text


@pytest.mark.parametrize("model", ["no-such-model"])
def test_unknown_model_is_one_sentence(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", model]) == 2
    assert model in capsys.readouterr().err

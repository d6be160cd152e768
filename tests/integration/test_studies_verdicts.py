"""The studies find what was planted, find nothing in a random network, go on after a kill, and write it all down."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from analysis import codec, registry, report, study
from analysis import interventions as knock
from analysis.claims import ControlsMissing, NullPanel, Verdict
from analysis.context import Settings, StudyContext
from analysis.nulls import random_twin
from analysis.planted import Plant, planted_lab
from analysis.report import CrossCheck
from analysis.result import ResultIncomplete
from analysis.streams import Grid, encode, feed
from hermes_lab.errors import LabError
from hermes_lab.lab import Lab

pytestmark = pytest.mark.slow
PLANT = Plant(layers=4, slot=9)
TINY = Settings(frames=32, development=2, held_out=7, per_horizon=1, causal_streams=7)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return StudyContext(
        planted_lab(PLANT), tmp_path_factory.mktemp("planted"), TINY, True, command="x"
    )


@pytest.fixture(scope="module")
def untrained(tmp_path_factory, planted):
    lab = Lab(replace(random_twin(planted.lab.adapter, 1000), name="untrained planted"))
    return StudyContext(lab, tmp_path_factory.mktemp("random"), TINY, True, command="x")


@pytest.fixture(scope="module")
def results(planted):
    return {name: study.run_study(name, planted) for name in ("recency", "anchors")}


def verdicts(result):
    return {f.claim.key: f.verdict for f in result.findings}


@pytest.mark.parametrize("name", ["recency", "anchors"])
def test_the_plant_is_found(results, name):
    found = verdicts(results[name])
    for claim, verdict in study.EXPECTED["planted"].items():
        if claim in found:
            assert found[claim] is verdict, claim


@pytest.mark.parametrize("name", ["recency", "anchors"])
def test_nothing_is_found_in_a_random_network(untrained, name):
    found = verdicts(study.run_study(name, untrained))
    assert Verdict.SUPPORTED not in found.values()
    for claim, verdict in study.EXPECTED["random:planted"].items():
        if claim in found:
            assert found[claim] is verdict, claim


def test_the_planted_rate_and_slot_are_in_the_tables(results):
    fits = results["recency"].table("forgetting")
    rates = {
        (row[1], row[2]): row[3] for row in fits.rows if row[0] == "trained" and row[3] == row[3]
    }
    assert rates[0, 0] == pytest.approx(PLANT.rates_per_frame[0], rel=0.05)
    assert rates[0, 1] == pytest.approx(PLANT.rates_per_frame[1], rel=0.05)
    heads = results["anchors"].table("heads")
    beyond = {row[:2] for row in heads.rows if row[-1]}
    assert {(3, 0), (3, 1)} <= beyond
    slots = {row[:2]: row[2] for row in results["anchors"].table("phase").rows}
    assert slots[3, 0] == slots[3, 1] == PLANT.slot


def test_planted_influence_is_seen_by_knockout(planted):
    """Hiding recent frames in the first layer, and anchors in the last, moves the output most."""
    rng = np.random.default_rng(0)
    moved = {"recent": [], "anchors": []}
    for stream in planted.held_out[:3]:
        session = feed(planted.lab, encode(planted.lab, stream))
        grid = Grid.of(session)
        sets = {
            "recent": (0, knock.recent(grid, 3), knock.random_frames(grid, 3, rng)),
            "anchors": (3, knock.slot(grid, PLANT.slot), knock.random_slots(grid, PLANT.slot, rng)),
        }
        for name, (layer, ids, random) in sets.items():
            other = 3 - layer
            plan = [
                knock.untouched(session),
                knock.condition(session, [layer], ids),
                knock.condition(session, [layer], random),
                knock.condition(session, [other], ids),
            ]
            logits = knock.knocked_logits(session, "what is the scene", plan)
            # even entries of the vocabulary read what the first layer gathered, odd ones the last
            part = slice(0 if name == "recent" else 1, None, 2)
            moved[name].append((logits - logits[0]).abs()[:, part].mean(1).numpy())
    for effects in moved.values():
        _, own, matched, elsewhere = np.mean(effects, axis=0)
        assert own > 3 * matched
        assert own > 3 * elsewhere


def test_other_studies_run_and_say_that_this_model_cannot_answer(planted):
    small = study.replace_progress(planted, planted.progress)
    small.settings = replace(TINY, causal_streams=3, control_draws=3)
    small.__dict__.pop("causal", None)
    for name in ("knockout", "contribution", "consequence", "information_flow"):
        result = study.run_study(name, small)
        assert set(verdicts(result).values()) == {Verdict.CANNOT_TELL}
        assert result.tables


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, planted):
    class Killed(Exception):
        pass

    def kill(what, done, total):
        if done == 2:
            raise Killed

    settings = replace(TINY, held_out=4)
    first = StudyContext(planted.lab, tmp_path, settings, True, kill, "x")
    with pytest.raises(Killed):
        first.observe("trained")
    kept = sorted(tmp_path.rglob("*.npz"))
    assert len(kept) == 2
    stamps = [path.stat().st_mtime_ns for path in kept]
    kept[0].with_name(".half-written.npz.1").write_bytes(b"PK")  # a file in flight is not picked up
    second = StudyContext(planted.lab, tmp_path, settings, True, command="x")
    again = second.observe("trained")
    assert [path.stat().st_mtime_ns for path in kept] == stamps
    assert second.reproduce("").reused == 0.5
    kept[0].write_bytes(b"damaged")
    whole = StudyContext(planted.lab, tmp_path, settings, True, command="x").observe("trained")
    assert np.array_equal(whole.of("now", "profile"), again.of("now", "profile"))


def test_studies_keep_their_numbers_apart_and_share_what_is_observed(tmp_path, planted):
    """Two studies may call a measurement alike; each gets its own numbers back, also after a kill."""
    ours = StudyContext(planted.lab, tmp_path, replace(TINY, held_out=4), True, command="x")
    theirs = study.replace_progress(ours, ours.progress)
    ours.study, theirs.study = "ours", "theirs"
    for _ in range(2):
        for context, value in ((ours, 1.0), (theirs, 2.0)):
            found = context.per_stream("measure", context.held_out, lambda s, v=value: {"x": v})
            assert [float(f["x"]) for f in found] == [value] * 4
    kept = len(list(tmp_path.rglob("*.npz")))
    assert kept == 8
    ours.observe("half_length")
    theirs._features.clear()
    theirs.observe("half_length")
    assert len(list(tmp_path.rglob("*.npz"))) == kept + 4


def test_the_report_is_whole(tmp_path, results):
    control = CrossCheck("replication", "other", "recency-shallow", "1", Verdict.CANNOT_TELL, "why")
    made = report.build("planted", list(results.values()), [control], "hermes-lab study all")
    report.write(made, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("plotly.js v") == 1
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=.https?:", page)
    for result in results.values():
        for finding in result.findings:
            assert finding.verdict.value in page
        for table in result.tables:
            text = (tmp_path / "tables" / result.study / f"{table.name}.csv").read_text()
            rows = list(csv.reader(io.StringIO(text)))
            assert tuple(rows[0]) == table.columns
            assert len(rows) == len(table.rows) + 1
        for figure in result.figures:
            assert figure.title in page
    again = report.read(tmp_path / "report.json")
    assert codec.dumps(again) == codec.dumps(made)
    json.loads((tmp_path / "report.json").read_text())
    said = (tmp_path / "summary.md").read_text()
    assert "## Supported" in said
    assert "planted" in said


def test_the_report_refuses_what_cannot_be_believed(results):
    result = results["recency"]
    bare = replace(result.findings[0], panel=NullPanel(()))
    with pytest.raises(ControlsMissing, match="without its controls"):
        report.build("m", [replace(result, findings=(bare,))])
    with pytest.raises(ResultIncomplete, match="scope"):
        report.build("m", [replace(result, scope="")])
    failed = CrossCheck.of(
        "negative control", "untrained", result.findings[0], Verdict.NOT_SUPPORTED
    )
    with pytest.raises(LabError, match="failed their negative control"):
        report.build("m", [result], [failed])


def test_the_same_studies_run_on_another_family(tmp_path, checkpoint):
    """M-RoPE, merged frames, another template: no verdict may come out of a random checkpoint."""
    model = str(checkpoint("qwen2_5_vl"))
    settings = replace(TINY, development=2, held_out=3, causal_streams=3)
    for name in registry.BUILTIN:
        outcome = study.run(name, model, tmp_path / "out", True, settings=settings)
        found = [f["verdict"] for f in outcome.to_json()["findings"]]
        assert found
        assert "supported" not in found
    assert (tmp_path / "out" / "report.html").exists()


def test_unknown_studies_and_missing_reports_are_told(tmp_path):
    with pytest.raises(LabError, match="did you mean 'recency'"):
        study.run("recencey", "planted", tmp_path)
    with pytest.raises(LabError, match="run `hermes-lab study all`"):
        report.read(tmp_path / "none.json")

"""Reports on disk: what was written loads again, what does not fit is one sentence, and a page shows values as text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from enum import IntEnum
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import codec, page, report, store
from analysis.claims import Verdict
from analysis.report import CrossCheck, StudyReport
from analysis.result import checklist
from hermes_lab.errors import LabError

ROOT = Path(__file__).parents[2]
SAVED = ROOT / "reports" / "pocket" / "report.json"


@pytest.fixture(scope="module")
def saved() -> StudyReport:
    return report.read(SAVED)


class Texts(HTMLParser):
    """The texts, tags and attribute values of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self.tags: list[str] = []
        self.values: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [value or "" for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(" ".join(data.split()))


# --- out ------------------------------------------------------------------------------------------
def test_a_report_is_written_as_it_was_read(saved: StudyReport) -> None:
    assert codec.dumps(saved) == SAVED.read_text(encoding="utf-8")


def test_values_become_plain_and_what_is_not_finite_becomes_null() -> None:
    class Level(IntEnum):
        LOW = 1

    value = {
        "mean": np.float32(2), "lost": (1, np.nan, math.inf), "verdict": Verdict.SUPPORTED, 3: True,
        "ids": np.arange(2), "grid": np.full((1, 2), np.nan), "none": None, "yes": np.bool_(True), "level": Level.LOW,
    }  # fmt: skip
    plain = codec.to_plain(value)
    assert json.loads(json.dumps(plain, allow_nan=False)) == {
        "mean": 2.0, "lost": [1, None, None], "verdict": "supported", "3": True,
        "ids": [0, 1], "grid": [[None, None]], "none": None, "yes": True, "level": 1,
    }  # fmt: skip
    assert type(plain["verdict"]) is str


@pytest.mark.parametrize("value", [object(), b"x", {1, 2}, frozenset({1}), 1j, int])
def test_what_a_report_cannot_hold_is_named(value: object) -> None:
    with pytest.raises(LabError, match=rf"^A report cannot hold a {type(value).__name__}\.$"):
        codec.dumps({"deep": [value]})


# --- in -------------------------------------------------------------------------------------------
def setup(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda whole: whole["studies"][0]["setup"].update(changes)


def finding(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda whole: whole["studies"][0]["findings"][0].update(changes)


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no list": (lambda w: w.update(studies=3), "The report holds 3 where a list belongs."),
    "text for a list": (lambda w: w.update(covers=1, studies="abc"), "StudyReport has no field 'covers'."),
    "text is no list of texts": (setup(prompts="abc"), "The report holds 'abc' where a list belongs."),
    "missing": (lambda w: w.pop("model"), "The report's StudyReport is incomplete: it lacks 'model'."),
    "number as text": (setup(frames="8"), "The report holds '8' where a whole number belongs."),
    "truth as number": (setup(frames=True), "The report holds True where a whole number belongs."),
    "fraction": (setup(frames=8.5), "The report holds 8.5 where a whole number belongs."),
    "word as float": (setup(fps="fast"), "The report holds 'fast' where a number belongs."),
    "too large": (setup(fps=10**400), "where a number belongs."),
    "no text": (setup(model=None), "The report holds None where text belongs."),
    "no mapping": (setup(versions=[1]), "The report holds [1] where a mapping belongs."),
    "inside a mapping": (setup(versions={"torch": 2}), "The report holds 2 where text belongs."),
    "no truth": (lambda w: w["studies"][0].update(quick="yes"), "The report holds 'yes' where true or false belongs."),
    "verdict": (finding(verdict="maybe"), "'maybe' is none of 'supported', 'not supported', 'cannot tell'."),
    "verdict of another kind": (finding(verdict=["supported"]), "['supported'] is none of 'supported'"),
    "no estimate": (finding(estimate=None), "The report holds None where Estimate belongs."),
    "no panel": (finding(panel={"controls": None}), "The report holds None where a list belongs."),
    "row is no list": (
        lambda w: w["studies"][0]["tables"][0].update(rows=["ab"]), "The report holds 'ab' where a list belongs."),
    "not refutable": (
        lambda w: w["studies"][0]["findings"][0]["claim"].update(smallest_effect=-1), "needs a smallest effect above 0."),
    "status": (
        lambda w: w["studies"][0]["findings"][0]["claim"].update(status="proved"),
        "'proved' is none of 'exploratory', 'confirmatory', 'confirmed'."),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_what_does_not_fit_is_refused_in_a_sentence(name: str) -> None:
    damage, sentence = DAMAGE[name]
    whole = json.loads(SAVED.read_text(encoding="utf-8"))
    damage(whole)
    with pytest.raises(LabError) as refused:
        codec.loads(StudyReport, json.dumps(whole))
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"format": NaN}', "NaN is no number in JSON"),
        (b'{"format": "\xff"}', "is not text in UTF-8"),
        (b"[]", "holds [] where StudyReport belongs"),
        (b"null", "holds None where StudyReport belongs"),
    ],
)
def test_a_file_that_is_no_report_is_refused_in_a_sentence(
    tmp_path: Path, text: bytes, sentence: str
) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(text)
    with pytest.raises(LabError) as refused:
        report.read(path)
    assert sentence in str(refused.value)


def test_reports_of_earlier_versions_say_confirmed_and_are_confirmatory() -> None:
    text = SAVED.read_text(encoding="utf-8").replace('"confirmatory"', '"confirmed"')
    assert '"confirmed"' in text
    again = codec.loads(StudyReport, text)
    assert {f.claim.status for s in again.studies for f in s.findings} == {"confirmatory"}
    assert '"confirmed"' not in codec.dumps(again)


# --- the page -------------------------------------------------------------------------------------
def test_the_page_holds_the_report_and_says_confirmatory(saved: StudyReport) -> None:
    some = saved.studies[:1]
    seen = Texts(page.render(replace(saved, studies=some, checklist=checklist(some))))
    study = saved.studies[0]
    for said in (study.title, study.question, study.scope, *study.negatives, *study.robustness):
        assert " ".join(said.split()) in seen.words
    for f in study.findings:
        assert {f.claim.sentence, f.claim.metric, f.because, f.verdict.value} <= set(seen.words)
    assert seen.words.count("confirmatory") == 2 * len(study.findings)
    assert "confirmed" not in seen.words
    assert seen.tags.count("figure") == len(study.figures)
    links = [v for v in seen.values if v.startswith("data:text/csv")]
    assert len(links) == len(study.tables)
    assert {c.because for c in saved.controls} <= set(seen.words)
    assert [w for w in seen.words if "not covered" in w]  # one study covers little


def test_values_are_text_on_the_page_whatever_they_hold(saved: StudyReport) -> None:
    bad = "<img src=x onerror=alert(1)> & \"quoted\" 'text' {{ 7 * 7 }}"
    first = saved.studies[0]
    study = replace(
        first, study=bad, title=bad, question=bad, scope=bad, negatives=(bad,), robustness=(bad,),
        setup=replace(first.setup, model=bad, versions={bad: bad}),
        tables=tuple(replace(t, caption=bad) for t in first.tables),
        figures=tuple(replace(f, title=bad, shows=bad, cannot_tell=bad) for f in first.figures[:1]),
    )  # fmt: skip
    check = CrossCheck(bad, bad, bad, bad, Verdict.CANNOT_TELL, bad)
    seen = Texts(page.render(replace(saved, model=bad, studies=(study,), controls=(check,))))
    assert "img" not in seen.tags
    assert bad in seen.words
    assert f"#{bad}" in seen.values
    assert f"{bad}: {bad}" in seen.values  # the label of the figure


def test_a_report_without_other_models_says_so(saved: StudyReport) -> None:
    seen = Texts(page.render(replace(saved, studies=(), controls=())))
    assert "Not run here:" in seen.words


# --- results per stream ---------------------------------------------------------------------------
def test_results_may_have_any_name_and_are_read_by_numpy(tmp_path: Path) -> None:
    found = {"file": np.arange(3.0), "allow_pickle": np.array(["a", "b"]), "now/profile": np.eye(2)}
    kept = store.Store(tmp_path)
    assert kept.get(("stage", "stream"), lambda: found).keys() == found.keys()
    with np.load(kept.path(("stage", "stream"))) as read:
        assert {name: read[name].tolist() for name in read.files} == {
            name: value.tolist() for name, value in found.items()
        }
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["stream.npz"]


def test_results_of_earlier_versions_are_found_again() -> None:
    """The names of the folders that results are kept in must not change, else hours of work are done again."""
    settings = (3, 0.5, None, True), {"b": np.int64(2), "a": math.nan}
    assert store.fingerprint(1, 16, "knockout", *settings) == "b87ec2c99a1c"


def test_a_damaged_result_is_made_again(tmp_path: Path) -> None:
    kept = store.Store(tmp_path)
    path = kept.path(("stage", "stream"))
    kept.get(("stage", "stream"), lambda: {"x": np.arange(100.0)})
    whole = path.read_bytes()
    for damaged in (b"", b"PK", whole[:-40], whole[:60] + b"\xff" * 40 + whole[100:]):
        path.write_bytes(damaged)
        assert kept.get(("stage", "stream"), lambda: {"x": np.ones(2)})["x"].tolist() == [1.0, 1.0]


def test_results_that_cannot_be_kept_are_told_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "stage").write_text("a file where a folder belongs")
    with pytest.raises(
        LabError, match=r"results of a study cannot be kept in .*stage: .*used again"
    ):
        store.Store(tmp_path).get(("stage", "stream"), lambda: {"x": np.zeros(1)})
    assert [p.name for p in tmp_path.iterdir()] == ["stage"]

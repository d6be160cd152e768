"""The Findings page on a report that was made up by the studies' own classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis import claims, report
from analysis.claims import Claim, NullPanel, RequiredControl, judge
from analysis.result import Data, FigureSpec, Reproduce, Setup, StudyResult, Table
from hermes_lab.errors import LabError
from tests.app.pages import sound, text_of
from tests.app.snippets import complete, one, run, shown

CLAIM = Claim(
    key="recent-frames-win",
    sentence="Shallow layers look at new frames more than uniform attention does.",
    metric="share of the newest frame over uniform",
    refuted_if="no more than in untrained networks",
    needs=(RequiredControl("random_weights", "exceed"),),
    reference=1.0,
    smallest_effect=0.1,
)


def made_up() -> StudyResult:
    rng = np.random.default_rng(0)
    observed, null = 2 + 0.2 * rng.standard_normal(12), 1 + 0.2 * rng.standard_normal(12)
    panel = NullPanel((claims.null("random_weights", observed, null),))
    (finding,) = judge([(CLAIM, claims.estimate(observed), panel)])
    return StudyResult(
        study="recency", title="Recency", question="Where does attention go by age?", structural=True, quick=True,
        setup=Setup(
            "m", "none", {"torch": "2"}, "float32", "stream", 8, 1.0, "96x96", 16, 6, 4, 2, ("q",), "full",
            "last question token", "counted apart", "none", "cpu", (0,),
        ),
        data=Data("worlds", ("1",), ("2", "3"), {"2": "ab"}, "Apache-2.0", "first seeds", 10),
        findings=(finding,),
        tables=(Table("profile", ("layer", "share"), ((0, 1.5), (1, 1.2))),),
        figures=(FigureSpec("f", "no_such_figure", ("profile",), "A title", "what it shows", "what it cannot"),),
        negatives=("Deep layers showed nothing.",), robustness=("leave one out: 1.9 to 2.1",), analyses=3,
        reproduce=Reproduce("hermes-lab study recency", 3.0, 2.0, 0.0, "2.0 within 0.1"), scope="A made-up model.",
        covers=("nulls", "per_head"),
    )  # fmt: skip


@pytest.fixture
def reports(runs: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "reports" / "latest"
    folder.mkdir(parents=True)
    text = report.codec.dumps(report.build("m", [made_up()], command="hermes-lab study recency"))
    (folder / "report.json").write_text(text)
    return folder


def test_a_claim_stands_beside_its_null_with_its_verdict(reports: Path, open_page) -> None:
    app = sound(open_page("findings", claim=CLAIM.key))
    assert not app.error
    said = text_of(app)
    finding = made_up().findings[0]
    assert CLAIM.sentence in said
    assert finding.because in said
    assert "Status: exploratory, choices were made on the same streams" in said
    assert list(app.dataframe[0].value["status"]) == ["exploratory"]
    assert "Deep layers showed nothing." in said
    assert list(app.dataframe[0].value["verdict"]) == [finding.verdict.value]
    assert any("findings-forest" in c.proto.id for c in app.get("plotly_chart"))
    assert "no_such_figure" in said  # the rest of the report is shown all the same
    codes = shown(complete(app))
    table = run(one(codes, "result.table('profile')"))["result"].table("profile")
    assert table.rows == made_up().tables[0].rows
    rows = run(one(codes, "forest("))["rows"]
    assert [r[2] for r in rows] == [
        finding.estimate.value,
        finding.panel.controls[0].estimate.value,
    ]


def test_the_status_of_a_claim_does_not_sound_like_its_verdict(reports: Path, open_page) -> None:
    path = reports / "report.json"
    path.write_text(path.read_text().replace('"exploratory"', '"confirmed"'))
    app = sound(open_page("findings", claim=CLAIM.key))
    assert not app.error
    assert "Status: confirmatory, choices were made on other streams" in text_of(app)
    assert "confirmed" not in text_of(app)
    assert list(app.dataframe[0].value["status"]) == ["confirmatory"]


def test_a_damaged_report_is_one_sentence(reports: Path, open_page) -> None:
    (reports / "report.json").write_text("{")
    app = sound(open_page("findings"))
    (error,) = app.error
    assert "JSON" in error.value


def test_a_verdict_without_its_controls_is_not_shown(reports: Path, open_page) -> None:
    bare = replace(made_up().findings[0], panel=NullPanel(()))
    text = report.codec.dumps(
        replace(report.build("m", [made_up()]), studies=(replace(made_up(), findings=(bare,)),))
    )
    (reports / "report.json").write_text(text)
    app = sound(open_page("findings"))
    assert "controls" in app.error[0].value
    assert CLAIM.sentence not in text_of(app)


@pytest.mark.parametrize("name", ["..", "../runs", "missing"])
def test_reports_outside_the_folder_are_refused(reports: Path, name: str) -> None:
    from dashboards.findings.reports import read_report

    with pytest.raises(LabError, match="There is no report"):
        read_report(name)

"""Reports of studies that somebody passed on."""

from __future__ import annotations

import json
import random
from pathlib import Path

from analysis import page, report
from dashboards.findings.reports import folders
from tests.fuzz.cases import LINK, PIPE, Case, Fault, Target, lay
from tests.fuzz.mutators import json_bytes

_SHIPPED = Path(__file__).resolve().parents[2] / "reports" / "pocket" / "report.json"
_MARK = "<script>alert(1)</script>"


class Reports(Target):
    """A report.json, as the Findings page reads it."""

    name = "report"

    def prepare(self, folder: Path) -> None:
        whole = json.loads(_SHIPPED.read_text("utf-8"))
        whole["studies"] = [min(whole["studies"], key=lambda study: len(json.dumps(study)))]
        self.sound = whole

    def draw(self, rng: random.Random) -> Case:
        if rng.random() < 0.03:
            return {"report.json": rng.choice((PIPE, LINK + b"/etc/passwd", b"", b"\xff\xfe"))}
        return {"report.json": json_bytes(self.sound, rng)}

    def run(self, case: Case, folder: Path) -> None:
        lay(case, folder)
        read = report.read(folder / "report.json")
        for study in read.studies:
            study.validate()
        report.summary(read)
        for study in read.studies:
            for table in study.tables:
                table.csv()
        if _MARK in page.render(read):
            raise Fault("what a report says became a script of the page")
        folders()

"""Reports of `hermes-lab study`: where they lie, and which of them may be opened."""

from __future__ import annotations

import os
from pathlib import Path

from analysis.report import StudyReport, read
from dashboards.parts.plain_text import called
from hermes_lab.errors import LabError

FOLDER_VARIABLE = "HERMES_LAB_REPORTS"
REPORT = "report.json"


def reports_folder() -> Path:
    """Where reports are looked for: `reports` where the app was started, unless the environment says otherwise."""
    return Path(os.environ.get(FOLDER_VARIABLE, "reports")).resolve()


def folders() -> dict[str, Path]:
    """Reports in the folder by the names that pages call them by, the newest first."""
    root = reports_folder()
    found = [p for p in root.glob(f"*/{REPORT}") if p.resolve().is_relative_to(root)]
    newest = sorted(found, key=lambda p: p.stat().st_mtime, reverse=True)
    name_of = {folder: name for name, folder in called(p.parent for p in newest).items()}
    return {name_of[p.parent]: p.parent for p in newest}


def path(name: str) -> Path:
    """Where the report of that name lies.

    Raises:
        LabError: there is none of that name.
    """
    found = folders()
    if name not in found:
        raise LabError(
            f"There is no report {name!r} in {str(reports_folder())!r}; run `hermes-lab study all`."
        )
    return found[name] / REPORT


def read_report(name: str) -> StudyReport:
    """A report by the name of its folder, held to its own checklist again.

    Raises:
        LabError: there is none of that name, it is damaged, or a verdict in it stands without its controls.
    """
    report = read(path(name))
    for result in report.studies:
        result.validate()
    return report

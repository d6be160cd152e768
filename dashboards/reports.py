"""Reports of `hermes-lab study`: where they lie and what is in them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.codec import from_plain
from analysis.result import StudyResult
from hermes_lab.errors import LabError

FOLDER_VARIABLE = "HERMES_LAB_REPORTS"
REPORT = "report.json"


@dataclass(frozen=True)
class Report:
    """One report: its studies, and a sentence for each part that could not be read."""

    folder: Path
    studies: tuple[StudyResult, ...]
    problems: tuple[str, ...] = ()


def reports_folder() -> Path:
    """Where reports are looked for: `reports` where the app was started, unless the environment says otherwise."""
    return Path(os.environ.get(FOLDER_VARIABLE, "reports")).resolve()


def names() -> list[str]:
    """Reports in the folder, the newest first."""
    root = reports_folder()
    found = [p for p in root.glob(f"*/{REPORT}") if p.resolve().is_relative_to(root)]
    return [p.parent.name for p in sorted(found, key=lambda p: p.stat().st_mtime, reverse=True)]


def read_report(name: str) -> Report:
    """A report by the name of its folder.

    Raises:
        LabError: there is none of that name, or it is no JSON.
    """
    if name not in names():
        raise LabError(
            f"There is no report {name!r} in {str(reports_folder())!r}; run `hermes-lab study all`."
        )
    folder = reports_folder() / name
    try:
        plain = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabError(
            f"{REPORT} of {str(folder)!r} cannot be read ({error}); run the study again."
        ) from error
    studies: list[StudyResult] = []
    problems: list[str] = []
    for entry in _entries(plain):
        try:
            result: StudyResult = from_plain(StudyResult, entry)
            result.validate()
        except (LabError, TypeError, KeyError) as error:
            problems.append(f"Study {entry.get('study', '?')!r} is left out: {error}")
        else:
            studies.append(result)
    return Report(folder, tuple(studies), tuple(problems))


def _entries(plain: Any) -> list[dict[str, Any]]:
    """Everything in a report that is a study: an object with findings, at any of its first levels."""
    if isinstance(plain, dict):
        if "findings" in plain and "study" in plain:
            return [plain]
        return [e for value in plain.values() for e in _entries(value)]
    if isinstance(plain, list):
        return [e for value in plain if isinstance(value, dict) for e in _entries(value)]
    return []

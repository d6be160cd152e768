"""Recordings, reports, results and policies that others wrote: a sentence, and never a wait, a flood or a traceback."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import report
from analysis.store import Store
from hermes_lab import bundled, policies
from hermes_lab.errors import LabError, PolicyError, RecordingError
from hermes_lab.recording import Recording, list_recordings
from hermes_lab.recording.parts import Part
from hermes_lab.training import checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundled.recording_path(), tmp_path / "runs" / "one"))


# --- recordings -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["manifest.json", "parts/000000-step.safetensors"])
def test_a_pipe_or_a_link_in_a_recording_is_not_opened(
    folder: Path, name: str, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (folder / name).rename(elsewhere)
    os.mkfifo(folder / name)
    with pytest.raises(RecordingError, match="it is a pipe"):
        Recording.open(folder)
    (folder / name).unlink()
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(RecordingError, match="is a link, which is not followed here"):
        Recording.open(folder)
    (entry,) = list_recordings(folder.parent)
    assert (entry.problem is None) == (name != "manifest.json")


def test_parts_that_lie_elsewhere_are_not_read(folder: Path, tmp_path: Path) -> None:
    (folder / "parts").rename(tmp_path / "parts")
    (folder / "parts").symlink_to(tmp_path / "parts")
    with pytest.raises(RecordingError, match="parts is a link, which is not followed here"):
        Recording.open(folder)


@pytest.mark.parametrize("name", ["manifest.json", "parts/000000-step.safetensors"])
def test_a_file_of_a_terabyte_is_not_read(folder: Path, name: str) -> None:
    with (folder / name).open("r+b") as file:
        file.truncate(10**13)
    with pytest.raises(RecordingError, match="is larger than"):
        Recording.open(folder)


def test_a_linked_recording_opens(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "by-name").symlink_to(folder)
    assert len(Recording.open(tmp_path / "by-name").steps)


def test_a_picture_of_a_giant_is_not_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from PIL import Image

    giant = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(giant, "JPEG")
    jpeg = np.frombuffer(giant.getvalue(), np.uint8)
    recording = Recording.open(folder)
    read = Part.read

    def swapped(self: Part, *names: str) -> list[Any]:
        if names == ("jpeg", "offsets"):
            return [jpeg, np.full(100, len(jpeg)) * (np.arange(100) > 0)]
        return read(self, *names)

    monkeypatch.setattr(Part, "read", swapped)
    frame = recording.step_parts[0].record["frames"][0]
    with pytest.raises(RecordingError, match="a thumbnail of 9000 x 9000 pixels"):
        recording.thumbnail(frame)


# --- reports and results ----------------------------------------------------------------------------
@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "reports/pocket/report.json", tmp_path / "report.json"))


@pytest.mark.parametrize(
    "name", ['x"><script>alert(1)</script>', "../../evil", "a/b", "", ".hidden", "é"]
)
@pytest.mark.parametrize("of", ["study", "table"])
def test_names_in_a_report_are_words(saved: Path, name: str, of: str) -> None:
    content = json.loads(saved.read_text())
    study = content["studies"][0]
    if of == "study":
        study["study"] = name
    else:
        study["tables"][0]["name"] = name
    saved.write_text(json.dumps(content))
    with pytest.raises(LabError, match="is no name of a study or table"):
        report.read(saved)


def test_nothing_is_written_outside_the_reports_folder(saved: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    whole = report.read(saved)
    study = whole.studies[0]
    evil = replace(study.tables[0], name="../../../evil")
    bad = replace(whole, studies=(replace(study, tables=(evil,)),))
    with pytest.raises(LabError, match="is no name of a study or table"):
        report.write(bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "data", [b"\xff\xfe{}", b"[" * 100_000, b"null", b"[]", b'{"format": 3}', b""]
)
def test_a_damaged_report_is_a_sentence(saved: Path, data: bytes) -> None:
    saved.write_bytes(data)
    with pytest.raises(LabError) as refused:
        report.read(saved)
    assert "\n" not in str(refused.value)


def test_a_report_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "report.json")
    with pytest.raises(LabError, match="it is a pipe"):
        report.read(tmp_path / "report.json")


def test_results_that_cannot_be_read_are_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.path(("a",))
    os.mkfifo(path)
    assert store.read(path) is None
    path.unlink()
    path.write_bytes(b"PK\x03\x04 nonsense")
    assert list(store.get(("a",), lambda: {"x": [1]})) == ["x"]


def test_a_damaged_training_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.FILE
    for data in (b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}"):
        path.write_bytes(data)
        for read in (checkpoint.load, lambda folder: checkpoint.belongs(folder, "x")):
            with pytest.raises(LabError, match=r"is damaged .*--no-resume"):
                read(tmp_path)


# --- policies in text -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options",
    [
        "budget_tokens=" + "9" * 400, "budget_tokens=" + "9" * 5000, "budget_tokens=" + "9" * 20,
        "budget_tokens=" + "-" * 5000 + "1", "budget_tokens=" + "-" * 30_000 + "1",
        "budget_tokens=" + "[" * 5000, "budget_tokens=" + "fifo(" * 1500, "budget_tokens=1e999",
        "budget_tokens={[]: 1}", "budget_tokens=b'\\xff'",
        "budget_tokens=" + "1+" * 4000 + "1",
    ],
)  # fmt: skip
def test_policies_in_text_are_bounded(options: str) -> None:
    with pytest.raises(PolicyError) as refused:
        policies.get(f"fifo({options})")
    assert len(str(refused.value)) < 400


def test_policies_nested_in_each_other_are_bounded() -> None:
    with pytest.raises(PolicyError) as refused:
        policies.get("instant(policy=" * 150 + "fifo" + ")" * 150)
    assert len(str(refused.value)) < 400

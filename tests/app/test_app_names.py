"""Any name that the file system allows is a recording's name: it is listed, opened, zipped and deleted like any other."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dashboards.findings import reports
from dashboards.parts.controls import model_choices
from dashboards.parts.plain_text import called, portable, printable
from dashboards.parts.store import Store
from hermes_lab.errors import ModelError, RecordingError
from hermes_lab.recording import Recording
from tests.app.pages import press, sound, text_of

NO_UTF8 = os.fsdecode(b"caf\xe9")
NAMES = [
    "my run", "run (1)", "fifo,b=256", "実験1", "émile", "e\u0301mile", "_x", "-x", ".hidden", "a@30", "run#2", "100%",
    "a&b=c?d", "x" * 90, "n" * 255, "two\nlines", "[bold]x[", "a['", "<b>x", "*star*", "![x](http:evil)",
    "back\\slash", "$5 or $10", " spaces ", "it's", '"quoted"', "bundled", "emoji🎥", "\x1b[31mred", NO_UTF8, ".. ", "~",
]  # fmt: skip
PAGES = ("live", "why", "atlas", "recordings")


def shown_as(root: Path, folder: str) -> str:
    (name,) = [n for n, path in Store(root).folders().items() if path.name == folder]
    return name


@pytest.mark.parametrize("folder", NAMES)
def test_a_recording_of_any_name_is_listed_opened_zipped_and_deleted(
    open_page, runs: Path, tmp_path: Path, folder: str
) -> None:
    (runs / "second").rename(runs / folder)
    store = Store(runs)
    name = shown_as(runs, folder)
    name.encode()  # a page and a link can carry it
    assert store.names().count(name) == 1
    assert store.path(name) == runs / folder
    app = sound(open_page("why", recording=name, layer="1"))
    assert not app.error
    assert not app.warning
    assert app.selectbox(key="w_recording").value == name
    with zipfile.ZipFile(io.BytesIO(store.zipped(name))) as archive:
        archive.extractall(tmp_path / "out")
    (copy,) = (tmp_path / "out").iterdir()
    assert Recording.open(copy).verify() == []
    app = sound(open_page("recordings", recording=name, other="first"))
    assert not app.error
    assert "both hold" in text_of(app)
    press(app, "Delete ...")
    press(app, "Yes, delete it")
    assert not (runs / folder).exists()
    assert (runs / "first").exists()


def test_a_name_that_is_no_utf8_takes_no_page_from_the_others(open_page, runs: Path) -> None:
    shutil.copytree(runs / "first", runs / NO_UTF8)
    for page in (*PAGES, "lab", "findings"):
        for recording in ("second", "caf\\xe9"):
            app = sound(open_page(page, recording=recording))
            assert not app.error
    assert Store(runs).names().count("caf\\xe9") == 1


def test_words_of_a_recording_that_are_no_utf8_take_no_page(open_page, runs: Path) -> None:
    manifest = runs / "second" / "manifest.json"
    told = json.loads(manifest.read_text())
    told["source"]["name"] = f"{NO_UTF8}.mp4"
    told["model"]["name"] = f"models/{NO_UTF8}"
    told["reason"], told["status"] = f"{NO_UTF8} \ud800", "aborted"
    manifest.write_text(json.dumps(told))
    for page in PAGES:
        for recording in ("first", "second"):
            app = sound(open_page(page, recording=recording))
            assert not app.error
    assert "caf\\xe9.mp4" in list(app.dataframe[0].value["source"])


def test_names_that_look_alike_stay_apart(runs: Path) -> None:
    for folder in (NO_UTF8, "caf\\xe9", "bundled", "bundled_"):
        shutil.copytree(runs / "first", runs / folder)
    found = Store(runs).folders()
    assert len(found) == 6
    assert found["caf\\xe9"].name == "caf\\xe9"
    assert found["bundled_"].name == "bundled_"
    assert len({path.name for path in found.values()}) == 6
    names = Store(runs).names()
    assert len(names) == len(set(names)) == 7
    assert Store(runs).path("bundled").parent != runs
    assert called([]) == {}


def test_models_and_reports_with_such_names_are_offered(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_page
) -> None:
    from hermes_lab.files import write_text

    model = tmp_path / NO_UTF8
    monkeypatch.setenv("HERMES_LAB_MODELS", str(model))
    assert model_choices()["caf\\xe9"] == str(model)
    write_text(tmp_path / "reports" / NO_UTF8 / "report.json", "{}")
    assert list(reports.folders()) == ["caf\\xe9"]
    app = sound(open_page("findings"))
    assert len(app.error) == 1  # the report is empty; the page is there
    sound(open_page("live", mode="Run a model"))


@pytest.mark.parametrize(
    ("name", "safe"),
    [("a/b:c", "a_b_c"), ("ok.name-1", "ok.name-1"), ("x\ny", "x_y"), (NO_UTF8, "caf_xe9")],
)
def test_files_are_offered_under_names_that_other_systems_take(name: str, safe: str) -> None:
    assert portable(name) == safe


def test_what_utf8_cannot_carry_is_written_out() -> None:
    assert printable(os.fsdecode(b"a\xff\xc3\xa9")) == "a\\xffé"
    assert printable("\ud800x") == "\\ud800x"
    assert printable("plain é 🎥") == "plain é 🎥"


def test_a_recording_that_cannot_be_looked_into_is_named_and_spares_the_others(
    open_page, runs: Path
) -> None:
    manifest = runs / "second" / "manifest.json"
    manifest.write_text('{"format": ')
    (runs / "file").mkdir()
    (runs / "file" / "manifest.json").mkdir()
    os.mkfifo(runs / "pipe")
    (runs / "piped").mkdir()
    os.mkfifo(runs / "piped" / "manifest.json")
    assert Store(runs).names() == ["bundled", "first"]
    app = sound(open_page("recordings", recording="first"))
    assert any("second" in w.value for w in app.warning)


# --- zip and delete ------------------------------------------------------------------------------
def test_a_zip_can_be_made_of_files_without_a_date(runs: Path, tmp_path: Path) -> None:
    for path in (runs / "first").rglob("*"):
        os.utime(path, (0, 0))
    with zipfile.ZipFile(io.BytesIO(Store(runs).zipped("first"))) as archive:
        archive.extractall(tmp_path / "out")
    assert Recording.open(tmp_path / "out" / "first").verify() == []


def test_a_zip_takes_parts_only_and_follows_no_link(open_page, runs: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("my keys")
    parts = runs / "first" / "parts"
    (parts / "notes.txt").symlink_to(secret)
    (parts / "000099-step.safetensors").symlink_to(secret)
    (parts / "diary.txt").write_text("mine")
    (runs / "first" / "extra").symlink_to(tmp_path, target_is_directory=True)
    data = Store(runs).zipped("first")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        assert "my keys" not in "".join(archive.read(n).decode("latin-1") for n in names)
        archive.extractall(tmp_path / "out")
    wanted = {
        f"first/parts/{p.name}"
        for p in parts.iterdir()
        if not p.is_symlink() and p.suffix == ".safetensors"
    }
    assert set(names) == {"first/manifest.json"} | wanted
    assert Recording.open(tmp_path / "out" / "first").verify() == []
    app = sound(open_page("recordings", recording="first"))
    assert any("leaves out 'extra' and 3 more" in w.value for w in app.warning)


def test_a_folder_of_parts_that_is_a_link_is_not_followed(runs: Path, tmp_path: Path) -> None:
    shutil.move(runs / "first" / "parts", tmp_path / "elsewhere")
    (runs / "first" / "parts").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with zipfile.ZipFile(io.BytesIO(Store(runs).zipped("first"))) as archive:
        assert archive.namelist() == ["first/manifest.json"]
    with pytest.raises(RecordingError, match="parts"):
        Store(runs).delete("first")
    assert list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("place", ["", "parts"])
def test_deleting_spares_what_is_no_part_of_a_recording(runs: Path, place: str) -> None:
    thesis = runs / "first" / place / "thesis.txt"
    thesis.write_text("years of work")
    with pytest.raises(RecordingError, match=r"thesis\.txt"):
        Store(runs).delete("first")
    assert thesis.exists()
    thesis.unlink()
    (runs / "first" / place / ".half.tmp").write_text("left by a killed process")
    Store(runs).delete("first")
    assert not (runs / "first").exists()


# --- new recordings ------------------------------------------------------------------------------
def test_two_recordings_of_one_moment_have_two_names(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "runs")
    with ThreadPoolExecutor(8) as many:
        made = list(many.map(lambda _: store.reserve("live-1"), range(24)))
    assert len(set(made)) == 24
    assert store.root / "live-1" in made
    assert all(path.is_dir() for path in made)
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="cannot be written"):
        Store(tmp_path / "file").reserve("live-1")
    with pytest.raises(RecordingError, match="cannot be written"):
        store.reserve("x" * 300)


def test_streams_started_in_one_second_are_all_recorded(
    open_page, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dashboards.live import running as live_run
    from dashboards.live.worker import StreamWorker
    from tests.app.test_app_streams import LINK, says, until

    class Stopped(live_run.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(live_run, "datetime", Stopped)
    for _ in range(2):
        app = sound(
            open_page("live", policy="fifo(budget_tokens=48)", speed="as fast as it goes", **LINK)
        )
        press(app, "Start")
        until(app, says("The stream has ended"))
        assert not app.error
        for worker in StreamWorker.running():
            worker.stop()
    made = sorted(p.name for p in runs.iterdir() if p.name.startswith("live-"))
    assert made == ["live-20260102-030405", "live-20260102-030405-2"]
    assert all(Recording.open(runs / name).manifest.status == "finished" for name in made)


def test_a_stream_that_never_begins_leaves_no_folder(open_page, runs: Path) -> None:
    from dashboards.parts import models
    from tests.app.test_app_streams import LINK, until

    app = sound(open_page("live", policy="fifo(budget_tokens=48)", **LINK))
    before = set(runs.iterdir())

    def gone(name: str):
        raise ModelError(f"There is no model {name!r}.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "shared_lab", gone)
        press(app, "Start")
        until(app, lambda a: any("no model" in e.value for e in a.error))
    until(app, lambda _: set(runs.iterdir()) == before)

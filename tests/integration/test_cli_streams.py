"""Commands as other programs run them: pipes whose reader leaves, full disks, encodings that lack letters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hermes_lab.cli import READER_LEFT, main
from hermes_lab.cli.saving import NOT_SAVED
from hermes_lab.recording import Recording

ROOT = Path(__file__).resolve().parents[2]
WORLD = "world:seed=7,frames=16"
NAME = "[bold]x[/y] :smile: \x1b[2J\udce9"


@pytest.fixture(scope="module")
def model(checkpoint: Callable[..., Path]) -> str:
    return str(checkpoint("llava_onevision"))


def command(*arguments: str, encoding: str = "utf-8", **options: Any) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(
        [sys.executable, "-m", "hermes_lab", *arguments], env=environment, **streams
    )


def finished(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate()
    return process.returncode, (out or b"").decode("latin-1"), (err or b"").decode("latin-1")


# --- encodings --------------------------------------------------------------------------------
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize("arguments", [("policies",), ("policies", "--json"), ("run", "--help")])
def test_listings_and_help_go_into_any_encoding(encoding: str, arguments: tuple[str, ...]) -> None:
    code, out, err = finished(command(*arguments, encoding=encoding))
    assert (code, err) == (0, "")
    assert out
    if "--json" in arguments:
        assert "λ" in "".join(f["doc"] for policy in json.loads(out) for f in policy["fields"])


def test_a_stream_and_its_recording_survive_an_encoding_that_lacks_the_answers_letters(
    model: str, tmp_path: Path
) -> None:
    code, out, _ = finished(
        command(
            "run", WORLD, "--model", model, "--policy", "full", "--ask", "第一个物体@4", "--ask", "é?@8",
            "--record", str(tmp_path / "第"), "--max-new-tokens", "2", encoding="cp1252",
        )
    )  # fmt: skip
    assert code == 0
    assert "[    4.0 s] ?????" in out
    assert "é?" in out
    recording = Recording.open(tmp_path / "第")
    assert recording.manifest.status == "finished"
    assert [a.question for a in recording.answers] == ["第一个物体", "é?"]


# --- readers that leave ---------------------------------------------------------------------------
def without_reader(*arguments: str) -> tuple[int, str]:
    """Status and standard error of a command whose standard output nobody reads."""
    read, write = os.pipe()
    os.close(read)
    try:
        process = command(*arguments, stdout=write)
    finally:
        os.close(write)
    code, _, err = finished(process)
    return code, err


@pytest.mark.parametrize(
    "arguments", [("policies",), ("policies", "--json"), ("--help",), ("--version",)]
)
def test_a_reader_that_leaves_is_no_error(arguments: tuple[str, ...]) -> None:
    assert without_reader(*arguments) == (READER_LEFT, "")


def test_a_recording_is_finished_though_nobody_reads_the_answers(
    model: str, tmp_path: Path
) -> None:
    arguments = ("run", WORLD, "--model", model, "--policy", "full", "--chunk-frames", "4",
                 "--ask", "what?@4", "--max-new-tokens", "2")  # fmt: skip
    code, err = without_reader(*arguments, "--record", str(tmp_path / "r"))
    assert code == READER_LEFT
    assert "Traceback" not in err
    recording = Recording.open(tmp_path / "r")
    assert (recording.manifest.status, len(recording.steps)) == ("finished", 5)
    with open("/dev/full", "wb") as full:
        code, _, err = finished(command(*arguments, "--record", str(tmp_path / "f"), stdout=full))
    assert code == 2
    assert err.endswith("Error: Standard output cannot be written: No space left on device.\n")
    assert Recording.open(tmp_path / "f").manifest.status == "finished"


def test_a_full_disk_behind_standard_output_is_one_sentence() -> None:
    for arguments in (("show", "hermes_lab/bundled/recording"), ("run", "--help")):
        with open("/dev/full", "wb") as full:
            code, _, err = finished(command(*arguments, stdout=full, cwd=ROOT))
        assert code == 2
        assert err.startswith("Error: ")
        assert "No space left on device." in err
        assert len(err.splitlines()) == 1


# --- names from outside ------------------------------------------------------------------------------
def test_a_path_is_printed_as_it_is_so_that_it_can_be_used(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        main(["run", WORLD, "--model", model, "--policy", "full", "--record", "r/[bold]x y[/z]"])
        == 0
    )
    said = capsys.readouterr().out
    assert "Recording: r/[bold]x y[/z]\n" in said
    assert "Next: hermes-lab show 'r/[bold]x y[/z]', or" in said
    assert main(["show", "r/[bold]x y["]) == 0
    assert "[bold]x y[/z]" in capsys.readouterr().out


def test_hostile_names_in_a_recording_are_only_text(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a"
    assert (
        main(
            ["run", WORLD, "--model", model, "--quiet", "--ask", NAME[:-1], "--record", str(folder)]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert said.startswith("[bold]x[/y] :smile: ␛[2J  ")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["model"]["name"] = manifest["source"]["name"] = manifest["reason"] = NAME
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for path in (folder, tmp_path):
        assert main(["show", str(path)]) == 0
        said = capsys.readouterr().out
        assert "[bold]x[/y]" in said
        assert ":smile:" in said
        assert "\x1b" not in said
        assert main(["show", str(path), "--json"]) == 0
        assert NAME in json.dumps(json.loads(capsys.readouterr().out), ensure_ascii=False).replace(
            "\\u001b", "\x1b"
        )


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", NAME],
        ["run", "C:\\v\\[/x]\\[bold]a.mp4"],
        ["run", "http://[fe80::1]/" + NAME],
        ["run", WORLD, "--model", NAME],
        ["run", WORLD, "--model", "./" + NAME],
        ["run", WORLD, "--policy", NAME],
        ["run", WORLD, "--dtype", NAME],
        ["show", NAME],
        ["policies", NAME],
        ["study", NAME],
        ["train-pocket", NAME],
        ["eval", "--suite", NAME],
        ["world", "--out", "w", "--camera", NAME],
        ["run", "--" + NAME],
    ],
)
def test_hostile_arguments_are_told_as_they_are(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("Error: ")
    assert "[bold]" in said
    assert "[/" in said
    assert "\x1b" not in said


# --- results are printed before they are saved --------------------------------------------------------
def test_eval_tries_its_file_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import hermes_lab.evaluation.worlds as worlds

    def compare(*_: Any, **__: Any) -> Any:
        raise AssertionError("the work began")

    monkeypatch.setattr(worlds, "compare", compare)
    (tmp_path / "file").touch()
    for target in (tmp_path, tmp_path / "file" / "x.json", tmp_path / ("n" * 300)):
        assert main(["eval", "--save", str(target)]) == 2
        assert main(["bench", "--save", str(target)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 2


def test_eval_prints_what_it_cannot_save(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", "--streams", "1", "--frames", "16", "--save", "/dev/full"]
    assert main([*arguments, "--json"]) == NOT_SAVED
    said = capsys.readouterr()
    assert json.loads(said.out)["results"][0]["frames"] == 16
    assert said.err == (
        "Note: /dev/full cannot be written: No space left on device. The result was printed but not saved.\n"
    )


def test_eval_saves_what_it_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "e.json"
    assert main(["eval", "--streams", "1", "--frames", "16", "--save", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(path.read_text())


def test_bench_prints_every_table_though_none_can_be_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hermes_lab.evaluation import benchmark
    from hermes_lab.evaluation.report import Report, Section

    def engine(model: str, *, mid: bool, quick: bool, tick: Any, on_table: Any) -> Report:
        report = Report("title", {"processor": "[/x]"})
        for number in range(2):
            tick(f"[/y] {number}", 1, 1)
            report.sections.append(Section(f"table {number}", ("a",), ((number,),)))
            on_table(report)
        return report

    monkeypatch.setattr(benchmark, "engine", engine)
    assert main(["bench", "--save", "/dev/full"]) == NOT_SAVED
    said = capsys.readouterr()
    assert "processor: [/x]" in said.out
    assert "│ 0 │" in said.out
    assert "│ 1 │" in said.out
    assert said.err.count("not saved") == 1
    assert main(["bench", "--save", "/dev/full", "--json"]) == NOT_SAVED
    assert len(json.loads(capsys.readouterr().out)["sections"]) == 2


def test_study_prints_its_findings_before_the_report_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from analysis import report, study
    from hermes_lab.errors import LabError

    class Result:
        findings = ()

        def validate(self) -> None: ...

    def refuse(*_: Any) -> None:
        raise LabError("The disk is full.")

    monkeypatch.setattr(study, "load_lab", lambda model: Result)
    monkeypatch.setattr(study, "StudyContext", lambda *_: None)
    monkeypatch.setattr(study, "run_study", lambda name, context: Result())
    monkeypatch.setattr(Result, "name", "m", raising=False)
    monkeypatch.setattr(study.Outcome, "findings", lambda self: "supported  the claim")
    monkeypatch.setattr(report, "build", lambda *_: None)
    monkeypatch.setattr(report, "write", refuse)
    assert main(["study", "recency", "--out", str(tmp_path / "o")]) == NOT_SAVED
    said = capsys.readouterr()
    assert said.out == "supported  the claim\n"
    assert (
        said.err
        == "Note: The disk is full. The findings were printed, but the report is not complete.\n"
    )
    monkeypatch.setattr(report, "write", lambda *_: None)
    assert main(["study", "recency", "--out", str(tmp_path / "o")]) == 0
    assert capsys.readouterr().out.endswith(f"\nReport: {tmp_path / 'o' / 'report.html'}\n")
    (tmp_path / "file").touch()
    assert main(["study", "recency", "--out", str(tmp_path / "file")]) == 2
    assert "file cannot be written: File exists." in capsys.readouterr().err


def test_training_tries_its_folder_and_tells_of_a_full_disk_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hermes_lab.training import train

    (tmp_path / "file").touch()
    assert main(["train-pocket", "--smoke", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith("Error: The folder ")

    def fails(text: str) -> Any:
        def run(*_: Any, **__: Any) -> Any:
            raise RuntimeError(text)  # as torch passes on what a process raised

        return run

    full = "Traceback ...\n  File ...\nOSError: [Errno 28] No space left on device\n"
    monkeypatch.setattr(train, "train", fails(full))
    assert main(["train-pocket", "--smoke", "--out", str(tmp_path / "t")]) == 2
    said = capsys.readouterr().err
    assert "stopped (OSError: [Errno 28] No space left on device); what was saved stays" in said
    monkeypatch.setattr(train, "train", fails("Traceback ...\nKeyError: 'a fault of ours'"))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["train-pocket", "--smoke", "--out", str(tmp_path / "t")])

"""Every path that a person can name is looked up, opened or refused in one sentence, never in a traceback."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hermes_lab import bundled, video
from hermes_lab.cli import main
from hermes_lab.cli.run import PARTIAL_INPUT
from hermes_lab.cli.show import DAMAGED
from hermes_lab.errors import LabError
from hermes_lab.recording import Recording, list_recordings

WORLD = "world:seed=7,frames=8"
LONG = "n" * 300


@pytest.fixture(scope="module")
def model(checkpoint: Callable[..., Path]) -> str:
    return str(checkpoint("llava_onevision"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`closed("name")`: from now on nothing at or under a path with that name may be touched (root could)."""

    def close(name: str) -> None:
        for method in ("stat", "open", "iterdir", "exists"):
            real = getattr(Path, method)

            def guarded(self: Path, *given: Any, _real: Any = real, **options: Any) -> Any:
                if name in self.parts:
                    raise PermissionError(13, "Permission denied", str(self))
                return _real(self, *given, **options)

            monkeypatch.setattr(Path, method, guarded)

    return close


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err.strip()
    assert said.startswith("Error: ")
    assert len(said.splitlines()) == 1
    return said


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", LONG],
        ["run", f"{LONG}.mp4"],
        ["run", f"{LONG}/x.mp4"],
        ["run", f"file:///{LONG}"],
        ["run", f"x://{LONG}"],
        ["run", "~nobody-has-this-name/x.mp4"],
        ["run", "~nobody-has-this-name"],
        ["run", "/dev/null/x.mp4"],
        ["run", WORLD, "--model", LONG],
        ["run", WORLD, "--model", f"./{LONG}"],
        ["run", WORLD, "--model", "~nobody-has-this-name/m"],
        ["run", WORLD, "--model", "/dev/null"],
        ["show", LONG],
        ["show", f"{LONG}/x"],
        ["show", "/dev/null"],
        ["show", "/dev/null/x"],
        ["world", "--out", LONG],
        ["world", "--out", "/dev/null/x"],
        ["world", "--out", "w", "--minutes", "nan"],
        ["world", "--out", "w", "--minutes", "inf"],
        ["world", "--out", "w", "--minutes", "-1"],
        ["world", "--out", "w", "--minutes", "1e12"],
        ["world", "--out", "w", "--seed", "-1"],
        ["run", "world:frames=1000000000000"],
        ["eval", "--save", LONG],
        ["bench", "--save", LONG],
        ["study", "recency", "--out", LONG],
        ["train-pocket", "--smoke", "--out", LONG],
        ["dashboard", "--port", "99999"],
        ["dashboard", "--port", "0"],
        ["dashboard", "--port", "-5"],
    ],
)
def test_impossible_names_and_numbers_are_one_sentence(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    sentence(capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "shut/x.mp4"],
        ["run", "shut"],
        ["run", "file://shut/x.mp4"],
        ["run", WORLD, "--model", "shut/m"],
        ["show", "shut/r"],
        ["eval", "--save", "shut/e.json"],
    ],
)
def test_a_folder_that_may_not_be_entered_is_named(
    arguments: list[str], closed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("shut").mkdir()
    closed("shut")
    assert main(arguments) == 2
    said = sentence(capsys)
    assert "shut" in said
    assert said.endswith("Permission denied.")


def test_a_file_whose_name_looks_like_a_user_is_a_file(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = np.zeros((4, 64, 64, 3), np.uint8)
    video.write("~clip.mp4", frames, fps=1)
    assert main(["run", "~clip.mp4", "--model", model, "--policy", "full", "--quiet"]) == 0


@pytest.mark.parametrize("prefix", ["file://", "file://localhost"])
@pytest.mark.parametrize("name", ["my%20clip.mp4", "my clip.mp4", "100%.mp4", "a%20b.mp4"])
def test_a_file_url_may_be_encoded_as_file_managers_do(prefix: str, name: str, here: Path) -> None:
    written = "my clip.mp4" if name.startswith("my") else name
    video.write(here / written, np.zeros((2, 64, 64, 3), np.uint8), fps=1)
    assert video.open(f"{prefix}{here}/{name}").name == written


# --- folders of images ----------------------------------------------------------------------------
def test_an_unreadable_image_ends_the_stream_and_is_named(
    model: str,
    closed: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("images").mkdir()
    for number in range(3):
        Image.new("RGB", (32, 32)).save(f"images/{number}.png")
    opened = Path.open

    def refuse(self: Path, *given: Any, **options: Any) -> Any:
        if self.name == "1.png":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *given, **options)

    pictured = Image.open

    def unreadable(path: Path, *given: Any) -> Any:
        if path.name == "1.png":
            raise PermissionError(13, "Permission denied", str(path))
        return pictured(path, *given)

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Image, "open", unreadable)
    arguments = ["run", "images", "--model", model, "--policy", "full", "--quiet", "--record", "r"]
    assert main(arguments) == PARTIAL_INPUT
    assert (
        "Note: images/1.png cannot be read as an image (PermissionError)."
        in capsys.readouterr().err
    )
    recording = Recording.open("r")
    assert sum(len(step.frames) for step in recording.steps) == 1


def test_image_names_that_are_no_text_are_hashed_by_their_bytes(here: Path) -> None:
    hashes: list[str | None] = []
    for folder, name in (("a", "caf\udce9.png"), ("b", "café.png"), ("c", "caf\udce8.png")):
        (here / folder).mkdir()
        Image.new("RGB", (32, 32)).save(here / folder / "x.png")
        (here / folder / "x.png").rename(here / folder / name)
        hashes.append(video.open(here / folder).sha256())
    assert None not in hashes
    assert len(set(hashes)) == 3


@pytest.mark.parametrize("source", [".", "./"])
def test_the_folder_where_one_is_can_be_streamed(source: str, model: str) -> None:
    Image.new("RGB", (32, 32)).save("x.png")
    assert main(["run", source, "--model", "pocket", "--policy", "full", "--quiet"]) == 0


# --- folders of recordings ---------------------------------------------------------------------------
def test_one_unreadable_recording_does_not_hide_the_others(
    closed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "shut"):
        shutil.copytree(bundled.recording_path(), Path("recs") / name)
    closed("shut")
    assert main(["show", "recs"]) == DAMAGED
    said = capsys.readouterr()
    assert "recs/a" in said.out
    assert "recs/shut" in said.out
    assert said.err == "Note: The recording 'recs/shut' cannot be read: Permission denied.\n"
    assert main(["show", "recs", "--json"]) == DAMAGED
    entries = {entry.folder.name: entry for entry in list_recordings("recs")}
    assert entries["a"].problem is None
    assert entries["shut"].manifest is None


def test_a_damaged_recording_in_a_list_is_told_in_a_note(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("a", "b"):
        shutil.copytree(bundled.recording_path(), Path("recs") / name)
    Path("recs/b/manifest.json").write_text("{")
    assert main(["show", "recs"]) == DAMAGED
    said = capsys.readouterr()
    assert "cannot be read" in said.out
    assert said.err.startswith("Note: ")
    assert len(said.err.splitlines()) == 1


def test_a_folder_of_recordings_that_may_not_be_read(closed: Callable[[str], None]) -> None:
    Path("recs").mkdir()
    closed("recs")
    with pytest.raises(LabError, match=r"^The folder recs cannot be read: Permission denied\.$"):
        list_recordings("recs")


# --- questions -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("question", ["what \udcff", "what \udcff@3"])
def test_a_question_that_is_no_text_is_refused_before_anything_is_streamed(
    question: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("the source was opened")

    monkeypatch.setattr(video, "open", never)
    assert main(["run", WORLD, "--ask", question]) == 2
    assert "holds something that is no character" in sentence(capsys)

"""Paths that people name, and files that are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from hermes_lab import files
from hermes_lab.errors import LabError, ModelError

TOO_LONG = "a" * 300


# --- names ------------------------------------------------------------------------------------
def test_a_name_with_a_tilde_is_a_home_only_where_nothing_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert files.named("~/clip.mp4") == tmp_path / "home" / "clip.mp4"
    Path("~clip.mp4").touch()
    Path("~gone").symlink_to("nowhere")
    for name in ("~clip.mp4", "~gone", "~nobody-has-this-name/x.mp4", "clip~.mp4"):
        assert files.named(name) == Path(name)


def test_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert files.is_folder(tmp_path)
    assert not files.is_folder(tmp_path / "file")
    for name in ("none", "file/inside", "a\0b"):
        assert files.looked_up(tmp_path / name) is None


def test_what_cannot_be_looked_up_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ModelError, match=r"aaa cannot be looked up: File name too long\.$"):
        files.looked_up(tmp_path / TOO_LONG, ModelError)
    with pytest.raises(LabError, match=r"loop cannot be looked up: Too many levels"):
        files.is_folder(tmp_path / "loop")

    def closed(path: Path, **options: Any) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", closed)
    with pytest.raises(LabError, match=r"x\.mp4 cannot be looked up: Permission denied\.$"):
        files.looked_up(tmp_path / "closed" / "x.mp4")


# --- writing --------------------------------------------------------------------------------------
def test_a_file_is_written_whole_with_the_folders_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / ("n" * 255)
    files.try_file(path)
    assert not path.exists()
    files.write_text(path, "one λ \udce9")
    files.write_text(path, "two λ \udce9")
    assert path.read_text("utf-8") == "two λ \\udce9"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("durable", [True, False])
def test_bytes_are_written_whole_and_a_failure_leaves_the_old_ones(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "data.bin"
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    files.write_whole(path, b"one", durable=durable)
    assert (path.read_bytes(), bool(synced)) == (b"one", durable)

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        files.write_whole(path, b"two", durable=durable)
    assert path.read_bytes() == b"one"
    assert list(path.parent.iterdir()) == [path]


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    files.try_file(tmp_path / "link")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_device_is_written_and_never_replaced() -> None:
    files.try_file(Path("/dev/null"))
    files.write_text(Path("/dev/null"), "text")
    files.try_file(Path("/dev/full"))
    with pytest.raises(LabError, match=r"^/dev/full cannot be written: No space left on device\.$"):
        files.write_text(Path("/dev/full"), "text")
    for name in ("/dev/null", "/dev/full"):
        assert stat.S_ISCHR(Path(name).stat().st_mode)


@pytest.mark.parametrize("name", ["file/x", TOO_LONG, "folder", f"{TOO_LONG}/x"])
def test_what_cannot_be_written_is_known_before_and_said_in_a_sentence(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    for act in (files.try_file, lambda path: files.write_text(path, "text")):
        with pytest.raises(LabError, match=r"(cannot be (written|looked up): .*|is a folder.*)\.$"):
            act(tmp_path / name)
    assert (tmp_path / "file").read_text() == "kept"
    assert {p.name for p in tmp_path.iterdir()} == {"file", "folder"}


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    opened = Path.open

    def full(self: Path, *arguments: Any, **options: Any) -> Any:
        opened(self, *arguments, **options).close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr(
        Path, "write_text", lambda self, text, **options: self.open("w").write(text)
    )
    for act in (lambda: files.write_text(path, "new"), lambda: files.try_file(path)):
        with pytest.raises(LabError, match=r"result\.json cannot be written: No space left"):
            act()
    with pytest.raises(LabError, match=r"^The folder .* cannot be written: No space left"):
        files.try_folder(tmp_path)
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_trying_a_folder_makes_it_and_leaves_nothing_in_it(tmp_path: Path) -> None:
    files.try_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match=r"^The folder .*file cannot be written: File exists"):
        files.try_folder(tmp_path / "file")


# --- files of others ------------------------------------------------------------------------------
def test_a_file_of_others_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes('\ufeff{"a": [1, "λ"]}'.encode())
    assert files.read_json(path, at_most=100) == {"a": [1, "λ"]}
    (tmp_path / "link").symlink_to(path)
    assert files.read_text(tmp_path / "link", at_most=100).startswith("{")


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "nowhere").symlink_to("nothing")
    (tmp_path / "file").touch()
    told = {
        "pipe": "it is a pipe", "link": "it is a device", ".": "it is a folder", "none": "There is no file",
        "nowhere": "There is no file", "file/x": "There is no file", "a\0b": "There is no file",
        TOO_LONG: "cannot be read: File name too long",
    }  # fmt: skip
    for name, sentence in told.items():
        with pytest.raises(ModelError, match=sentence):
            files.read_bytes(tmp_path / name, at_most=10, error=ModelError)


def test_links_are_refused_where_nobody_needs_them(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "link").symlink_to("secret")
    with pytest.raises(LabError, match=r"link is a link, which is not followed here"):
        files.read_json(tmp_path / "link", at_most=100, links=False)
    assert files.read_json(tmp_path / "secret", at_most=100, links=False) == {}


def test_a_flood_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "flood.json"
    with path.open("wb") as file:
        file.truncate(10**13)  # takes no room on the disk
    with pytest.raises(LabError, match=r"is larger than the 1\.0 MiB that such a file may have"):
        files.read_json(path, at_most=2**20)
    path.write_bytes(b"12345")
    with pytest.raises(LabError, match="is larger than the 4 B"):
        files.read_bytes(path, at_most=4)
    with pytest.raises(LabError, match="is larger than the 100 B"):  # whose size says 0
        files.read_bytes(Path("/proc/self/environ"), at_most=100)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 65 + "]" * 65])
def test_depth_is_bounded(text: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="nested more than 64 levels deep"):
        files.parse_json(text, "it")
    assert files.parse_json("[" * 64 + "]" * 64, "it")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"9" * 5000, b'{"a": 1} x'])
def test_damaged_text_is_a_sentence(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(LabError, match=r"a\.json is not (valid JSON|text in UTF-8)") as refused:
        files.read_json(tmp_path / "a.json", at_most=10_000)
    assert "\n" not in str(refused.value)


# --- writing whole --------------------------------------------------------------------------------
def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result"
    files.write_whole(path, b"old")

    def fail() -> None:
        with files.replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]

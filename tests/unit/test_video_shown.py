"""What a source is called: no secret is shown, and every name can be written down."""

from __future__ import annotations

import errno
import os
import socket
import sys
import traceback
from pathlib import Path

import pytest
from PIL import Image

from hermes_lab import video
from hermes_lab.errors import VideoError
from hermes_lab.video.shown import shown, without_password
from tests.clips import constant_rate, number_of, numbered


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://cam:80/x", "http://cam:80/x"),
        ("http://[::1]/x@y", "http://[::1]/x@y"),
        ("https://host/@user/clip", "https://host/@user/clip"),
        ("rtsp://me:pw@cam/1@2", "rtsp://***@cam/1@2"),
        ("rtsp://me@cam/1", "rtsp://***@cam/1"),
        ("rtsp://me:p/w@cam:554/1", "rtsp://***@cam:554/1"),
        ("rtsp://me:p@w@cam/1", "rtsp://***@cam/1"),
        ("rtsp://me:p?w#x@cam/1", "rtsp://***@cam/1"),
        ("rtsp://me:12/34@cam/1", "rtsp://***@cam/1"),
        ("http://cam/x?token=abc&fps=3", "http://cam/x?token=***&fps=***"),
        ("http://cam:80/x?mail=a@b&token=abc", "http://cam:80/x?mail=***&token=***"),
        ("http://cam/x?abc", "http://cam/x?***"),
        ("http://cam/x?fps=3&abc#def", "http://cam/x?fps=***&***#***"),
        ("http://cam/x;session=abc/y", "http://cam/x;***/y"),
        ("http://cam/key=abc/y", "http://cam/key=***/y"),
    ],
)
def test_secrets_are_masked(url: str, expected: str) -> None:
    assert without_password(url) == expected


def refused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("url", ["rtsp://me:hush/dot@{}/x", "http://me:hush@{}/x?token=dot"])
def test_no_secret_in_a_refusal_or_its_traceback(url: str) -> None:
    with pytest.raises(VideoError) as caught:
        video.open(url.format(f"127.0.0.1:{refused_port()}"), timeout_s=2)
    whole = "".join(traceback.format_exception(caught.value))
    assert "hush" not in whole and "dot" not in whole


def test_an_address_with_one_slash_is_not_shown() -> None:
    with pytest.raises(
        VideoError, match="needs two slashes after its scheme: write rtsp://"
    ) as caught:
        video.open("rtsp:/me:secret@cam/1")
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_names_that_are_no_text_can_be_written_down(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    assert shown(odd) == "caf\ufffd"
    clip = constant_rate(tmp_path / "a.mp4", 3, 1)
    clip = clip.rename(tmp_path / f"{odd}.mp4")
    source = video.open(clip)
    assert source.name == "caf\ufffd.mp4" and len(list(source)) == 3
    folder = tmp_path / odd
    folder.mkdir()
    Image.fromarray(numbered(5)).save(folder / f"{odd}.png")
    pictures = video.open(folder)
    assert pictures.name == "caf\ufffd" and pictures.sha256() is not None
    (folder / f"{odd}.png").write_bytes(b"broken")
    with pytest.raises(VideoError) as caught:
        list(pictures)
    str(caught.value).encode()
    with pytest.raises(VideoError) as caught:
        video.open(tmp_path / f"{odd}.mkv")
    str(caught.value).encode()


def test_paths_as_people_and_file_managers_write_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = constant_rate(tmp_path / "my clip.mp4", 3, 1)
    for source in (
        f"file://{tmp_path}/my%20clip.mp4",
        f"file://{clip}",
        f"file://localhost{tmp_path}/my%20clip.mp4",
    ):
        assert [number_of(frame.image) for frame in video.open(source)] == [0, 1, 2]
    monkeypatch.chdir(tmp_path)
    clip.rename(tmp_path / "~clip.mp4")
    assert video.open("~clip.mp4").name == "~clip.mp4"
    (tmp_path / "100%20.mp4").write_bytes((tmp_path / "~clip.mp4").read_bytes())
    assert video.open(f"file://{tmp_path}/100%20.mp4").name == "100%20.mp4"


@pytest.mark.parametrize(
    "source", ["a" * 300, "b" * 300 + ".mp4", "~nobody-here/x.mp4", "a\0b.mp4", "x/" * 3000]
)
def test_paths_that_cannot_be_are_refused(source: str) -> None:
    with pytest.raises(VideoError, match=r"(cannot be read|There is no file)") as caught:
        video.open(source)
    assert len(str(caught.value)) < 6500


def denied(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize("call", ["is_dir", "iterdir", "stat"])
def test_what_may_not_be_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    Image.fromarray(numbered(5)).save(tmp_path / "a.png")
    if call == "stat":  # a folder that may be listed and not entered
        monkeypatch.setattr(Path, "is_file", denied)
    else:
        monkeypatch.setattr(Path, call, denied)
    with pytest.raises(VideoError, match=r"cannot be read: Permission denied\."):
        video.open(tmp_path)


def test_an_image_that_may_not_be_read_does_not_spoil_the_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(numbered(5)).save(tmp_path / "a.png")
    source = video.open(tmp_path)
    readable = source.sha256()
    monkeypatch.setattr(Path, "open", denied)
    assert source.sha256() not in (None, readable)
    clip = constant_rate(tmp_path / "a.mp4", 3, 1)
    with pytest.raises(VideoError, match=r"a.mp4 cannot be read: Permission denied\."):
        video.open(clip).sha256()

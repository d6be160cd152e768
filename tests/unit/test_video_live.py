"""Live sources, with a simulated camera and with streams over HTTP on this machine."""

from __future__ import annotations

import errno
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import av
import av.error
import numpy as np
import pytest
from PIL import Image

from hermes_lab import video
from hermes_lab.errors import VideoError
from hermes_lab.video.live import LiveSource
from hermes_lab.video.source import Limits, ReadOptions
from tests.clips import HEIGHT, WIDTH, constant_rate, number_of, numbered

Step = Callable[[], None]
"""Something the camera does between two frames: raise, or wait."""


class Packet:
    def __init__(self, number: int, pts: int | None, rate: int, faulty: bool = False) -> None:
        self.number, self.pts, self.rate, self.faulty = number, pts, rate, faulty
        self.time_base, self.is_corrupt = Fraction(1, rate), False

    def decode(self) -> list[av.VideoFrame]:
        if self.faulty:
            raise av.error.InvalidDataError(errno.EINVAL, "Invalid data found")
        frame = av.VideoFrame.from_ndarray(numbered(self.number % 256), format="rgb24")
        if self.pts is not None:
            frame.pts, frame.time_base = self.pts, self.time_base
        return [frame]


class Camera:
    """As much of a PyAV container as a live source touches; it delivers what it is told to."""

    def __init__(self, script: list[Packet | Step], *, video_streams: int = 1) -> None:
        self.script = script
        self.closed = threading.Event()
        self.format = SimpleNamespace(name="v4l2")
        stream = SimpleNamespace(
            type="video",
            disposition=av.stream.Disposition(0),
            codec_context=SimpleNamespace(options={}),
            width=WIDTH,
            height=HEIGHT,
            sample_aspect_ratio=None,
        )
        self.streams = Streams([stream] * video_streams)

    def demux(self, stream: object) -> Iterator[Packet]:
        assert stream in self.streams
        for step in self.script:
            if isinstance(step, Packet):
                yield step
            else:
                step()

    def close(self) -> None:
        self.closed.set()


class Streams(list[SimpleNamespace]):
    @property
    def video(self) -> list[SimpleNamespace]:
        return list(self)

    def best(self, kind: str) -> SimpleNamespace:
        assert kind == "video"
        return self[0]


def packets(count: int, rate: int = 30, first_tick: int = 10**9) -> list[Packet | Step]:
    return [Packet(n, first_tick + n, rate) for n in range(count)]


def gone() -> None:
    raise av.error.OSError(errno.ENODEV, "No such device")


def live(
    camera: Camera, *, fps: float | None = 1.0, timeout_s: float = 5.0, **settings: object
) -> LiveSource:
    buffer_frames = settings.pop("buffer_frames", 1000)
    return LiveSource(
        lambda: camera,  # type: ignore[arg-type, return-value]
        ReadOptions(fps, **settings),  # type: ignore[arg-type]
        name="camera 0",
        kind="camera",
        timeout_s=timeout_s,
        buffer_frames=buffer_frames,  # type: ignore[arg-type]
    )


def test_a_camera_is_sampled_by_its_own_clock() -> None:
    camera = Camera(packets(100))
    with live(camera) as source:
        assert source.is_live and source.duration_s is None and source.estimated_frames is None
        assert source.sha256() is None
        frames = list(source)
    assert [number_of(f.image) for f in frames] == [0, 30, 60, 90]
    assert [f.time_s for f in frames] == pytest.approx([0.0, 1.0, 2.0, 3.0])
    assert [f.index for f in frames] == [0, 1, 2, 3]
    assert camera.closed.wait(5)


def test_a_camera_that_goes_away_leaves_its_frames() -> None:
    camera = Camera([*packets(70), gone])
    source = live(camera)
    chunks = list(source.chunks(2))
    assert [[number_of(f.image) for f in chunk] for chunk in chunks] == [[0, 30], [60]]
    assert source.damage == "camera 0 stopped after 2.00 s: No such device."
    assert camera.closed.wait(5)


def test_a_camera_that_ends_says_so() -> None:
    source = live(Camera(packets(10)), fps=None)
    assert len(list(source)) == 10
    assert source.damage == "camera 0 stopped after 0.30 s: the input ended."


def test_a_camera_that_falls_silent_is_given_up() -> None:
    woken = threading.Event()
    camera = Camera([*packets(31), lambda: woken.wait(30) and None])
    source = live(camera, timeout_s=0.2)
    assert [number_of(f.image) for f in source] == [0, 30]
    assert source.damage == "camera 0 stopped after 1.00 s: no frame came for 0.2 s."
    woken.set()
    assert camera.closed.wait(5)


def test_a_camera_without_a_single_frame_is_an_error() -> None:
    for script in ([], [gone]):
        with pytest.raises(VideoError, match=r"camera 0 stopped after 0.00 s: .*\."):
            list(live(Camera(script)))  # type: ignore[arg-type]


def test_faulty_packets_are_passed_over() -> None:
    script = packets(6)
    script[2:2] = [Packet(99, None, 30, faulty=True), Packet(99, None, 30, faulty=True)]
    source = live(Camera(script), fps=None)
    assert [number_of(f.image) for f in source] == list(range(6))


def test_frames_without_timestamps_take_their_arrival() -> None:
    pause = threading.Event()
    script: list[Packet | Step] = []
    for n in range(4):
        script += [Packet(n, None, 30), lambda: pause.wait(0.03) and None]
    times = [frame.time_s for frame in live(Camera(script), fps=None)]
    assert times[0] == 0.0 and len(times) == 4
    assert all(later - earlier >= 0.02 for earlier, later in pairwise(times))


def test_stamps_that_stand_still_give_way_to_arrival_and_a_note_says_so() -> None:
    pause = threading.Event()
    script: list[Packet | Step] = []
    for n in range(4):
        script += [Packet(n, 7, 30), lambda: pause.wait(0.03) and None]
    source = live(Camera(script), fps=None)
    assert source.notes == ()
    times = [frame.time_s for frame in source]
    assert all(later - earlier >= 0.02 for earlier, later in pairwise(times))
    (note,) = source.notes
    assert note.startswith("The times of camera 0 are missing or cannot be true at 3 of its frames")
    good = live(Camera(packets(5)), fps=None)
    assert len(list(good)) == 5 and good.notes == ()


def test_a_slow_reader_gets_the_newest_frames() -> None:
    camera = Camera(packets(50))
    source = live(camera, fps=None, buffer_frames=4)
    frames = iter(source)
    seen = [number_of(next(frames).image)]
    assert camera.closed.wait(5)
    seen += [number_of(frame.image) for frame in frames]
    assert seen[-4:] == [46, 47, 48, 49]
    assert seen == sorted(seen)
    assert len(seen) + source.dropped_frames == 50


def test_a_live_source_is_read_once_and_closed_in_between() -> None:
    released = threading.Event()
    script: list[Packet | Step] = [*packets(5), lambda: released.wait(30) and None, *packets(5)]
    camera = Camera(script)
    source = live(camera, fps=None, max_frames=3)
    assert len(list(source)) == 3
    with pytest.raises(VideoError, match="camera 0 is live and was read already"):
        list(source)
    released.set()
    assert camera.closed.wait(5)
    unread = Camera(packets(5))
    with live(unread):
        pass
    assert unread.closed.is_set()


def test_closing_from_another_thread_ends_the_wait() -> None:
    released = threading.Event()
    camera = Camera([*packets(1), lambda: released.wait(30) and None])
    source = live(camera, timeout_s=30)
    frames = iter(source)
    next(frames)
    rest: list[video.Frame] = []
    reader = threading.Thread(target=lambda: rest.extend(frames))
    reader.start()
    closer = threading.Timer(0.1, source.close)
    closer.start()
    reader.join(10)
    assert not reader.is_alive() and rest == []
    released.set()
    closer.join(10)
    assert camera.closed.wait(5)


def test_a_fault_of_our_own_is_not_swallowed() -> None:
    def broken() -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(live(Camera([*packets(3), broken])))


def test_a_device_without_pictures_is_refused_and_released() -> None:
    camera = Camera([], video_streams=0)
    with pytest.raises(VideoError, match=r"camera 0 has no video stream \(it holds nothing\)"):
        live(camera)
    assert camera.closed.is_set()
    large = Camera(packets(3))
    with pytest.raises(VideoError, match="frames of 128 x 32"):
        live(large, limits=Limits(max_pixels=100))
    assert large.closed.is_set()


@contextmanager
def served(pages: dict[str, bytes], *, with_length: bool = True) -> Iterator[str]:
    """Serve bytes by path; without a length the client cannot know where a page ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages.get(self.path)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            if with_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):
                return

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_recorded_clip_over_http_is_read_like_a_file(tmp_path: Path) -> None:
    clip = constant_rate(tmp_path / "a.mp4", 40, 10, muxing={"movflags": "faststart"})
    with served({"/a.mp4": clip.read_bytes()}) as root:
        source = video.open(f"{root}/a.mp4", fps=2)
        assert (source.kind, source.is_live, source.sha256()) == ("url", False, None)
        assert source.duration_s == pytest.approx(4.0)
        for _ in range(2):
            assert [number_of(f.image) for f in source] == list(range(0, 40, 5))
        assert source.damage is None


def test_a_stream_without_an_end_is_live(tmp_path: Path) -> None:
    clip = constant_rate(tmp_path / "a.ts", 40, 10)
    with (
        served({"/live": clip.read_bytes()}, with_length=False) as root,
        video.open(f"{root}/live", fps=2) as source,
    ):
        assert (source.kind, source.is_live) == ("url", True)
        assert [number_of(f.image) for f in source] == list(range(0, 40, 5))
        assert source.damage is not None and "stopped after 3.50 s" in source.damage


def jpeg(number: int) -> bytes:
    picture = io.BytesIO()
    Image.fromarray(numbered(number)).save(picture, "JPEG")
    return picture.getvalue()


@contextmanager
def webcam(pictures: int, per_s: float) -> Iterator[str]:
    """A camera that sends JPEGs over HTTP as browsers show them, bar codes 0, 1, 2, ..."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
            self.end_headers()
            for number in range(pictures):
                body = jpeg(number)
                head = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
                self.wfile.write(head.encode() + body + b"\r\n")
                time.sleep(1 / per_s)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/video.mjpg"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_camera_without_a_clock_is_timed_by_arrival() -> None:
    with webcam(20, per_s=5) as url:
        source = video.open(url, fps=None)
        frames = list(source)
    assert [number_of(frame.image) for frame in frames] == list(range(20))
    # It sends for 3.8 s; FFmpeg would count 25 pictures a second, that is 0.76 s.
    assert frames[-1].time_s > 1.6
    (note,) = source.notes
    assert note.endswith("carries no times of its own: its frames are timed by their arrival.")


def test_a_file_in_a_format_without_times_plays_at_its_usual_rate(tmp_path: Path) -> None:
    clip = constant_rate(tmp_path / "a.h264", 50, 25)
    with served({"/a.h264": clip.read_bytes()}) as root:
        source = video.open(f"{root}/a.h264", fps=None)
        times = [frame.time_s for frame in source]
    assert times == pytest.approx([n / 25 for n in range(50)])
    assert not source.is_live
    assert source.notes[0].endswith("no times of its own: 25 frames per second are assumed.")


def test_a_cut_connection_leaves_its_frames(tmp_path: Path) -> None:
    clip = constant_rate(tmp_path / "a.mp4", 200, 10, muxing={"movflags": "faststart"})
    data = clip.read_bytes()
    with served({"/a.mp4": data[: len(data) * 3 // 4]}, with_length=False) as root:
        source = video.open(f"{root}/a.mp4", fps=1)
        taken = [number_of(frame.image) for frame in source]
        assert taken == list(range(0, 200, 10))[: len(taken)] and len(taken) > 3
        assert source.damage is not None


def test_urls_that_lead_nowhere(tmp_path: Path) -> None:
    with served({"/page": b"<html>no video</html>" * 50}) as root:
        with pytest.raises(VideoError, match=r"nothing cannot be opened: .*404 Not Found"):
            video.open(f"{root}/nothing")
        with pytest.raises(VideoError, match=r"page cannot be opened: Invalid data"):
            video.open(f"{root}/page")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(VideoError, match="cannot be opened: Connection refused"):
        video.open(f"http://127.0.0.1:{port}/x")


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_server_that_never_answers_times_out(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"{scheme}://user:secret@127.0.0.1:{mute.getsockname()[1]}/x"
        with pytest.raises(VideoError, match=r"no answer within 0.3 s") as caught:
            video.open(url, timeout_s=0.3)
    assert "secret" not in str(caught.value)


def test_a_server_that_cannot_seek_is_named_as_the_reason(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 128, 256, 3), dtype=np.uint8)
    clip = constant_rate(tmp_path / "a.mp4", 20, 10, pictures=list(noise), options={"crf": "10"})
    data = clip.read_bytes()
    assert data.index(b"moov") > data.index(b"mdat") and len(data) > 500_000
    with (
        served({"/a.mp4": data}) as root,
        pytest.raises(VideoError, match=r"index is at its end and the server cannot seek \(.*\)"),
    ):
        video.open(f"{root}/a.mp4")


def test_a_remote_playlist_cannot_read_this_disk(tmp_path: Path) -> None:
    secret = constant_rate(tmp_path / "secret.ts", 20, 10)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    pages = {"/list.m3u8": playlist.encode()}
    with served(pages) as root, pytest.raises(VideoError):
        list(video.open(f"{root}/list.m3u8", timeout_s=2))

"""What a stream keeps in memory is bounded in bytes, however large and however many its frames are."""

from __future__ import annotations

import time
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dashboards.live.pictures import HIGH_PX, WIDE_PX, Pictures
from dashboards.live.stream_view import UNPACED, StreamSettings, StreamView
from dashboards.live.worker import StreamWorker
from dashboards.parts.limits import LARGEST_CHUNK_BYTES, bounded_chunks, check_chunk
from hermes_lab import video
from hermes_lab.errors import VideoError
from hermes_lab.video import Frame
from tests.clips import write_clip

PATIENCE_S = 240.0
FULL_HD = (1080, 1920, 3)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two minutes of 1920 x 1080 at a frame a second, in few bytes: what a phone's upload unpacks to."""
    pictures = [np.full(FULL_HD, 2 * n, np.uint8) for n in range(120)]
    for n, picture in enumerate(pictures):
        picture[:, 16 * n : 16 * n + 200] = 255
    return write_clip(
        tmp_path_factory.mktemp("film") / "film.mp4", range(120), Fraction(1, 1), rate=1, pictures=pictures,
        options={"preset": "ultrafast"},
    )  # fmt: skip


def ended(worker: StreamWorker) -> StreamView:
    until = time.monotonic() + PATIENCE_S
    while (view := worker.latest()).status not in ("finished", "failed"):
        assert time.monotonic() < until, view
        time.sleep(0.05)
    return view


def settings(source: Path, chunk_frames: int) -> StreamSettings:
    return StreamSettings(
        source=str(source), label="film", model="tiny", policy={"policy": "fifo", "budget_tokens": 48},
        chunk_frames=chunk_frames, speed=UNPACED,
    )  # fmt: skip


def test_a_long_film_in_full_hd_leaves_small_pictures_only(film: Path, lab) -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        worker = StreamWorker(settings(film, 4), lambda _: lab)
        view = ended(worker)
        after, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert view.error is None
    assert view.frames_arrived == 120
    one = int(np.prod(FULL_HD))
    assert after - before < 2 * one  # 120 of them are 746 MB
    assert most - before < 20 * one  # those on their way, and what the decoder and the model hold
    first, last = worker.picture(0), worker.picture(119)
    assert first is not None
    assert last is not None
    assert first.shape == last.shape == (HIGH_PX, 327, 3)
    assert abs(int(last[0, 0, 0]) - 238) < 6
    worker.stop()


def test_pictures_are_bounded_in_bytes_and_the_oldest_go_first() -> None:
    rng = np.random.default_rng(0)
    kept = Pictures(limit_bytes=200_000)
    for frame in range(40):
        kept.add(frame, rng.integers(0, 256, (400, 600, 3), np.uint8))
        assert kept.size_bytes <= 200_000
    held = [frame for frame in range(40) if kept.get(frame) is not None]
    assert held == list(range(held[0], 40))
    assert 1 < len(held) < 40
    assert kept.size_bytes == sum(map(len, kept._jpegs.values()))


def test_the_newest_picture_stays_however_small_the_bound_is() -> None:
    kept = Pictures(limit_bytes=1)
    for frame in range(3):
        kept.add(frame, np.full((50, 50, 3), 9, np.uint8))
    assert kept.get(1) is None
    assert kept.get(2) is not None


@pytest.mark.parametrize("shape", [(48, 64, 3), (4000, 20, 3), (20, 8000, 3), (1, 1, 3)])
def test_no_picture_is_larger_than_what_pages_draw(shape: tuple[int, int, int]) -> None:
    kept = Pictures()
    kept.add(0, np.full(shape, 120, np.uint8))
    picture = kept.get(0)
    assert picture is not None
    assert picture.shape[0] <= HIGH_PX
    assert picture.shape[1] <= WIDE_PX
    if shape == (48, 64, 3):
        assert picture.shape == shape
        assert abs(int(picture.mean()) - 120) <= 1


def test_a_chunk_that_does_not_fit_in_memory_is_refused_at_its_first_frame(film: Path, lab) -> None:
    worker = StreamWorker(settings(film, 256), lambda _: lab)
    view = ended(worker)
    assert view.status == "failed"
    assert view.error is not None
    assert "256 frames of 1920 x 1080 pixels at once" in view.error
    assert "choose at most 172 frames per chunk" in view.error
    assert view.frames_arrived == 0
    with video.open(film) as source, pytest.raises(VideoError, match="at most 172"):
        next(iter(bounded_chunks(source, 173)))
    image = np.broadcast_to(np.zeros(3, np.uint8), FULL_HD)
    check_chunk(Frame(image, 0, 0.0), LARGEST_CHUNK_BYTES // image.nbytes)


def test_bounded_chunks_are_the_chunks_of_the_source(film: Path) -> None:
    with video.open("world:seed=3,frames=10") as source:
        plain = [[f.index for f in chunk] for chunk in source.chunks(4)]
        assert [[f.index for f in chunk] for chunk in bounded_chunks(source, 4)] == plain

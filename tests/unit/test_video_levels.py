"""Pictures with more than 8 bits or with transparent parts, from folders, from Python and in videos."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from hermes_lab import video
from hermes_lab.video.folder import image_suffixes

RAMP = np.linspace(0, 1, 48 * 64).reshape(48, 64)


def grey(source: video.FrameSource) -> list[np.ndarray]:
    images = [frame.image for frame in source]
    assert all((image == image[..., :1]).all() for image in images)
    return [image[..., 0] for image in images]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((RAMP * 65535).astype(np.uint16), "a.png"),
        ((RAMP * 65535).astype(np.uint16), "a.tif"),
        ((RAMP * 65535).astype(np.uint16), "a.pgm"),
        ((RAMP * 4095).astype(np.uint16), "a.png"),
        ((RAMP * 65535).astype(np.int32), "a.tif"),
        ((RAMP * 2_000_000_000).astype(np.int32), "a.tif"),
        ((RAMP * 2000 - 1000).astype(np.int32), "a.tif"),
        (RAMP.astype(np.float32), "a.tif"),
        ((RAMP * 255).astype(np.float32), "a.tif"),
        ((20 + RAMP * 15).astype(np.float32), "a.tif"),
        ((29_000 + RAMP * 2000).astype(np.uint16), "a.png"),
        ((RAMP * 1e-6).astype(np.float32), "a.tif"),
        ((RAMP * -3.0).astype(np.float32)[::-1, ::-1], "a.tif"),
    ],
)
def test_a_deep_ramp_keeps_its_shades(tmp_path: Path, values: np.ndarray, name: str) -> None:
    Image.fromarray(values).save(tmp_path / name)
    source = video.open(tmp_path)
    (image,) = grey(source)
    assert len(np.unique(image)) > 200
    assert (np.diff(image.astype(int), axis=1) >= 0).all()
    assert image[0, 0] == 0 and image[-1, -1] >= 237
    assert source.damage is None
    (note,) = source.notes
    assert note.startswith(f"The pictures of {tmp_path.name} have more than 8 bits: ")
    (python,) = grey(video.from_arrays([Image.fromarray(values)]))
    assert np.array_equal(python, image)


def test_sixteen_bits_are_those_of_eight_where_they_can_be(tmp_path: Path) -> None:
    eight = np.random.default_rng(0).integers(40, 200, (20, 30)).astype(np.uint8)
    Image.fromarray(eight.astype(np.uint16) * 257).save(tmp_path / "a.png")
    Image.fromarray(eight).save(tmp_path / "b.png")
    deep, plain = grey(video.open(tmp_path))
    assert np.array_equal(deep, plain)
    assert np.array_equal(eight, plain)


@pytest.mark.parametrize("as_folder", [True, False])
def test_one_scale_serves_the_whole_source(tmp_path: Path, as_folder: bool) -> None:
    shades = [np.full((4, 6), value, np.uint16) for value in (0, 1000, 4000, 2000)]
    for n, shade in enumerate(shades):
        Image.fromarray(shade).save(tmp_path / f"{n}.png")
    images = [Image.fromarray(shade) for shade in shades]
    source = video.open(tmp_path) if as_folder else video.from_arrays(images)
    assert [int(image[0, 0]) for image in grey(source)] == [0, 62, 249, 125]
    assert source.notes[0].endswith("0 to 4095 became 0 to 255.")
    assert [int(image[0, 0]) for image in grey(source)] == [0, 62, 249, 125]


def test_pictures_that_come_one_by_one_are_scaled_by_the_first_that_has_shades() -> None:
    def coming() -> Iterator[Image.Image]:
        for value in (0, 0, 3000, 4095, 9000):
            yield Image.fromarray(np.full((2, 2), value, np.uint16))

    assert [int(image[0, 0]) for image in grey(video.from_arrays(coming()))] == [
        0,
        0,
        187,
        255,
        255,
    ]


def test_values_that_are_no_numbers_are_black_or_white(tmp_path: Path) -> None:
    values = RAMP.astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    Image.fromarray(values).save(tmp_path / "a.tif")
    Image.fromarray(np.full((48, 64), np.nan, np.float32)).save(tmp_path / "b.tif")
    first, second = grey(video.open(tmp_path))
    assert first[0, :3].tolist() == [0, 255, 0] and len(np.unique(first)) > 200
    assert (second == 0).all()


def test_deep_pictures_are_written_with_their_shades(tmp_path: Path) -> None:
    image = Image.fromarray((RAMP * 65535).astype(np.uint16))
    clip = video.write(tmp_path / "a.mp4", [image], 1, crf=1)
    (shown,) = [frame.image for frame in video.open(clip)]
    assert abs(shown.astype(int)[..., 1] - np.rint(RAMP * 255)).mean() < 3


def test_ordinary_pictures_need_no_note(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    source = video.open(tmp_path)
    assert len(list(source)) == 1 and source.notes == ()


HIDDEN = np.zeros((8, 8, 4), np.uint8)
HIDDEN[...] = (255, 0, 0, 0)
HIDDEN[:, 4:, 3] = 255
HIDDEN[:, 2:4, 3] = 128
SEEN = np.zeros((8, 8, 3), np.uint8)
SEEN[:, :2], SEEN[:, 2:4], SEEN[:, 4:] = 255, (255, 127, 127), (255, 0, 0)


def test_transparent_parts_are_laid_on_white(tmp_path: Path) -> None:
    Image.fromarray(HIDDEN).save(tmp_path / "a.png")
    Image.fromarray(HIDDEN[..., [0, 3]]).save(tmp_path / "b.png")
    palette = Image.fromarray(np.array([[0, 1]] * 2, np.uint8), mode="P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.save(tmp_path / "c.png", transparency=0)
    images = [frame.image for frame in video.open(tmp_path)]
    assert np.array_equal(images[0], SEEN)
    assert (images[1] == 255).all()
    assert images[2][0, 0].tolist() == [255, 255, 255] and images[2][-1, -1].tolist() == [0, 0, 255]
    assert np.array_equal(next(iter(video.open([Image.fromarray(HIDDEN)]))).image, SEEN)


@pytest.mark.parametrize("codec", ["png", "qtrle"])
def test_transparent_parts_of_videos_are_laid_on_white(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "clip.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=5)
        stream.width, stream.height = 8, 8
        stream.pix_fmt = "rgba" if codec == "png" else "argb"
        frame = av.VideoFrame.from_ndarray(HIDDEN, format="rgba").reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = 0, Fraction(1, 5)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert np.array_equal(next(iter(video.open(path))).image, SEEN)
    assert next(iter(video.open(path, max_side_px=4))).image.shape == (4, 4, 3)


def test_images_of_every_suffix_that_pillow_reads(tmp_path: Path) -> None:
    assert {".png", ".jpg", ".jfif", ".tiff", ".pgm"} <= image_suffixes()
    picture = Image.fromarray(np.full((16, 16, 3), 90, np.uint8))
    picture.save(tmp_path / "a.jfif", "JPEG")
    wanted = 1
    if ".avif" in image_suffixes():
        picture.save(tmp_path / "b.AVIF", "AVIF")
        wanted += 1
    images = [frame.image for frame in video.open(tmp_path)]
    assert len(images) == wanted
    assert all(abs(image.astype(int) - 90).max() < 4 for image in images)

"""A folder of images as a stream."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image, ImageOps

from hermes_lab.errors import VideoError
from hermes_lab.video.arrays import SpacedSource
from hermes_lab.video.levels import Levels, is_deep, spread
from hermes_lab.video.picture import Picture
from hermes_lab.video.shown import shown
from hermes_lab.video.source import ReadOptions

_SUFFIXES = (
    ".png .apng .jpg .jpeg .jpe .jfif .jp2 .webp .avif .heic .heif .bmp .tif .tiff .gif .ppm .pgm .pnm "
    ".tga"
)


def image_suffixes() -> frozenset[str]:
    """The endings that count as images: those of pictures that Pillow reads here (AVIF depends on how
    it was built, HEIC on a plugin)."""
    known = Image.registered_extensions()
    return frozenset(s for s in _SUFFIXES.split() if known.get(s) in Image.OPEN)


class FolderSource(SpacedSource):
    """The images of one folder in natural order (frame2 before frame10), `1 / fps` seconds apart.

    Hidden files, subfolders and other kinds of files are passed over; the orientation that a camera
    noted (EXIF) is applied; of an animated image the first picture counts. At an image that cannot
    be read the stream ends, and `damage` names it.
    """

    def __init__(self, path: Path, options: ReadOptions) -> None:
        suffixes = image_suffixes()
        try:
            images = [
                entry
                for entry in path.iterdir()
                if entry.suffix.lower() in suffixes
                and not entry.name.startswith(".")
                and entry.is_file()
            ]
            size_bytes = sum(image.stat().st_size for image in images)
        except OSError as error:
            raise VideoError(
                f"The folder {shown(path)} cannot be read: {error.strerror}."
            ) from error
        if not images:
            raise VideoError(
                f"The folder {shown(path)} holds no images: put .bmp, .gif, .jpg, .png, .tiff or .webp files "
                "in it, or name a video file."
            )
        self._levels = Levels()
        self._images = sorted(images, key=lambda image: natural_key(image.name))
        name = shown(path.name or path)
        options.limits.check_bytes(name, size_bytes)
        super().__init__(options, name=name, kind="folder", available_frames=len(images))

    def sha256(self) -> str | None:
        """SHA-256 over the images' names and contents in stream order, as hex digits; of an image that
        cannot be read the name counts."""
        whole = hashlib.sha256()
        for image in self._images:
            digest = "unreadable"
            with suppress(OSError), image.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            whole.update(os.fsencode(image.name) + f"\n{digest}\n".encode())
        return whole.hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """How pictures with more than 8 bits were scaled, if there were any."""
        note = self._levels.note(self.name)
        return () if note is None else (note,)

    def _numbered_from(self, first: int) -> Iterator[Picture]:
        self._levels, learnt = Levels(), False
        for path in self._images[first:]:
            try:
                image = self._decoded(path)
                if is_deep(image) and not learnt:
                    learnt = True
                    self._levels.learn(self._readable(spread(self._images[first:])))
                picture = self._levels.rgb(image)
            except VideoError:
                raise
            except Exception as error:  # Pillow's formats raise all kinds on a broken file.
                self.damage = f"{shown(path)} cannot be read as an image ({type(error).__name__})."
                return
            yield picture

    def _decoded(self, path: Path) -> Image.Image:
        """An image upright, with its pixels read.

        Raises:
            VideoError: it has more pixels than the limit.
        """
        with Image.open(path) as image:
            self.options.limits.check_pixels(shown(path.name), image.width, image.height)
            return ImageOps.exif_transpose(image)

    def _readable(self, paths: Sequence[Path]) -> Iterator[Image.Image]:
        for path in paths:
            with suppress(Exception):
                yield self._decoded(path)


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key under which runs of digits compare as numbers; equal keys fall back to the name."""
    parts = re.findall(r"\d+|\D+", name.casefold())
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts], name

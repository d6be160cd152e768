"""One part of a recording: written whole, read lazily."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hermes_lab.brief import Brief, bytes_text
from hermes_lab.errors import LabError
from hermes_lab.files import check_file, parse_json, replacing
from hermes_lab.recording.checks import wrong_in_part
from hermes_lab.recording.format import parse_part_name

Array = npt.NDArray[Any]
MOST_PART_BYTES = 2**32
"""Of a part that is read; half of it is written at most."""


class DamagedPartError(Exception):
    """A part cannot be read; the recording turns this into a sentence that says what remains."""


def write_whole(path: Path, data: bytes, *, durable: bool = True) -> None:
    """As `hermes_lab.files.write_whole`, into a folder that is there and may hold a hundred thousand parts.

    Raises:
        OSError: the disk is full or refuses; nothing is left behind.
    """
    with replacing(path, durable=durable, tidy=False) as temporary:
        temporary.write_bytes(data)


def pack(record: Mapping[str, Any], tensors: Mapping[str, Array]) -> bytes:
    """The bytes of a part: arrays as safetensors, `record` as JSON in the header, and a checksum of both.

    Raises:
        TypeError, ValueError: `record` cannot be written as JSON, or the part would be larger than any that is read.
    """
    text = json.dumps(record, separators=(",", ":"))
    dense = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    if sum(array.nbytes for array in dense.values()) + len(text) > MOST_PART_BYTES // 2:
        raise ValueError(f"a part of more than {bytes_text(MOST_PART_BYTES // 2)}")
    return save(dense, {"record": text, "crc32": str(_checksum(text, dense))})


def _checksum(text: str, tensors: Mapping[str, Array]) -> int:
    """Of the record and of arrays that are contiguous, in the order of their names."""
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].data, zlib.crc32(name.encode(), value))
    return value


@dataclass(frozen=True, repr=False)
class Part(Brief):
    """A part on disk: its JSON record at once, its arrays when asked for."""

    path: Path
    record: Mapping[str, Any]
    names: frozenset[str]

    @classmethod
    def open(cls, path: Path) -> Part:
        """Read the header; safetensors checks that the file has the length that the header claims.

        Raises:
            DamagedPartError: the header cannot be read, is of another kind than the name says, or the file is too
                short.
        """
        try:
            check_file(path, at_most=MOST_PART_BYTES, links=False)
            with safe_open(path, framework="np") as file:
                text = (file.metadata() or {})["record"]
                names = frozenset(file.keys())
            part = cls(path, parse_json(text, "its record"), names)
        except LabError as error:
            raise DamagedPartError(str(error).rstrip(".")) from error
        except _UNREADABLE as error:
            raise DamagedPartError(f"{type(error).__name__}: {error}") from error
        _, kind = parse_part_name(path.name) or (0, "")
        wrong = wrong_in_part(kind, part.record) if kind else None
        if wrong is not None:
            raise DamagedPartError(f"its {wrong!r} is not that of a part of kind {kind}")
        return part

    def read(self, *names: str) -> list[Array]:
        """The arrays of these names; an absent one is empty.

        Raises:
            DamagedPartError: the file went away or changed.
        """
        if not any(name in self.names for name in names):
            return [_EMPTY] * len(names)
        try:
            with safe_open(self.path, framework="np") as file:
                return [file.get_tensor(n) if n in self.names else _EMPTY for n in names]
        except _UNREADABLE as error:
            raise DamagedPartError(f"{type(error).__name__}: {error}") from error

    @cached_property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size

    def sound(self) -> bool:
        """Whether record and arrays still have the checksum they were written with.

        Raises:
            DamagedPartError: the file cannot be read.
        """
        try:
            with safe_open(self.path, framework="np") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in self.names}
        except _UNREADABLE as error:
            raise DamagedPartError(f"{type(error).__name__}: {error}") from error
        return metadata.get("crc32") == str(_checksum(metadata.get("record", ""), tensors))


# safetensors and numpy raise what they like on bytes that make no sense
_UNREADABLE = (
    SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, MemoryError,
    RecursionError,
)  # fmt: skip
_EMPTY: Array = np.empty(0, np.int32)
_EMPTY.flags.writeable = False

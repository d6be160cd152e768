"""One part of a recording: written whole, read lazily."""

from __future__ import annotations

import json
import os
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

from hermes_lab.brief import Brief
from hermes_lab.recording.format import TEMPORARY_SUFFIX

Array = npt.NDArray[Any]


class DamagedPartError(Exception):
    """A part cannot be read; the recording turns this into a sentence that says what remains."""


def write_whole(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file so that it is there complete or not at all, whatever happens to the process.

    Args:
        durable: wait until the disk has it, so that this also holds when the power fails.

    Raises:
        OSError: the disk is full or refuses; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def pack(record: Mapping[str, Any], tensors: Mapping[str, Array]) -> bytes:
    """The bytes of a part: arrays as safetensors, `record` as JSON in the header, and a checksum of both.

    Raises:
        TypeError, ValueError: `record` cannot be written as JSON.
    """
    text = json.dumps(record, separators=(",", ":"))
    dense = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
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
            DamagedPartError: the header cannot be read or the file is too short.
        """
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                return cls(path, json.loads(metadata["record"]), frozenset(file.keys()))
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise DamagedPartError(f"{type(error).__name__}: {error}") from error

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
        except (SafetensorError, OSError) as error:
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
        except (SafetensorError, OSError) as error:
            raise DamagedPartError(f"{type(error).__name__}: {error}") from error
        return metadata.get("crc32") == str(_checksum(metadata.get("record", ""), tensors))


_EMPTY: Array = np.empty(0, np.int32)
_EMPTY.flags.writeable = False

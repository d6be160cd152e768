"""Results per stream on disk, so that a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from analysis.arrays import Arrays
from analysis.codec import to_plain
from hermes_lab.errors import LabError
from hermes_lab.files import check_file, why, write_whole

_LARGEST = 2**32  # bytes of a file of results


@dataclass(frozen=True)
class Store:
    """Named sets of arrays under one folder; each file appears whole or not at all."""

    folder: Path

    def get(self, key: tuple[str, ...], make: Callable[[], Mapping[str, npt.ArrayLike]]) -> Arrays:
        """The arrays stored under `key`, made and stored first where they are missing or damaged.

        Raises:
            LabError: they cannot be written.
        """
        path = self.path(key)
        found = self.read(path)
        if found is None:
            found = {name: np.asarray(value) for name, value in make().items()}
            self._write(path, found)
        return found

    @staticmethod
    def _write(path: Path, found: Arrays) -> None:
        try:
            write_whole(path, packed(found))
        except OSError as error:
            raise LabError(
                f"The results of a study cannot be kept in {path.parent}: {why(error)}; what was kept before is "
                "used again when the study is run again."
            ) from error

    def has(self, key: tuple[str, ...]) -> bool:
        """Whether something is stored under `key`."""
        return self.path(key).exists()

    def path(self, key: tuple[str, ...]) -> Path:
        """The file of a key."""
        return self.folder.joinpath(*key).with_suffix(".npz")

    @staticmethod
    def read(path: Path) -> Arrays | None:
        """The arrays of a file; None where it is missing or not readable."""
        try:
            check_file(path, at_most=_LARGEST)
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (
            LabError,
            OSError,
            ValueError,
            EOFError,
            RuntimeError,
            MemoryError,
            zipfile.BadZipFile,
            zlib.error,
        ):
            return None  # whatever a damaged archive says; that nothing can be written either is told then


def packed(arrays: Arrays) -> bytes:
    """The bytes of an `.npz` file.

    Unlike `numpy.savez`, whose own arguments are called "file" and "allow_pickle", it takes arrays of any name.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(values), allow_pickle=False)
    return out.getvalue()


def fingerprint(*parts: Any) -> str:
    """A short hash of plain values and dataclasses."""
    text = json.dumps([to_plain(p) for p in parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@torch.no_grad()
def weights_fingerprint(model: nn.Module) -> str:
    """A short hash of a model's shapes and of a sample of its weights, [up to 256 per tensor]."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().flatten()
        step = max(1, flat.numel() // 256)
        sample = flat[::step].to("cpu", torch.float32).contiguous().numpy()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(sample.tobytes())
    return digest.hexdigest()[:12]

"""Where a checkpoint lies: a folder here or an id on a hub, and its small files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from transformers.utils.hub import cached_file, cached_files

from hermes_lab.errors import ModelError
from hermes_lab.files import check_file, parse_json, read_bytes

MOST_BYTES = 2**26
"""Of a settings file or a vocabulary; the largest known vocabulary (262,144 words) has 33 MB."""


def first_line(error: BaseException) -> str:
    """The first line of somebody else's message, as the end of a sentence."""
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:500].rstrip(" .:") + "."


@dataclass(frozen=True)
class Source:
    """A checkpoint's place.

    Attributes:
        name: a folder, or a hub id.
        hub: revision and `local_files_only`, as transformers takes them.
    """

    name: str
    hub: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __str__(self) -> str:
        return self.name

    @property
    def is_folder(self) -> bool:
        return Path(self.name).is_dir()

    def find(self, file: str) -> Path | None:
        """A file of the checkpoint, fetched if need be; None where there is none."""
        found = cached_file(
            self.name,
            file,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **self.hub,
        )
        return None if found is None else Path(found)

    def find_all(self, files: Sequence[str]) -> list[Path]:
        """Files that must be there.

        Raises:
            ModelError: one of them is not.
        """
        if self.is_folder:
            paths = [Path(self.name) / file for file in files]
        else:
            found = cached_files(
                self.name, list(files), _raise_exceptions_for_missing_entries=False, **self.hub
            )
            paths = [Path(path) for path in found or []]
        present = {path.name for path in paths if path.exists()}
        if missing := [file for file in files if file not in present]:
            raise ModelError(
                f"The checkpoint {self} lacks its file {missing[0]}; it is incomplete."
            )
        return paths

    def json(self, file: str) -> dict[str, Any]:
        """The object in a JSON file, empty where there is no such file.

        Raises:
            ModelError: the file is damaged, too large, or holds something else.
        """
        path = self.find(file)
        if path is None:
            return {}
        data = read_bytes(path, at_most=MOST_BYTES, error=ModelError)
        value = parse_json(data, f"The file {file} of {self}", ModelError)
        if not isinstance(value, dict):
            raise ModelError(f"The file {file} of {self} holds no settings by name; it is damaged.")
        return cast("dict[str, Any]", value)


def check_folder(folder: Path) -> None:
    """Look at the files of a checkpoint folder before anything opens them.

    Raises:
        ModelError: a pipe or a device is among them, or a settings file that is too large.
    """
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            weights = path.suffix == ".safetensors"
            known = weights or path.suffix in (".json", ".jinja", ".txt", ".model")
            check_file(
                path, at_most=MOST_BYTES if known and not weights else 2**62, error=ModelError
            )

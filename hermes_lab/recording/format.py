"""The layout of a recording folder and the manifest that describes it.

    runs/first/
        manifest.json                     who recorded what, and how (`Manifest`)
        parts/000000-step.safetensors     one feed step: see `steps`
        parts/000000-frames.safetensors   small pictures of that step's frames; may be deleted
        parts/000001-answer.safetensors   one answered question: see `answers`

Steps and answers share one running number, so that their order is the order of what happened and a missing
part shows. Every part is written whole under a temporary name and renamed into place. What is not an array
travels as JSON in the header's metadata; JSON is what Python writes, NaN included. Ids fit int32.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, cast, get_args

from hermes_lab.brief import Brief
from hermes_lab.errors import RecordingError, nearest
from hermes_lab.files import parse_json
from hermes_lab.recording.checks import (
    Check,
    anything,
    count,
    every,
    first_wrong,
    integer,
    named,
    number,
    optional,
    shaped,
    text,
)

FORMAT = "hermes-lab-recording"
FORMAT_VERSION = 2  # 1 is read, by what `first_format` knows of it
MANIFEST = "manifest.json"
PARTS = "parts"
TEMPORARY_SUFFIX = ".tmp"

Level = Literal["off", "summary", "rows"]
Status = Literal["open", "finished", "aborted"]
PartKind = Literal["step", "answer", "frames"]

_PART_NAME = re.compile(r"(\d{6,})-(step|answer|frames)\.safetensors")


def part_name(number: int, kind: PartKind) -> str:
    """File name of one part."""
    return f"{number:06d}-{kind}.safetensors"


def parse_part_name(name: str) -> tuple[int, PartKind] | None:
    """Number and kind of a part's file name; None for temporary files and anything else."""
    match = _PART_NAME.fullmatch(name)
    return None if match is None else (int(match[1]), cast(PartKind, match[2]))


def check_level(level: str) -> Level:
    """Return `level` if it is one of off, summary and rows.

    Raises:
        RecordingError: it is none of them.
    """
    if level not in get_args(Level):
        raise RecordingError(
            f"Unknown recording level {level!r}; {nearest(level, get_args(Level))}"
        )
    return cast(Level, level)


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that shape the numbers of a run."""
    versions: dict[str, str] = {}
    for name in ("hermes-lab", "torch", "transformers", "transformer-lens", "numpy", "safetensors"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def now_utc() -> str:
    """The current time as ISO 8601 with seconds, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class ModelInfo:
    """What a reader must know of the model that streamed.

    Attributes:
        name, family, revision: hub id or folder, adapter family, commit or weights hash.
        layers, query_heads, kv_heads, head_dim: sizes of the decoder.
        tokens_per_frame: visual tokens of one frame.
        grid: their (rows, columns).
    """

    name: str
    family: str
    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    tokens_per_frame: int
    grid: tuple[int, int]
    revision: str | None = None


@dataclass(frozen=True)
class SourceInfo:
    """Where the frames came from; `sha256` of the file where the source is one."""

    name: str
    kind: str
    sha256: str | None = None


@dataclass(frozen=True)
class Owner:
    """The process that is writing a recording; `token` is one that no other has."""

    pid: int
    host: str
    token: str


@dataclass(frozen=True, repr=False)
class Manifest(Brief):
    """Everything about a recording that holds for all of its steps.

    Attributes:
        policy: `Policy.config()`.
        positions: position rule (keep, lazy, eager, contiguous).
        chunk_frames, fps: how the source was sampled; `fps` None where every frame was taken.
        prefix_tokens: cached tokens before the first frame.
        level: how much was recorded.
        created, finished: ISO 8601, UTC; `finished` None while the recording is open.
        status, reason: "open" also stays behind when a process is killed (see `Recording.status`); `reason` says
            why one was aborted.
        owner: who is writing it; None once it is closed.
    """

    model: ModelInfo
    policy: Mapping[str, Any]
    positions: str
    source: SourceInfo
    chunk_frames: int
    fps: float | None
    dtype: str
    device: str
    seed: int
    prefix_tokens: int
    level: str = "summary"
    libraries: Mapping[str, str] = field(default_factory=library_versions)
    created: str = field(default_factory=now_utc)
    finished: str | None = None
    status: Status = "open"
    reason: str | None = None
    owner: Owner | None = None
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """The text of `manifest.json`.

        Raises:
            RecordingError: the policy's fields cannot be written as JSON.
        """
        try:
            return json.dumps({"format": FORMAT} | asdict(self), indent=2) + "\n"
        except (TypeError, ValueError) as error:
            raise RecordingError(
                f"The manifest cannot be written as JSON ({error}); "
                "policy fields must be numbers, strings, lists or None."
            ) from error

    @classmethod
    def from_json(cls, written: str, folder: Path) -> Manifest:
        """Read `manifest.json`; keys that this version does not know are left out.

        Raises:
            RecordingError: not a recording, written by a newer version, or damaged.
        """
        raw = parse_json(written, f"{MANIFEST} of {str(folder)!r}", RecordingError)
        if not isinstance(raw, dict) or cast(dict[str, Any], raw).get("format") != FORMAT:
            raise RecordingError(
                f"{str(folder)!r} is not a recording: its {MANIFEST} was not written by HERMES Lab."
            )
        values = cast(dict[str, Any], raw)
        version: Any = values.get("format_version")
        if not integer(version) or version > FORMAT_VERSION:
            raise RecordingError(
                f"{str(folder)!r} has recording format {version}, this version reads up to "
                f"{FORMAT_VERSION}; upgrade hermes-lab."
            )
        wrong = first_wrong(values, {}, _MANIFEST)
        if wrong is not None:
            raise RecordingError(
                f"{MANIFEST} of {str(folder)!r} is damaged: its {wrong!r} is not what it should be; "
                "restore it from a copy."
            )
        try:
            values["model"] = ModelInfo(**_known(ModelInfo, values["model"]))
            values["source"] = SourceInfo(**_known(SourceInfo, values["source"]))
            if values.get("owner") is not None:
                values["owner"] = Owner(**_known(Owner, values["owner"]))
            manifest = cls(**_known(cls, values))
        except (KeyError, TypeError) as error:
            raise RecordingError(
                f"{MANIFEST} of {str(folder)!r} is incomplete ({error}); restore it from a copy."
            ) from error
        return manifest


def _known(
    kind: type[ModelInfo | SourceInfo | Owner | Manifest], values: Mapping[str, Any]
) -> dict[str, Any]:
    """The entries of `values` that are fields of a dataclass, a grid as the tuple it was."""
    names = {entry.name for entry in fields(kind)}
    chosen = {name: value for name, value in values.items() if name in names}
    if "grid" in chosen:
        chosen["grid"] = tuple(chosen["grid"])
    return chosen


_MODEL = {
    "name": text, "family": text, "layers": count, "query_heads": count, "kv_heads": count,
    "head_dim": count, "tokens_per_frame": count, "grid": every(count, 2), "revision": optional(text),
}  # fmt: skip
_MANIFEST: dict[str, Check] = {
    "model": shaped({}, _MODEL),
    "policy": named(anything),
    "positions": text,
    "source": shaped({}, {"name": text, "kind": text, "sha256": optional(text)}),
    "chunk_frames": integer,
    "fps": optional(number),
    "dtype": text,
    "device": text,
    "seed": lambda value: type(value) is int,
    "prefix_tokens": count,
    "level": text,
    "libraries": named(text),
    "created": text,
    "finished": optional(text),
    "status": lambda value: value in get_args(Status),
    "reason": optional(text),
    "owner": optional(shaped({"pid": integer, "host": text, "token": text})),
}

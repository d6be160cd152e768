"""What the pictures of docs/policies.md show, in numbers and in the words that stand for them.

`scripts/policy_pictures.py` measures and draws; the numbers lie beside the pictures as `kept.json`, from which the
catalogue takes its captions and alternative texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes_lab.errors import LabError

EDGE_FRAMES = 16  # how many frames count as the newest, and as the oldest
NUMBERS = "kept.json"
LEGEND = "legend.png"

# Policies whose picture would be another's, and what to look at instead.
UNPICTURED = {
    "with_summary": "keeps what the policy inside it keeps, but for one token that it makes of the evicted ones",
    "with_positions": "keeps what the policy inside it keeps, at other positions",
    "kvpress": "keeps what the kvpress scorer inside it ranks highest",
}


@dataclass(frozen=True)
class Band:
    """What neighbouring layers hold, as means over the layers and their KV heads.

    Attributes:
        name: "shallow", "middle" or "deep".
        tokens: tokens of frames that a layer holds.
        frames: frames of which a layer holds at least one token.
        newest, oldest: share of these tokens that are of the last, and of the first, `EDGE_FRAMES` frames.
        made: tokens that the policy made out of evicted ones.
    """

    name: str
    tokens: float
    frames: float
    newest: float
    oldest: float
    made: float = 0.0


@dataclass(frozen=True)
class Pictured:
    """One picture in numbers.

    Attributes:
        run: the policy as it was asked for.
        frames, tokens: of the whole stream, before any gate.
        enters: share of these tokens that enter the decoder; None where no gate stands before it.
        fresh_frames: last frames that a question prefills again.
        cache: what the layers hold on the device at the end of the stream.
        read: what a question then reads; None where it reads just that.
    """

    run: str
    frames: int
    tokens: int
    enters: float | None
    fresh_frames: int
    cache: tuple[Band, ...]
    read: tuple[Band, ...] | None

    def words(self) -> str:
        """The picture for those who do not see it."""
        parts = [f"Layers from top to bottom, {self.frames} frames from left to right."]
        if self.enters is not None:
            parts.append(f"{_percent(self.enters)} of the tokens enter the decoder.")
        parts.append(_said("The cache holds", self.cache))
        if self.fresh_frames:
            many = f"{self.fresh_frames} frames" if self.fresh_frames > 1 else "frame"
            parts.append(f"A question prefills the last {many} again.")
        if self.read is not None:
            parts.append(_said("A question reads", self.read))
        return " ".join(parts)


def measured(
    name: str,
    held: Sequence[npt.NDArray[np.integer[Any]]],
    frame: npt.NDArray[np.integer[Any]],
    frames: int,
    made: float = 0.0,
) -> Band:
    """Numbers of a band.

    Args:
        held: ids of the frames' tokens that each of its layers holds, [head, token].
        frame: frame of every id, [id].
        frames: frames of the stream.
        made: tokens that a layer holds beside these.
    """
    owners = [frame[ids] for ids in held]
    every = np.concatenate([owner.ravel() for owner in owners])
    count = max(len(every), 1)
    return Band(
        name=name,
        tokens=float(np.mean([owner.shape[1] for owner in owners])),
        frames=float(np.mean([len(np.unique(row)) for owner in owners for row in owner])),
        newest=float(np.sum(every >= frames - EDGE_FRAMES)) / count,
        oldest=float(np.sum(every < EDGE_FRAMES)) / count,
        made=made,
    )


def save(folder: Path, pictured: Mapping[str, Pictured]) -> None:
    """Write the numbers beside the pictures."""
    told = {name: _rounded(asdict(pictured[name])) for name in sorted(pictured)}
    text = json.dumps(told, indent=1)
    (folder / NUMBERS).write_text(text + "\n", encoding="utf-8")


def load(folder: Path) -> dict[str, Pictured]:
    """The numbers of all pictures in a folder; empty where there are none.

    Raises:
        LabError: the file is damaged.
    """
    path = folder / NUMBERS
    if not path.exists():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {name: _pictured(values) for name, values in told.items()}
    except (ValueError, TypeError, KeyError) as error:
        raise LabError(
            f"{path} cannot be read; make it again with `python scripts/policy_pictures.py`."
        ) from error


def _pictured(values: dict[str, Any]) -> Pictured:
    cache = tuple(Band(**band) for band in values.pop("cache"))
    read = values.pop("read")
    bands = None if read is None else tuple(Band(**band) for band in read)
    return Pictured(**values, cache=cache, read=bands)


def _rounded(value: Any) -> Any:
    """Numbers to three places, so that files differ only where pictures do."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _many(number: float, word: str) -> str:
    return f"{number:.0f} {word}" + ("s" if round(number) != 1 else "")


def _said(start: str, bands: Sequence[Band]) -> str:
    """One sentence for all bands, those that agree named together."""
    said: dict[str, list[str]] = {}
    for band in bands:
        made = f" and {band.made:.0f} made of evicted ones" if band.made >= 0.5 else ""
        text = (
            f"{_many(band.tokens, 'token')} of {_many(band.frames, 'frame')}{made}, {_percent(band.newest)} from the last "
            f"{EDGE_FRAMES} frames and {_percent(band.oldest)} from the first {EDGE_FRAMES}"
        )
        said.setdefault(text, []).append(band.name)
    clauses = [
        f"in {'all' if len(names) == len(bands) else ' and '.join(names)} layers {text}"
        for text, names in said.items()
    ]
    return f"{start} {'; '.join(clauses)}."

"""What moves on the Live page, as one message to one component: a tick sends this and nothing else."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dashboards.live.arriving import OnTheWay
from dashboards.live.filmstrip import FILM_FRAMES, Film
from dashboards.live.moment import Scene
from dashboards.live.pictures import Picture, to_jpeg
from dashboards.parts.canvas import ON_ITS_WAY, packed, strip_head
from hermes_lab.figures import Strip, make_strip

if TYPE_CHECKING:
    from dashboards.live.stream_view import View

UNBOUNDED = 2**31 - 1  # as in `hermes_lab.policies.base`, whose import takes torch
KEPT_PICTURES = 64


@dataclass
class Thumbnails:
    """Small JPEGs of one stream's frames, each made once.

    Attributes:
        stream: what stream they are of; the browser forgets those of another one.
    """

    stream: str
    picture: Callable[[int], Picture | None]
    _made: dict[int, bytes] = field(default_factory=dict)

    def __call__(self, frame: int) -> bytes | None:
        """The frame as JPEG; None where there is no picture of it."""
        if frame not in self._made:
            picture = self.picture(frame)
            if picture is None:
                return None
            if len(self._made) >= KEPT_PICTURES:
                self._made.pop(next(iter(self._made)))
            self._made[frame] = to_jpeg(picture, 85)
        return self._made[frame]


@dataclass(frozen=True)
class Moment:
    """What the stage shows.

    Attributes:
        scene: None before the first decision; layers: of the model, for the empty strip until then.
        film: frames that were decided on, with what survives of them; newest: whether they are the newest ones.
        chosen: layer and column of the strip's chosen cell.
        answering: text so far of an answer that is being written.
    """

    scene: Scene | None
    way: OnTheWay
    numbers: dict[str, str]
    film: Film | None = None
    newest: bool = False
    chosen: tuple[int, int] | None = None
    answering: str | None = None
    layers: int = 1


def payload(moment: Moment, thumbnails: Thumbnails) -> bytes:
    """The moment as `canvas.draw_stage` takes it: the strip's codes, shares of the film's patches, JPEGs."""
    scene, way, film = moment.scene, moment.way, moment.film
    strip = scene.strip if scene is not None else _empty(moment.layers)
    body = io.BytesIO()
    body.write(strip.codes().tobytes())
    tiles: list[dict[str, Any]] = []
    coming = list(zip(way.frames, way.times_s, strict=True))
    if film is not None:
        room = FILM_FRAMES - len(coming) if moment.newest else FILM_FRAMES
        for n in range(max(0, len(film.frames) - max(room, 0)), len(film.frames)):
            share = np.ceil(255 * film.shares[n]).astype(np.uint8).tobytes()
            tiles.append(
                {"frame": film.frames[n], "caption": film.captions[n], "name": film.names[n], "share": body.tell()}
            )  # fmt: skip
            body.write(share)
    for frame, time_s in coming[-FILM_FRAMES:] if moment.newest else coming[-1:]:
        name = f"frame {frame} at {time_s:.1f} s: {ON_ITS_WAY}"
        tiles.append({"frame": frame, "caption": f"{time_s:.0f} s", "name": name, "share": None})
    newest = way.frames[-1] if way.frames else scene.frame if scene is not None else None
    pictures: list[tuple[int, int, int]] = []
    for frame in sorted({t["frame"] for t in tiles} | ({newest} if newest is not None else set())):
        if (jpeg := thumbnails(frame)) is not None:
            pictures.append((frame, body.tell(), body.tell() + len(jpeg)))
            body.write(jpeg)
    drawn = {frame for frame, *_ in pictures}
    seq = -1 if scene is None else scene.seq
    head = strip_head(strip, seq=seq, chosen=moment.chosen) | {
        "stream": thumbnails.stream,
        "way": way.head(scene),
        "numbers": list(moment.numbers.items()),
        "now": None if newest is None else {"frame": newest, "caption": _caption(newest, way, drawn)},
        "grid": (1, 1) if scene is None else scene.grid,
        "tiles": [t for t in tiles if t["frame"] in drawn],
        "film_alt": "" if film is None else film.alt,
        "pictures": pictures,
        "answering": moment.answering,
    }  # fmt: skip
    return packed(head, body.getvalue())


def numbers(scene: Scene, view: View | None) -> dict[str, str]:
    """Budget, bytes and times."""
    snapshot = scene.snapshot
    held = [ids.shape[1] for ids in snapshot.held]
    budgets = snapshot.budget_tokens
    if budgets is not None and max(budgets) >= UNBOUNDED:
        budgets = None  # the policy's limit is in frames or seconds
    asked = scene.answers[-1].ttft_s if scene.answers else math.nan
    t = snapshot.timings
    busy = t.encode_s + t.prefill_s + t.probe_s + t.decide_s
    rate = (
        view.frames_per_s if view is not None else len(snapshot.frames) / busy if busy else math.nan
    )
    return {
        "Stream": f"{snapshot.time_s:.0f} s, {snapshot.frames_seen} frames",
        "Held by a layer": span(held) + ("" if budgets is None else f" of {span(budgets)}"),
        "KV cache": mebibytes(snapshot.cache_bytes),
        "Evicted now": f"{sum(int((~d.kept).sum() // len(d.kept)) for d in snapshot.decisions):,}",
        "TTFT, last answer": "-" if math.isnan(asked) else f"{1000 * asked:.0f} ms",
        "Model speed": "-" if math.isnan(rate) else f"{rate:.0f} frames/s",
    }


def span(values: Iterable[int]) -> str:
    """The smallest and the largest of some numbers."""
    low, high = min(found := list(values), default=0), max(found, default=0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def mebibytes(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 / 10 else f"{count / 1024:.0f} KiB"


def _caption(frame: int, way: OnTheWay, drawn: set[int]) -> str:
    words = f"frame {frame}"
    if way.frames:
        words += f", {len(way.frames)} of {way.slots} of the next chunk"
    return words if frame in drawn else f"{words}: no picture was recorded"


def _empty(layers: int) -> Strip:
    nothing: Sequence[int] = ()
    return make_strip(
        np.empty((max(layers, 1), 0), np.int8), np.array(nothing, int), np.array(nothing, float)
    )

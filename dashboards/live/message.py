"""What moves on the Live page, as one message to one component: a tick sends this and nothing else.

`dashboards.parts.protocol` describes the message; `browser/live.js` draws it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dashboards.live.arriving import ArrivingFrames
from dashboards.live.filmstrip import FILMSTRIP_FRAMES, HEIGHT_PX, Filmstrip
from dashboards.live.moment import Moment
from dashboards.live.pictures import Picture, to_jpeg
from dashboards.parts.canvas import ON_ITS_WAY, strip_head
from dashboards.parts.protocol import LiveHead, Tile, packed
from hermes_lab.brief import bytes_text, span_text
from hermes_lab.figures import Strip, make_strip
from hermes_lab.snapshot import UNBOUNDED

if TYPE_CHECKING:
    from dashboards.live.stream_view import StreamView

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
class Message:
    """What the live view shows.

    Attributes:
        moment: None before the first decision; layers: of the model, for the empty strip until then.
        filmstrip: frames that were decided on, with what survives of them; newest: whether they are the newest ones.
        chosen: layer and column of the strip's chosen cell.
        answering: text so far of an answer that is being written.
    """

    moment: Moment | None
    arriving: ArrivingFrames
    numbers: dict[str, str]
    filmstrip: Filmstrip | None = None
    newest: bool = False
    chosen: tuple[int, int] | None = None
    answering: str | None = None
    layers: int = 1


def payload(message: Message, thumbnails: Thumbnails) -> bytes:
    """The moment as `canvas.draw_live_view` takes it: the strip's codes, shares of the filmstrip's patches, JPEGs."""
    moment, arriving, filmstrip = message.moment, message.arriving, message.filmstrip
    strip = moment.strip if moment is not None else _empty(message.layers)
    body = io.BytesIO()
    body.write(strip.codes().tobytes())
    tiles: list[Tile] = []
    coming = list(zip(arriving.frames, arriving.times_s, strict=True))
    if filmstrip is not None:
        room = FILMSTRIP_FRAMES - len(coming) if message.newest else FILMSTRIP_FRAMES
        for n in range(max(0, len(filmstrip.frames) - max(room, 0)), len(filmstrip.frames)):
            share = np.ceil(255 * filmstrip.shares[n]).astype(np.uint8).tobytes()
            tiles.append(
                {"frame": filmstrip.frames[n], "caption": filmstrip.captions[n], "name": filmstrip.names[n], "share": body.tell()}
            )  # fmt: skip
            body.write(share)
    for frame, time_s in coming[-FILMSTRIP_FRAMES:] if message.newest else coming[-1:]:
        name = f"frame {frame} at {time_s:.1f} s: {ON_ITS_WAY}"
        tiles.append({"frame": frame, "caption": f"{time_s:.0f} s", "name": name, "share": None})
    newest = (
        arriving.frames[-1] if arriving.frames else moment.frame if moment is not None else None
    )
    pictures: list[tuple[int, int, int]] = []
    for frame in sorted({t["frame"] for t in tiles} | ({newest} if newest is not None else set())):
        if (jpeg := thumbnails(frame)) is not None:
            pictures.append((frame, body.tell(), body.tell() + len(jpeg)))
            body.write(jpeg)
    drawn = {frame for frame, *_ in pictures}
    seq = -1 if moment is None else moment.seq
    head: LiveHead = {
        **strip_head(strip, seq=seq, chosen=message.chosen),
        "stream": thumbnails.stream,
        "arriving": arriving.head(moment),
        "numbers": list(message.numbers.items()),
        "now": None if newest is None else {"frame": newest, "caption": _caption(newest, arriving, drawn)},
        "grid": (1, 1) if moment is None else moment.grid,
        "tiles": [t for t in tiles if t["frame"] in drawn],
        "tile_px": HEIGHT_PX,
        "filmstrip_alt": "" if filmstrip is None else filmstrip.alt,
        "pictures": pictures,
        "answering": message.answering,
    }  # fmt: skip
    return packed(head, body.getvalue())


def numbers(moment: Moment, view: StreamView | None) -> dict[str, str]:
    """Budget, bytes and times."""
    snapshot = moment.snapshot
    held = [ids.shape[1] for ids in snapshot.held]
    budgets = [b for b in snapshot.budget_tokens or () if b < UNBOUNDED]
    asked = moment.answers[-1].ttft_s if moment.answers else math.nan
    t = snapshot.timings
    busy = t.encode_s + t.prefill_s + t.probe_s + t.decide_s
    rate = (
        view.frames_per_s if view is not None else len(snapshot.frames) / busy if busy else math.nan
    )
    return {
        "Stream": f"{snapshot.time_s:.0f} s, {snapshot.frames_seen} frames",
        "Held per layer": span_text(held) + (f" of {span_text(budgets)}" if budgets else ""),
        "KV cache": bytes_text(snapshot.cache_bytes),
        "Evicted now": f"{sum(int((~d.kept).sum() // len(d.kept)) for d in snapshot.decisions):,}",
        "TTFT, last answer": "-" if math.isnan(asked) else f"{1000 * asked:.0f} ms",
        "Model speed": "-" if math.isnan(rate) else f"{rate:.0f} frames/s",
    }


def _caption(frame: int, arriving: ArrivingFrames, drawn: set[int]) -> str:
    words = f"frame {frame}"
    if arriving.frames:
        words += f", {len(arriving.frames)} of {arriving.slots} of the next chunk"
    return words if frame in drawn else f"{words}: no picture was recorded"


def _empty(layers: int) -> Strip:
    nothing: Sequence[int] = ()
    return make_strip(
        np.empty((max(layers, 1), 0), np.int8), np.array(nothing, int), np.array(nothing, float)
    )

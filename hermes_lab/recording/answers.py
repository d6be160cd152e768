"""An answer as the content of an answer part, and back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from hermes_lab.frozen import Frozen
from hermes_lab.recording.attention import decode_attention, encode_attention
from hermes_lab.recording.parts import Array, Part
from hermes_lab.snapshot import Answer

_SCALARS = (
    "question",
    "text",
    "token_ids",
    "step",
    "time_s",
    "ttft_s",
    "tpot_s",
    "attended_tokens",
    "cache_bytes",
)
_TUPLES = ("token_ids", "attended_tokens")


def encode_answer(answer: Answer) -> tuple[dict[str, Any], dict[str, Array]]:
    """JSON record and arrays of an answer; arrays in `extra` stay arrays, tuples become lists.

    Raises:
        ValueError: a value in `extra` is neither an array nor writable as JSON.
    """
    attention, tensors = encode_attention([] if answer.attention is None else [answer.attention])
    tensors["first_logits"] = np.asarray(answer.first_logits, np.float32)
    record: dict[str, Any] = {name: getattr(answer, name) for name in _SCALARS}
    record |= {"top": answer.top, "attention": attention, "extra": {}, "arrays": []}
    for name, value in answer.extra.items():
        if isinstance(value, np.ndarray):
            tensors[f"extra.{name}"] = value
            record["arrays"].append(name)
            continue
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"extra[{name!r}] of the answer is not JSON ({error})") from error
        record["extra"][name] = value
    return record, tensors


def decode_answer(part: Part) -> Answer:
    """The answer that `encode_answer` was given."""
    record = part.record
    scalars = {name: record[name] for name in _SCALARS}
    for name in _TUPLES:
        scalars[name] = tuple(scalars[name])
    attention = decode_attention(record["attention"], part)
    (logits,) = part.read("first_logits")
    arrays = part.read(*(f"extra.{name}" for name in record["arrays"]))
    extra = dict(record["extra"]) | dict(zip(record["arrays"], arrays, strict=True))
    return Answer(
        **scalars,
        first_logits=logits,
        top=tuple((text, probability) for text, probability in record["top"]),
        attention=attention[0] if attention else None,
        extra=Frozen(extra),
    )

"""What a recording's JSON must look like: looked at once, when it is opened, so that nobody has to doubt it later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, cast

from hermes_lab.snapshot import Timings

Check = Callable[[Any], bool]

_LARGEST = 2**62  # of a count; ids and positions are far smaller
_MOST_HEADS = 2**16


def integer(value: Any) -> bool:
    return type(value) is int and abs(value) < _LARGEST


def count(value: Any) -> bool:
    return integer(value) and value >= 0


def number(value: Any) -> bool:
    return integer(value) or type(value) is float


def text(value: Any) -> bool:
    return isinstance(value, str)


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def every(check: Check, length: int | None = None) -> Check:
    """A list of things of one kind, of some length or of any."""

    def checked(value: Any) -> bool:
        if not isinstance(value, list):
            return False
        items = cast("list[Any]", value)
        return length in (None, len(items)) and all(map(check, items))

    return checked


def named(check: Check) -> Check:
    """An object whose values are of one kind."""
    return lambda value: (
        isinstance(value, dict) and all(map(check, cast("dict[str, Any]", value).values()))
    )


def anything(value: Any) -> bool:
    return True


def shaped(required: Mapping[str, Check], maybe: Mapping[str, Check] | None = None) -> Check:
    """An object with some fields; fields that nobody named are no matter."""
    return lambda value: first_wrong(value, required, maybe) is None


def first_wrong(
    value: Any, required: Mapping[str, Check], maybe: Mapping[str, Check] | None = None
) -> str | None:
    """The first field that is missing or not of its kind; "record" where there is no object at all."""
    if not isinstance(value, dict):
        return "record"
    record = cast("dict[str, Any]", value)
    for name, check in required.items():
        if name not in record or not check(record[name]):
            return name
    for name, check in (maybe or {}).items():
        if name in record and not check(record[name]):
            return name
    return None


def _state(value: Any) -> bool:
    """Shapes of what the layers hold: heads and tokens of every layer, axes of every layer or none at all."""
    if not _SHAPES(value):
        return False
    layers = len(value["heads"])
    within = all(heads <= _MOST_HEADS for heads in (*value["heads"], *value["axes"]))
    return len(value["tokens"]) == layers and len(value["axes"]) in (0, layers) and within


def _either(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


_SHAPES = shaped({"heads": every(count), "tokens": every(count), "axes": every(count)})
_DECISION_FIELDS: dict[str, Check] = {
    "layer": count, "budget": integer, "heads": count, "tokens": count, "scores": every(count),
    "terms": named(every(count)),
}  # fmt: skip
_OLD_DECISION = shaped({**_DECISION_FIELDS, "merged": every(every(count, 2))})
_DECISION = shaped(
    {
        **_DECISION_FIELDS, "told": flag, "spared": count,
        "merged": every(lambda pair: every(optional(count), 2)(pair) and pair[0] is not None),
    }
)  # fmt: skip
_ROWS = {"group": text, "rows": every(count), "row_ids": every(count)}
_ATTENTION = _either(
    shaped({**_ROWS, "shape": every(count, 3), "visible": every(integer)}),
    shaped({**_ROWS, "frames": count}),  # format 1
)
_CHANGE = optional(
    shaped(
        {
            "evicted": every(count),
            "added": every(count),
            "ordered": every(flag),
            "moved": every(flag),
        }
    )
)
_MULTIPLES = every(
    lambda triple: every(number, 3)(triple) and count(triple[0]) and count(triple[1])
)
_STEP: dict[str, Check] = {
    "step": count,
    "frames": every(count),
    "frames_seen": count,
    "tokens_seen": count,
    "time_s": number,
    "budget_tokens": optional(every(integer)),
    "cache_bytes": count,
    "archive_bytes": count,
    "reindexed": every(count),
    "notes": every(text),
    "timings": shaped({field.name: number for field in fields(Timings)}),
    "state": _state,
    "attention": every(_ATTENTION),
    "thumbnails": flag,
}
_PER_LAYER = ("evicted", "added", "ordered", "moved")
_NEW_STEP: dict[str, Check] = {
    "change": _CHANGE,
    "multiples": _MULTIPLES,
    "decisions": every(_DECISION),
}
_OLD_STEP: dict[str, Check] = {"decisions": every(_OLD_DECISION)}  # of format 1
_ANSWER: dict[str, Check] = {
    "question": text,
    "text": text,
    "token_ids": every(integer),
    "step": integer,
    "time_s": number,
    "ttft_s": number,
    "tpot_s": number,
    "attended_tokens": every(count),
    "cache_bytes": count,
    "top": every(lambda pair: every(anything, 2)(pair) and text(pair[0]) and number(pair[1])),
    "attention": every(_ATTENTION),
    "extra": named(anything),
    "arrays": every(text),
}
_PARTS: dict[str, tuple[dict[str, Check], dict[str, Check]]] = {
    "step": (_STEP, {"before": _state, "tokens_from": count}),
    "answer": (_ANSWER, {"tokens_from": count}),
    "frames": ({"frames": every(count)}, {}),
}


def wrong_in_part(kind: str, record: Any) -> str | None:
    """The first field of a part's record that is missing or not of its kind."""
    wrong = first_wrong(record, *_PARTS[kind])
    if wrong is None and kind == "step":
        wrong = first_wrong(record, _NEW_STEP if "change" in record else _OLD_STEP)
    if wrong is None and kind == "step":
        layers = len(record["state"]["heads"])
        change = record.get("change")
        if change and any(len(change[name]) != layers for name in _PER_LAYER):
            return "change"
        if any(decision["layer"] >= layers for decision in record["decisions"]):
            return "decisions"
        if "before" in record and len(record["before"]["heads"]) not in (0, layers):
            return "before"
    return wrong

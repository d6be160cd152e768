"""Damage to bytes, to JSON, and to safetensors files that are made to look sound."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from copy import deepcopy
from typing import Any

_BYTES = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\r\n",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0" * 8,
)
_NUMBERS = (0, -1, 1, 2, 7, 255, 65_536, 2**31, -(2**31), 2**53, 2**63, -(2**63), 10**30, 10**400)
_VALUES: tuple[Any, ...] = (
    None, True, False, "", "x", "é\u2028\x1b[2J", "\ud800", "a" * 5000, "../../evil", "/etc/passwd", "%00",
    "[/x][bold]", "<script>alert(1)</script>", [], {}, [[]], [None], {"a": {}}, 0.5, -0.0, 1e308, float("nan"),
    float("inf"), *_NUMBERS,
)  # fmt: skip
_DEEP = 3000


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to four cuts, flips, repeats and insertions."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        _ONE_OF[rng.randrange(len(_ONE_OF))](out, rng)
    return bytes(out)


def _place(out: bytearray, rng: random.Random) -> int:
    near_start = rng.random() < 0.5  # headers lie there
    return rng.randrange(min(len(out), 256) if near_start else len(out))


def _flip(out: bytearray, rng: random.Random) -> None:
    out[_place(out, rng)] ^= 1 << rng.randrange(8)


def _write(out: bytearray, rng: random.Random) -> None:
    at, odd = _place(out, rng), rng.choice(_BYTES)
    out[at : at + len(odd)] = odd


def _cut(out: bytearray, rng: random.Random) -> None:
    del out[_place(out, rng) :]


def _remove(out: bytearray, rng: random.Random) -> None:
    at = _place(out, rng)
    del out[at : at + rng.randint(1, 64)]


def _repeat(out: bytearray, rng: random.Random) -> None:
    at = _place(out, rng)
    out[at:at] = out[at : at + rng.randint(1, 64)] * rng.randint(1, 4)


def _insert(out: bytearray, rng: random.Random) -> None:
    at = _place(out, rng)
    out[at:at] = rng.randbytes(rng.randint(1, 16))


_ONE_OF: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip, _flip, _write, _write, _cut, _remove, _repeat, _insert,
)  # fmt: skip


def damaged_json(value: Any, rng: random.Random) -> Any:
    """A copy with one to three values replaced, removed, renamed or swapped."""
    copy = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        if not isinstance(copy, (dict, list)) or not copy:
            break
        _change(_holder(copy, rng), rng)
    return copy


def json_bytes(value: Any, rng: random.Random) -> bytes:
    """A damaged value as JSON; sometimes nested without end, or no longer JSON."""
    kind = rng.random()
    if kind < 0.03:
        return b"[" * _DEEP + b"]" * _DEEP
    text = json.dumps(damaged_json(value, rng)).encode()
    return damaged(text, rng) if kind < 0.15 else text


def _holder(value: Any, rng: random.Random) -> Any:
    """A list or object within a value, that is not empty; deeper ones as likely as shallow ones."""
    found, within = [value], [value]
    while within:
        inner = within.pop()
        children = inner.values() if isinstance(inner, dict) else inner
        nested = [c for c in children if isinstance(c, (dict, list)) and c]
        found += nested
        within += nested
    return rng.choice(found)


def _change(holder: Any, rng: random.Random) -> None:
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    key = rng.choice(keys)
    action = rng.random()
    if action < 0.15:
        del holder[key]
    elif action < 0.25:
        other = rng.choice(keys)
        holder[key], holder[other] = holder[other], holder[key]
    elif action < 0.35 and type(holder[key]) in (int, float):
        holder[key] = holder[key] + rng.choice((-1, 1, 2**31))
    elif action < 0.4 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif action < 0.45 and isinstance(holder, list):
        holder.extend(holder[:50])
    else:
        holder[key] = deepcopy(rng.choice(_VALUES))  # lists among them are changed later


# --- safetensors ------------------------------------------------------------------------------------
def parsed(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and arrays of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def assembled(header: Any, arrays: bytes) -> bytes:
    """A safetensors file of a header that need not be true."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + arrays


def damaged_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Damage in the bytes, or in a header that is put together again."""
    if rng.random() < 0.4:
        return damaged(data, rng)
    header, arrays = parsed(data)
    if rng.random() < 0.3:
        arrays = damaged(arrays, rng)
    return assembled(damaged_json(header, rng), arrays)

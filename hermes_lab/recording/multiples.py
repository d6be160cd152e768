"""Arrays that are another array times a number, which are stored as that number.

A policy's terms say the same thing again and again: recency is alike in all layers, a layer's own score is one of
its terms, what it takes from the layer above is a share of that layer's score. Only products that come out equal to
the last bit count, so that what is read equals what was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hermes_lab.recording.parts import Array
from hermes_lab.snapshot import FloatArray

Name = tuple[int, str | None]
"""Whose array it is: layer and term; None is the score itself."""

_SAMPLES = 4
_MOST_SEARCHES = 4  # of an array in the course of a recording; policies seldom change their formula


@dataclass
class Multiples:
    """Finds them, and remembers from step to step where they were found."""

    _known: dict[Name, tuple[Name, float] | None] = field(
        default_factory=dict[Name, tuple[Name, float] | None]
    )
    _searches: dict[Name, int] = field(default_factory=dict[Name, int])

    def find(self, arrays: Sequence[tuple[Name, FloatArray]]) -> list[tuple[int, int, float]]:
        """(index, index of another array that is stored, factor) of arrays that need not be stored.

        From the last to the first: what a layer hands down is known before it is met again.
        """
        at = {name: n for n, (name, _) in enumerate(arrays)}
        stored: list[int] = []
        found: list[tuple[int, int, float]] = []
        for n in range(len(arrays) - 1, -1, -1):
            name, array = arrays[n]
            source = self._remembered(name, array, arrays, at, stored)
            if source is None and self._may_search(name, array):
                source = _search(array, [(i, arrays[i][1]) for i in stored])
                self._known[name] = None if source is None else (arrays[source[0]][0], source[1])
            if source is None:
                stored.append(n)
            else:
                found.append((n, *source))
        return found

    def _remembered(
        self,
        name: Name,
        array: FloatArray,
        arrays: Sequence[tuple[Name, FloatArray]],
        at: dict[Name, int],
        stored: Sequence[int],
    ) -> tuple[int, float] | None:
        """What held in an earlier step, if it holds again."""
        known = self._known.get(name)
        other = None if known is None else at.get(known[0])
        if known is None or other is None or other not in stored:
            return None
        return (other, known[1]) if _is_multiple(array, arrays[other][1], known[1]) else None

    def _may_search(self, name: Name, array: FloatArray) -> bool:
        count = self._searches.get(name, 0)
        if not array.size or count >= _MOST_SEARCHES:
            return False
        if count and self._known.get(name) is None and count & (count - 1):
            return False
        self._searches[name] = count + 1
        return True


def _search(
    array: FloatArray, others: Sequence[tuple[int, FloatArray]]
) -> tuple[int, float] | None:
    """Index and factor of another array that this one is a multiple of."""
    flat = array.ravel()
    largest = int(np.abs(flat).argmax())
    spots = [largest, *np.linspace(0, flat.size - 1, _SAMPLES).astype(int).tolist()]
    here = flat[spots]
    for index, other in others:
        if other.shape != array.shape:
            continue
        there = other.ravel()[spots]
        if not (np.isfinite(here).all() and np.isfinite(there).all()) or not there[0]:
            continue
        with np.errstate(all="ignore"):
            about = here[0] / there[0]
        for factor in (  # the quotient may be the last bit off
            about,
            np.nextafter(about, np.float32(-np.inf)),
            np.nextafter(about, np.float32(np.inf)),
        ):
            if (times(there, factor) == here).all() and _is_multiple(array, other, float(factor)):
                return index, float(factor)
    return None


def _is_multiple(array: FloatArray, other: FloatArray, factor: float) -> bool:
    if array.shape != other.shape:
        return False
    made = times(other, factor)
    same = np.array_equal(made.view(np.int32), np.ascontiguousarray(array).view(np.int32))
    return same and bool(np.isfinite(made).all())


def times(array: FloatArray, factor: float | np.float32) -> FloatArray:
    """The product in float32, as a policy makes it."""
    with np.errstate(all="ignore"):  # what overflows is no multiple, or damage
        return np.ascontiguousarray(array) * np.float32(factor)


class Stored:
    """Arrays of one step as they were stored, multiples among them.

    Raises:
        ValueError: arrays and record contradict each other.
    """

    def __init__(self, values: Array, shapes: Sequence[Sequence[int]], multiples: Any) -> None:
        self._values, self._shapes = values, shapes
        self._made: dict[int, tuple[int, float]] = {n: (i, f) for n, i, f in multiples}
        if any(i in self._made for i, _ in self._made.values()):
            raise ValueError("an array is the multiple of a multiple")
        sizes = [
            0 if n in self._made else int(np.prod(shape, dtype=object))
            for n, shape in enumerate(shapes)
        ]
        self._edges: list[int] = np.cumsum([0, *sizes]).tolist()
        if self._edges[-1] != len(values):
            raise ValueError(
                f"scores have {len(values)} numbers where {self._edges[-1]} were recorded"
            )

    def __getitem__(self, index: int) -> FloatArray:
        if index in self._made:
            other, factor = self._made[index]
            if list(self._shapes[index]) != list(self._shapes[other]):
                raise ValueError("an array is the multiple of one of another shape")
            return times(self[other], factor)
        start, end = self._edges[index], self._edges[index + 1]
        return self._values[start:end].reshape(self._shapes[index])

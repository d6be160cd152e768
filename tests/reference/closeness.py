"""The one place that says how near is the same, and how far is different."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

RELATIVE = (
    4e-6  # of the largest expected value; fp32 through four layers rounds to 3e-7 .. 2.1e-6 here
)
EFFECT = 250  # an effect under test must move its numbers by so many tolerances at least

Values = Tensor | npt.NDArray[np.floating]


def distance(actual: Values, expected: Values) -> float:
    """Largest difference, relative to the largest expected value."""
    a, b = torch.as_tensor(actual).double(), torch.as_tensor(expected).double()
    assert a.shape == b.shape, f"shapes differ: {list(a.shape)} and {list(b.shape)}"
    assert a.isfinite().all() and b.isfinite().all(), "not finite"
    return float((a - b).abs().max() / b.abs().max())


def assert_same(actual: Values, expected: Values, tolerance: float = RELATIVE) -> None:
    """Equal up to rounding."""
    off = distance(actual, expected)
    assert off <= tolerance, f"off by {off:.2e} of the largest value, tolerated are {tolerance:.0e}"


def assert_moved(actual: Values, without: Values) -> None:
    """The effect is far larger than what `assert_same` would let pass."""
    off = distance(actual, without)
    assert off >= EFFECT * RELATIVE, f"moved by {off:.2e} only: the test could not fail"

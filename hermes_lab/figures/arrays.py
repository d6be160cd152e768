"""Names for the arrays that figures are made of; their axes stand in the docstrings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
"""Colours, or codes of one byte."""
Shares = npt.NDArray[np.float32]
"""Shares between 0 and 1."""

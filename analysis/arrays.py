"""Names for the arrays that studies pass around; their axes stand in the docstrings."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Picture = npt.NDArray[np.uint8]
"""An RGB frame, [height, width, channel]."""
Arrays = dict[str, npt.NDArray[Any]]
"""Results of one stream by name, as they lie on disk."""

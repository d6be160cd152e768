"""What is kept of attention: features of every layer and head, by the query rows that they were read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
from einops import rearrange

from analysis.arrays import Array
from analysis.estimators import concentration, periodicity, recency
from analysis.streams import HORIZONS
from hermes_lab.errors import LabError, nearest

Rows = Literal[
    "now", "recent", "long", "rows", "guidance_local", "guidance_global", "visual", "position_only"
]
"""Query rows that are read: the question's last token by horizon, all of its tokens, HERMES' two prompts, the newest
frame's tokens, and the question's last token with keys' content permuted."""
Number = Literal[
    "profile", "slots", "acf", "prominence", "spectrum", "phase_lock", "entropy", "top_mass", "mass"
]
"""What is made of the attention of such rows; see `features`."""
TokenNumber = Literal["first", "text", "massive"]
"""What is told of tokens beside the video's attention; see `analysis.observe.observe`."""
GROUPS: tuple[Rows, ...] = get_args(Rows)
_KNOWN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(GROUPS, get_args(Number)),
    "tokens": get_args(TokenNumber),
}


@dataclass(frozen=True)
class Feature:
    """One feature; on disk it is called by its rows and its name, as in "now/profile"."""

    rows: Rows | Literal["tokens"]
    name: Number | TokenNumber

    def __str__(self) -> str:
        return f"{self.rows}/{self.name}"

    @classmethod
    def read(cls, text: str) -> Feature:
        """The feature that `str` wrote.

        Raises:
            LabError: there is none of that name.
        """
        rows, _, name = text.partition("/")
        if name not in _KNOWN.get(rows, ()):
            known = [f"{group}/{one}" for group, names in _KNOWN.items() for one in names]
            raise LabError(f"There is no feature {text!r}: {nearest(text, known)}")
        return cls(cast(Rows, rows), cast(Number, name))


def features(grid: Array) -> dict[Number, Array]:
    """What is kept of attention grids [..., frame, slot]."""
    rhythm = periodicity.periodicity(grid)
    flat = rearrange(grid, "... frame slot -> ... (frame slot)")
    return {
        "profile": recency.age_profile(grid),
        "slots": periodicity.slot_profile(grid),
        "acf": rhythm.acf,
        "prominence": rhythm.prominence,
        "spectrum": rhythm.spectrum,
        "phase_lock": rhythm.phase_lock,
        "entropy": concentration.entropy_ratio(flat),
        "top_mass": concentration.top_mass(flat),
        "mass": flat.sum(-1),
    }


@dataclass(frozen=True)
class Features:
    """Features of several streams under one variant."""

    arrays: Mapping[Feature, Array]

    def __getitem__(self, feature: Feature | str) -> Array:
        """One feature, [stream, layer, head, ...]; a text is read as `Feature.read` does.

        Raises:
            LabError: it was not observed; of variants only the question's own rows are read.
        """
        key = Feature.read(feature) if isinstance(feature, str) else feature
        if key not in self.arrays:
            raise LabError(
                f"The feature {str(key)!r} was not observed here; only the trained model has it."
            )
        return self.arrays[key]

    def of(self, rows: Rows, name: Number) -> Array:
        """A feature of some rows, [stream, layer, head, ...]."""
        return self[Feature(rows, name)]

    def tokens(self, name: TokenNumber) -> Array:
        """What was told of tokens, [stream, layer, ...]."""
        return self[Feature("tokens", name)]

    def question(self, name: Number) -> Array:
        """A feature of the question's last token, mean over the horizons that a stream can be asked about."""
        return np.nanmean([self.of(horizon, name) for horizon in HORIZONS], axis=0)

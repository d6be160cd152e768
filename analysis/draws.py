"""Names of things that are compared, some of them drawn at random several times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Draw:
    """Something that is compared, or one random draw of it; tables call the third one "shuffled bands 2".

    Attributes:
        name: what it is.
        number: which draw, from 0; None where nothing is random.
    """

    name: str
    number: int | None = None

    def __str__(self) -> str:
        return self.name if self.number is None else f"{self.name} {self.number}"

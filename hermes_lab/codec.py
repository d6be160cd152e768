"""How archived keys and values are stored: policies choose a codec, the cache uses it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor


class Codec(ABC):
    """How the archive stores evicted keys or values; the engine encodes on eviction and decodes for `recall`."""

    @abstractmethod
    def encode(
        self, states: Float[Tensor, "kv_head token dim"], group: Int[Tensor, " token"]
    ) -> Any:
        """Store states; tokens with the same number in `group` (their frame) share quantisation ranges."""

    @abstractmethod
    def decode(self, stored: Any) -> Float[Tensor, "kv_head token dim"]:
        """What `encode` stored, in its dtype and on its device."""

    @abstractmethod
    def stored_bytes(self, stored: Any) -> int:
        """Bytes that `encode`'s answer occupies."""

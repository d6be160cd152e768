"""Storage codecs of the archive: keys and values in a few bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import Codec


@dataclass(frozen=True)
class Packed:
    """Quantised states: x ≈ code · scale + low, with one scale and low for each head, group and channel.

    Attributes:
        codes: several codes per byte along the channels.
        low, scale: in the dtype of the original states.
        of: group of each token.
    """

    codes: UInt8[Tensor, "kv_head token packed"]
    low: Float[Tensor, "kv_head group dim"]
    scale: Float[Tensor, "kv_head group dim"]
    of: Int[Tensor, " token"]


@dataclass(frozen=True)
class GroupQuantised(Codec):
    """Asymmetric uniform quantisation by head, group of tokens and channel. Source: StreamingTOM (arXiv 2510.18269), OQM.

    Attributes:
        bits: 2, 4 or 8 for each number.
    """

    bits: int = 4

    def __post_init__(self) -> None:
        if self.bits not in (2, 4, 8):
            raise PolicyError(f"Stored keys and values take 2, 4 or 8 bits, got {self.bits}.")

    def encode(
        self, states: Float[Tensor, "kv_head token dim"], group: Int[Tensor, " token"]
    ) -> Packed:
        """Round each number to one of 2^bits levels between its group's extremes."""
        numbers, of = group.unique(return_inverse=True)
        exact = states.float()
        shape = (states.shape[0], len(numbers), states.shape[2])
        where = of[None, :, None].expand_as(exact)
        low = exact.new_zeros(shape).scatter_reduce(1, where, exact, "amin", include_self=False)
        high = exact.new_zeros(shape).scatter_reduce(1, where, exact, "amax", include_self=False)
        low, scale = low.to(states.dtype), ((high - low) / (2**self.bits - 1)).clamp_min(1e-8)
        scale = scale.to(states.dtype)
        steps = (exact - low.float()[:, of]) / scale.float()[:, of].clamp_min(1e-8)
        return Packed(self._pack(steps.round().clamp(0, 2**self.bits - 1).byte()), low, scale, of)

    def decode(self, stored: Packed) -> Float[Tensor, "kv_head token dim"]:
        """The levels that were stored."""
        codes = self._unpack(stored.codes, stored.low.shape[-1]).float()
        exact = codes * stored.scale.float()[:, stored.of] + stored.low.float()[:, stored.of]
        return exact.to(stored.low.dtype)

    def stored_bytes(self, stored: Packed) -> int:
        """Codes, ranges and group numbers."""
        parts = (stored.codes, stored.low, stored.scale, stored.of)
        return sum(part.numel() * part.element_size() for part in parts)

    def _pack(
        self, codes: UInt8[Tensor, "kv_head token dim"]
    ) -> UInt8[Tensor, "kv_head token packed"]:
        each = 8 // self.bits
        padded = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % each))
        shifts = torch.arange(each, dtype=torch.uint8, device=codes.device) * self.bits
        return (padded.unflatten(-1, (-1, each)) << shifts).sum(-1).byte()

    def _unpack(
        self, packed: UInt8[Tensor, "kv_head token packed"], dim: int
    ) -> UInt8[Tensor, "kv_head token dim"]:
        shifts = torch.arange(8 // self.bits, dtype=torch.uint8, device=packed.device) * self.bits
        codes = (packed[..., None] >> shifts) & (2**self.bits - 1)
        return codes.flatten(-2)[..., :dim]

"""MuKV: attention received in the last layer, mixed with the high-frequency energy of its keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import LayerView, Need, Policy, Scores, minmax, setting
from hermes_lab.policies.parts.scoring import keys_of


@dataclass(frozen=True, kw_only=True)
class MuKV(Policy):
    """Score every block of new tokens once, in the last layer, and use that score in all layers.

    s_j = α minmax(a_j) + (1 - α) minmax(f_j): a_j is the attention received from the chunk, mean over heads; f_j
    the high-frequency energy of the block's keys, mean over heads, along the token axis. Source: MuKV (arXiv 2605.22269).

    Deviations: one granularity instead of three, the budget is fixed instead of a ratio per block, blocks see the cache
    and not only the first prompt, and the retrieval of blocks at the question is left to `rekv`.
    """

    alpha: float = setting(
        0.7,
        "Weight of attention (released: 0.5, 0.7, 0.8 for blocks of 49, 196, 784 tokens).",
        minimum=0.0,
        maximum=1.0,
    )
    block_tokens: int | None = setting(
        None, "Tokens of a block (released: 49, 196 or 784); None: those of a frame.", minimum=2
    )
    energy: Literal["fft", "difference"] = setting(
        "fft",
        "High-frequency part by FFT (paper), or the step between neighbouring keys (default of the released loader).",
    )

    title = "attention received and high-frequency keys of the last layer"
    source = "MuKV (arXiv 2605.22269)"
    licence = "no licence file"
    needs = frozenset({Need.RECEIVED_ATTENTION, Need.KEYS})

    def observe(self, view: LayerView) -> Mapping[str, Float[Tensor, "head token"]]:
        """The parts of the score of tokens that are new; older ones keep theirs."""
        if view.received is None:
            raise PolicyError("Policy 'mukv' reads attention received, but got none.")
        blank = torch.full((1, view.tokens), torch.nan, device=view.ids.device)
        attention = view.carried.get("mukv_attention", blank)[:1].clone()
        energy = view.carried.get("mukv_energy", blank)[:1].clone()
        new = attention[0].isnan().nonzero()[:, 0]
        received = view.received.float().mean(0, keepdim=True)
        keys = keys_of(view).mean(0)
        for block in new.split(self.block_tokens or view.tokens_per_frame):
            attention[:, block] = minmax(received[:, block], eps=1e-8)
            energy[:, block] = minmax(high_frequency(keys[block], self.energy)[None], eps=1e-8)
        return {"mukv_attention": attention, "mukv_energy": energy}

    def score(self, view: LayerView) -> Scores:
        """The mix of both parts."""
        attention, energy = view.carried["mukv_attention"], view.carried["mukv_energy"]
        total = self.alpha * attention + (1 - self.alpha) * energy
        return Scores(total, {"attention": attention, "high_frequency": energy})

    def mix(self, scores: list[Scores], views: Sequence[LayerView]) -> list[Scores]:
        """Every layer that holds the same tokens as the last one takes its scores."""
        last, ids = scores[-1], views[-1].ids
        return [
            _on(last, view.ids.device)
            if view.ids.shape == ids.shape and torch.equal(view.ids, ids.to(view.ids.device))
            else own
            for own, view in zip(scores, views, strict=True)
        ]


def _on(scores: Scores, device: torch.device) -> Scores:
    """Scores on the device of another layer."""
    terms = {name: value.to(device) for name, value in scores.terms.items()}
    return Scores(scores.total.to(device), terms)


def high_frequency(
    keys: Float[Tensor, "token dim"], energy: Literal["fft", "difference"]
) -> Float[Tensor, " token"]:
    """How fast the keys change along the tokens.

    "fft": mean over channels of the magnitude of what is left without the lower half of the frequencies;
    "difference": norm of the step from the token before (0 for the first).
    """
    if energy == "difference":
        steps = (keys[1:] - keys[:-1]).norm(dim=-1)
        return torch.cat([steps.new_zeros(1), steps])
    spectrum = torch.fft.rfft(keys, dim=0)
    spectrum[: max(1, spectrum.shape[0] // 2)] = 0
    return torch.fft.irfft(spectrum, n=keys.shape[0], dim=0).abs().mean(-1)

"""KeyDiff: keep keys that point away from the average key."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from hermes_lab.policies.base import LayerView, Need, Policy, Scores
from hermes_lab.policies.parts.scoring import by_head, keys_of


@dataclass(frozen=True, kw_only=True)
class KeyDiff(Policy):
    """Keep distinctive keys: s_j = -cos(k_j, mean over j of k_j / ‖k_j‖), each KV head on its own.

    The paper compresses after blocks of 128 tokens; here a block is a chunk. Source: KeyDiff (arXiv 2504.15364).
    """

    title = "keys unlike the average key"
    source = "KeyDiff (arXiv 2504.15364)"
    licence = "Apache-2.0 (kvpress)"
    needs = frozenset({Need.KEYS})
    per_head = True

    def score(self, view: LayerView) -> Scores:
        """Minus the cosine between each key and the mean direction of all keys."""
        keys = keys_of(view)
        anchor = F.normalize(keys, dim=-1).mean(1, keepdim=True)
        difference = by_head(-F.cosine_similarity(keys, anchor, dim=-1), view)
        return Scores(difference, {"key_difference": difference})

"""Interventions and readouts on a stream session: what a question reads, and what changes when it cannot.

Everything works through the session's hook points (`hermes_lab.engine.hooks`) on the ragged cache, at the question,
and leaves the cache bit-identical. `bridge` hands the same weights and the same cache to TransformerLens' own
tools. What reads or changes one pass of a question enters; what decides over many streams is a study (`analysis/`).
"""

from __future__ import annotations

from hermes_lab.lens.attribution import DirectAttribution, direct_attribution
from hermes_lab.lens.bridge import SessionBridge, bridge
from hermes_lab.lens.knockout import knockout
from hermes_lab.lens.logits import LogitLens, answer_ids, logit_difference, logit_lens
from hermes_lab.lens.patching import PatchSweep, patch, patch_sweep
from hermes_lab.lens.tokens import tokens
from hermes_lab.lens.value_weighted import ValueWeighted, value_weighted
from hermes_lab.stream.activations import activation_cache

__all__ = [
    "DirectAttribution",
    "LogitLens",
    "PatchSweep",
    "SessionBridge",
    "ValueWeighted",
    "activation_cache",
    "answer_ids",
    "bridge",
    "direct_attribution",
    "knockout",
    "logit_difference",
    "logit_lens",
    "patch",
    "patch_sweep",
    "tokens",
    "value_weighted",
]

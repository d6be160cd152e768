"""Tokens that draw attention whatever they show: massive activations, the first token, and text."""

from __future__ import annotations

from analysis.context import StudyContext
from analysis.result import Table


def massive_threshold(hidden_size: int) -> float:
    """RMS-normalised magnitude from which a token counts as massive: 20 as published, less where d forbids it."""
    return min(20.0, 0.6 * hidden_size**0.5)


def sink_table(context: StudyContext, slot: int) -> Table:
    """Massive-activation tokens, and attention on the first token and on text, by layer."""
    found = context.observe("trained")
    first, text = found.tokens("first"), found.tokens("text")
    activation = found.tokens("massive")
    limit = massive_threshold(int(context.lab.adapter.text_config.hidden_size))
    massive = activation >= limit
    rows = [
        (
            layer, float(massive[:, layer].mean()), float(massive[:, layer, :, slot].mean()),
            float(first[:, layer].mean()), float(text[:, layer].mean()),
            float(activation[:, layer].max()),
        )
        for layer in range(context.layers)
    ]  # fmt: skip
    columns = (
        "layer", "massive_share", "massive_share_at_anchor_slot", "first_token_mass", "text_mass",
        "largest_activation_rms",
    )  # fmt: skip
    return Table(
        "sinks",
        columns,
        tuple(rows),
        f"Share of visual tokens with an activation of {limit:.3g} RMS or more, and attention off the video.",
    )

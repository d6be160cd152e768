"""The life of one token: when it came, how it ranked at every compression, when and why it went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from hermes_lab.brief import Brief
from hermes_lab.errors import RecordingError
from hermes_lab.snapshot import LayerDecision
from hermes_lab.tokens import Role

if TYPE_CHECKING:
    from hermes_lab.recording.chronicle import LayerChronicle
    from hermes_lab.recording.reader import Recording

Fate = Literal["never came", "kept", "evicted", "merged"]


@dataclass(frozen=True)
class Trial:
    """One token in one compression of one head's token set.

    Attributes:
        step: `Snapshot.step`.
        head: KV head, 0 where all heads share one set.
        score, terms: as the policy gave them.
        rank: 1 is the best score; ties go to the newer token.
        candidates: tokens that were ranked.
        budget_tokens: what the layer was allowed to hold.
        kept: whether it survived.
    """

    step: int
    head: int
    score: float
    terms: Mapping[str, float]
    rank: int
    candidates: int
    budget_tokens: int
    kept: bool


@dataclass(frozen=True, repr=False)
class LayerLife(Brief):
    """One token in one layer.

    Attributes:
        entered_step, left_step: `Snapshot.step`; None where it never came, or is still held by some head.
        trials: its compressions, in order; of every head that ranked it.
        merged_into: ids of the synthesised tokens that it went into.
        sources: ids that went into it.
        reason: why it stands where it stands, in one sentence.
    """

    layer: int
    fate: Fate
    entered_step: int | None
    left_step: int | None
    trials: tuple[Trial, ...]
    merged_into: tuple[int, ...]
    sources: tuple[int, ...]
    reason: str


@dataclass(frozen=True, repr=False)
class TokenLife(Brief):
    """What a token is (see `TokenTable`) and what became of it in each layer asked for."""

    id: int
    role: Role
    frame: int
    time_s: float
    row: int
    col: int
    layers: tuple[LayerLife, ...]


def life(recording: Recording, token_id: int, layer: int | None) -> TokenLife:
    """Follow one token through a recording.

    Raises:
        RecordingError: there is no such token or layer.
    """
    table = recording.tokens
    if not 0 <= token_id < len(table):
        raise RecordingError(
            f"There is no token {token_id} in the recording {str(recording.folder)!r}; "
            f"ids run from 0 to {len(table) - 1}."
        )
    layers = range(recording.layers) if layer is None else (layer,)
    chronicles = dict(zip(layers, recording.chronicles(layers), strict=True))
    trials = _trials(recording, token_id, chronicles)
    steps = recording.timeline.step
    return TokenLife(
        id=token_id,
        role=Role(int(table.column("role")[token_id])),
        frame=int(table.column("frame")[token_id]),
        time_s=float(table.column("time_s")[token_id]),
        row=int(table.column("row")[token_id]),
        col=int(table.column("col")[token_id]),
        layers=tuple(
            _layer_life(n, token_id, chronicles[n], tuple(trials[n]), steps.tolist())
            for n in layers
        ),
    )


def _trials(
    recording: Recording, token_id: int, chronicles: Mapping[int, LayerChronicle]
) -> dict[int, list[Trial]]:
    """All compressions that ranked the token, by layer."""
    wanted: dict[int, set[int]] = {}
    for layer, chronicle in chronicles.items():
        for stay in np.flatnonzero(chronicle.ids == token_id):
            alive = (chronicle.decided >= chronicle.entered[stay]) & (
                chronicle.decided <= chronicle.left[stay]
            )
            for index in chronicle.decided[alive].tolist():
                wanted.setdefault(index, set()).add(layer)
    trials: dict[int, list[Trial]] = {layer: [] for layer in chronicles}
    for index in sorted(wanted):
        step = int(recording.timeline.step[index])
        for decision in recording.decisions(index, frozenset(wanted[index])):
            trials[decision.layer] += _rank(decision, token_id, step)
    return trials


def _rank(decision: LayerDecision, token_id: int, step: int) -> list[Trial]:
    """The token's place in one decision, for each head that ranked it."""
    found: list[Trial] = []
    scores = np.broadcast_to(decision.scores, decision.candidates.shape)
    for head, place in np.argwhere(decision.candidates == token_id).tolist():
        row = scores[head]
        better = int((row > row[place]).sum() + (row[place + 1 :] == row[place]).sum())
        found.append(
            Trial(
                step=step,
                head=head,
                score=float(row[place]),
                terms={
                    name: float(np.broadcast_to(term, scores.shape)[head, place])
                    for name, term in decision.terms.items()
                },
                rank=better + 1,
                candidates=len(row),
                budget_tokens=decision.budget_tokens,
                kept=bool(decision.kept[head, place]),
            )
        )
    return found


def _layer_life(
    layer: int,
    token_id: int,
    chronicle: LayerChronicle,
    trials: tuple[Trial, ...],
    steps: list[int],
) -> LayerLife:
    stays = np.flatnonzero(chronicle.ids == token_id)
    merged = chronicle.merged
    merged_into = tuple(dict.fromkeys(merged[merged[:, 2] == token_id, 1].tolist()))
    sources = tuple(merged[merged[:, 1] == token_id, 2].tolist())
    fate: Fate = "never came"
    entered = left = None
    reason = "It never came into this layer."
    if len(stays):
        entered = steps[int(chronicle.entered[stays].min())]
        last = int(chronicle.left[stays].max())
        if last >= len(steps):
            fate, reason = "kept", _verdict("Held", trials)
        else:
            left = steps[last]
            fate = "merged" if merged_into else "evicted"
            into = f"Merged into {', '.join(map(str, merged_into))}" if merged_into else "Evicted"
            reason = _verdict(f"{into} at step {left}", trials)
    return LayerLife(layer, fate, entered, left, trials, merged_into, sources, reason)


def _verdict(what: str, trials: tuple[Trial, ...]) -> str:
    if not trials:
        return f"{what}; no compression ranked it."
    last = trials[-1]
    return (
        f"{what}: rank {last.rank} of {last.candidates} at step {last.step} "
        f"(score {last.score:.4g}, budget {last.budget_tokens})."
    )

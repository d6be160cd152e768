"""Compression decisions as arrays of a step part, and back.

What the step's changes say already is not said again: that all tokens which were there were candidates, that those
which went were not kept, and that a summary token was made of all of them. Scores and their terms are stored as the
float32 they are, so that what is read equals what was decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hermes_lab.frozen import Frozen
from hermes_lab.recording.changes import StepChanges
from hermes_lab.recording.multiples import Multiples, Name, Stored
from hermes_lab.recording.parts import Array, Part
from hermes_lab.recording.standing import Standing
from hermes_lab.recording.state import LARGEST, NONE, CacheState, IntArray
from hermes_lab.snapshot import FloatArray, LayerChange, LayerDecision, MergeRecord


@dataclass
class Arrays:
    """What the decisions of one step write apart from their scores, in the order of the decisions."""

    candidates: list[IntArray]
    kept: list[Array]
    spared: list[IntArray]
    sources: list[IntArray]


def encode_decisions(
    decisions: Sequence[LayerDecision],
    changes: Sequence[LayerChange] | None,
    before: Standing,
    new_ids: IntArray,
    multiples: Multiples,
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Part of a JSON record, and arrays, of the decisions of one step.

    Args:
        changes: what is written beside them; None: the whole state.
        before: the state before the step, looked at only where it is needed.

    Raises:
        ValueError: a mask does not match its candidates, or ids are not ids.
    """
    written = Arrays([NONE], [np.empty(0, np.bool_)], [NONE], [NONE])
    scores: list[tuple[Name, FloatArray]] = []
    records: list[dict[str, Any]] = []
    for decision in decisions:
        change = None if changes is None else changes[decision.layer]
        records.append(_record(decision, change, before, new_ids, written))
        terms = ((None, decision.scores), *decision.terms.items())
        scores += [((decision.layer, name), np.asarray(a, np.float32)) for name, a in terms]
    found = multiples.find(scores)
    made = {n for n, _, _ in found}
    values = [a.ravel() for n, (_, a) in enumerate(scores) if n not in made]
    ids = {
        "candidates": written.candidates, "spared": written.spared, "sources": written.sources,
    }  # fmt: skip
    tensors: dict[str, Array] = {
        name: np.concatenate(rows).astype(np.int32)
        for name, rows in ids.items()
        if any(len(row) for row in rows)
    }
    if len(written.kept) > 1:
        tensors["kept"] = np.packbits(np.concatenate(written.kept))
    if values:
        tensors["scores"] = np.concatenate(values)
    return {"decisions": records, "multiples": found}, tensors


def _record(
    decision: LayerDecision,
    change: LayerChange | None,
    before: Standing,
    new_ids: IntArray,
    written: Arrays,
) -> dict[str, Any]:
    """The record of one decision; what the change does not tell goes to `written`."""
    heads, count = decision.candidates.shape
    if decision.kept.shape != decision.candidates.shape:
        raise ValueError(
            f"kept {decision.kept.shape} of layer {decision.layer} does not match its "
            f"candidates {decision.candidates.shape}"
        )
    there = before.tokens(decision.layer) + len(new_ids)
    told = change is not None and count == there and _tells(change, decision)
    spared = 0
    if not told:
        _check(decision.candidates)
        pool = before.state.pool(decision.layer, heads, new_ids)
        left = [np.setdiff1d(*rows) for rows in zip(pool, decision.candidates, strict=True)]
        written.spared.append(np.unique(np.concatenate([NONE, *left])))
        spared = len(written.spared[-1])
        written.candidates.append(decision.candidates.ravel())
        written.kept.append(decision.kept.ravel())
    merged: list[tuple[int, int | None]] = []
    for merge in decision.merged:
        all_gone = told and change is not None and _is_all(change.evicted, merge.sources)
        merged.append((merge.id, None if all_gone else len(merge.sources)))
        if not all_gone:
            written.sources.append(np.ravel(merge.sources))
    return {
        "layer": decision.layer,
        "budget": decision.budget_tokens,
        "heads": heads,
        "tokens": count,
        "told": told,
        "spared": spared,
        "scores": decision.scores.shape,
        "terms": {name: term.shape for name, term in decision.terms.items()},
        "merged": merged,
    }


def _tells(change: LayerChange, decision: LayerDecision) -> bool:
    """Whether those that the change evicts are those that the decision did not keep."""
    gone = decision.candidates[~decision.kept]
    if gone.size != change.evicted.size or len(change.evicted) != len(decision.kept):
        return False
    gone = gone.reshape(change.evicted.shape)
    return np.array_equal(gone, change.evicted) or np.array_equal(np.sort(gone, 1), change.evicted)


def _is_all(evicted: IntArray, sources: IntArray) -> bool:
    everyone = evicted[0] if len(evicted) == 1 else np.unique(evicted)
    return np.array_equal(everyone, sources)


def _check(ids: IntArray) -> None:
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) <= LARGEST:
        raise ValueError(f"token ids must lie in 0 ... {LARGEST}, got {ids.min()} ... {ids.max()}")


def decode_decisions(
    part: Part,
    changes: StepChanges,
    before: CacheState,
    layers: frozenset[int] | None = None,
) -> tuple[LayerDecision, ...]:
    """Read what `encode_decisions` wrote, of some layers or of all; `before` must be the same state.

    Raises:
        ValueError: arrays contradict the record.
    """
    records: Sequence[Mapping[str, Any]] = part.record["decisions"]
    if not records:
        return ()
    ids, bits, sources, values = part.read("candidates", "kept", "sources", "scores")
    shapes = [size for record in records for size in (record["scores"], *record["terms"].values())]
    scores = Stored(values, shapes, part.record["multiples"])
    apart = sum(r["heads"] * r["tokens"] for r in records if not r["told"])
    kept = np.unpackbits(bits, count=apart).astype(np.bool_) if apart else np.empty(0, np.bool_)
    if len(ids) != apart:
        raise ValueError(f"there are {len(ids)} candidates where {apart} were recorded")
    decisions: list[LayerDecision] = []
    at = score = source = 0
    for record in records:
        layer, shape = record["layer"], (record["heads"], record["tokens"])
        names, cells = [None, *record["terms"]], 0 if record["told"] else shape[0] * shape[1]
        end = source + sum(count or 0 for _, count in record["merged"])
        if layers is None or layer in layers:
            if record["told"]:
                candidates, mask = _told(changes, before, layer, shape)
            else:
                candidates = ids[at : at + cells].reshape(shape).astype(np.int64)
                mask = kept[at : at + cells].reshape(shape)
            arrays = {name: scores[score + n] for n, name in enumerate(names)}
            decisions.append(
                LayerDecision(
                    layer=layer,
                    candidates=candidates,
                    kept=mask,
                    scores=arrays.pop(None),
                    terms=Frozen({str(name): term for name, term in arrays.items()}),
                    merged=tuple(read_merges(record, changes, sources[source:end])),
                    budget_tokens=record["budget"],
                )
            )
        at, score, source = at + cells, score + len(names), end
    return tuple(decisions)


def _told(
    changes: StepChanges, before: CacheState, layer: int, shape: tuple[int, int]
) -> tuple[IntArray, Array]:
    """Candidates and mask of a decision about everything that was there."""
    candidates = before.pool(layer, shape[0], changes.new_ids)
    if candidates.shape != shape:
        raise ValueError(f"layer {layer} decided about {shape}, and held {candidates.shape}")
    mask = np.stack(
        [
            np.isin(row, gone, assume_unique=True, invert=True)
            for row, gone in zip(candidates, changes.evicted[layer], strict=True)
        ]
    )
    return candidates, mask


def read_merges(
    record: Mapping[str, Any], changes: StepChanges, sources: Array
) -> list[MergeRecord]:
    """The tokens that one decision made; `sources` are those that its changes do not tell."""
    found: list[MergeRecord] = []
    at = 0
    for name, count in record["merged"]:
        if count is None:
            found.append(MergeRecord(name, np.unique(changes.evicted[record["layer"]])))
        else:
            found.append(MergeRecord(name, sources[at : at + count].astype(np.int64)))
            at += count
    return found

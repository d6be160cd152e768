"""Compression decisions as arrays of a step part, and back.

Candidates are written against the tokens that were there to choose from, kept masks as bits, scores and their
terms as the float32 they are, so that what is read equals what was decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hermes_lab.frozen import Frozen
from hermes_lab.recording.idsets import NONE, IntArray, PackedRows, decode_row
from hermes_lab.recording.matching import blocks, join
from hermes_lab.recording.parts import Array, Part
from hermes_lab.recording.state import CacheState
from hermes_lab.snapshot import LayerDecision, MergeRecord


def encode_decisions(
    decisions: Sequence[LayerDecision], before: CacheState, new_ids: IntArray
) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """JSON records and arrays of the decisions of one step; `before` is the state before the step.

    Raises:
        ValueError: a mask does not match its candidates, or ids are not ids.
    """
    records: list[dict[str, Any]] = []
    rows: list[IntArray] = []
    earlier: list[IntArray] = []
    kept: list[Array] = []
    values: list[Array] = [np.empty(0, np.float32)]
    sources: list[Array] = [NONE]
    for decision in decisions:
        heads, tokens = decision.candidates.shape
        if decision.kept.shape != decision.candidates.shape:
            raise ValueError(
                f"kept {decision.kept.shape} of layer {decision.layer} does not match its "
                f"candidates {decision.candidates.shape}"
            )
        rows += list(decision.candidates)
        earlier += list(before.rows(decision.layer, heads))
        kept.append(decision.kept.ravel())
        values += [a.ravel() for a in (decision.scores, *decision.terms.values())]
        sources += [np.ravel(merge.sources) for merge in decision.merged]
        records.append(
            {
                "layer": decision.layer,
                "budget": decision.budget_tokens,
                "heads": heads,
                "tokens": tokens,
                "scores": decision.scores.shape,
                "terms": {name: term.shape for name, term in decision.terms.items()},
                "merged": [(merge.id, len(merge.sources)) for merge in decision.merged],
            }
        )
    if not records:
        return [], {}
    matched = blocks(rows, earlier, new_ids, [0] * len(rows))
    counts, ids = join([block.match.pack() for block in matched])
    return records, {
        "candidates.counts": counts,
        "candidates.ids": ids,
        "kept": np.packbits(np.concatenate(kept)),
        "scores": np.concatenate(values, dtype=np.float32, casting="same_kind"),
        "sources": np.concatenate(sources).astype(np.int32),
    }


def decode_decisions(
    records: Sequence[Mapping[str, Any]],
    part: Part,
    before: CacheState,
    new_ids: IntArray,
    layers: frozenset[int] | None = None,
) -> tuple[LayerDecision, ...]:
    """Read what `encode_decisions` wrote, of some layers or of all; `before` must be the same state."""
    if not records:
        return ()
    counts, ids, bits, values, sources = part.read(
        "candidates.counts", "candidates.ids", "kept", "scores", "sources"
    )
    rows = PackedRows(counts, ids)
    cells = sum(record["heads"] * record["tokens"] for record in records)
    kept = np.unpackbits(bits, count=cells).astype(np.bool_)
    taken = _Taken()
    decisions: list[LayerDecision] = []
    for record in records:
        shape = heads, tokens = record["heads"], record["tokens"]
        first = taken.advance("rows", heads)
        mask = kept[taken.span("kept", heads * tokens)].reshape(shape)
        spans = {
            name: values[taken.span("values", int(np.prod(size)))].reshape(size)
            for name, size in ((None, record["scores"]), *record["terms"].items())
        }
        merged = tuple(
            MergeRecord(id_, sources[taken.span("sources", count)].astype(np.int64))
            for id_, count in record["merged"]
        )
        layer = record["layer"]
        if layers is not None and layer not in layers:
            continue
        candidates = [
            decode_row(rows[first + head], before.pool(layer, head, heads, new_ids))
            for head in range(heads)
        ]
        scores = spans.pop(None)
        decisions.append(
            LayerDecision(
                layer=layer,
                candidates=np.stack(candidates),
                kept=mask,
                scores=scores,
                terms=Frozen({str(name): term for name, term in spans.items()}),
                merged=merged,
                budget_tokens=record["budget"],
            )
        )
    return tuple(decisions)


class _Taken:
    """How far each flat array has been read."""

    def __init__(self) -> None:
        self._ends: dict[str, int] = {}

    def advance(self, name: str, count: int) -> int:
        start = self._ends.get(name, 0)
        self._ends[name] = start + count
        return start

    def span(self, name: str, count: int) -> slice:
        start = self.advance(name, count)
        return slice(start, start + count)

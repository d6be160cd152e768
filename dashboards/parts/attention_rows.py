"""Full attention rows of a reading: where they were kept, and one head's row with the tokens that it is over."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hermes_lab.snapshot import AttentionSummary


def where_rows_are(summary: AttentionSummary) -> str:
    """In which layers full rows were recorded, in a sentence."""
    kept = ", ".join(map(str, sorted(summary.rows)))
    if kept:
        return f"Full rows of this reading are recorded in layers {kept}."
    return "This reading keeps no full rows; record with level rows."


def row_of(
    summary: AttentionSummary, layer: int, head: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.floating]]:
    """Global ids of the tokens that a head saw, and its attention on them, mean over queries, [token], [token].

    Layers whose key/value heads hold the same tokens keep one set of ids; otherwise there is one for each such head,
    shared by its group of query heads.
    """
    ids, rows = summary.row_ids[layer], summary.rows[layer]
    return ids[min(head * len(ids) // rows.shape[0], len(ids) - 1)], rows[head].mean(0)


def row_code(layer: int, head: int) -> str:
    """Python that does the same: it defines `mine` and `weight`, given `summary`."""
    return (
        f"rows, ids = summary.rows[{layer}], summary.row_ids[{layer}]\n"
        f"mine = ids[min({head} * len(ids) // rows.shape[0], len(ids) - 1)]\nweight = rows[{head}].mean(0)"
    )

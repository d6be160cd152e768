"""Questions on held-out worlds as training asks them: many of a stream in one batch, the whole cache kept.

`hermes-lab eval` without a policy; only models of the pocket family can be asked so.
"""

from __future__ import annotations

from typing import Any

import torch

from hermes_lab.evaluation.scores import WorldsResult
from hermes_lab.evaluation.worlds import FIRST_SEED, ROW, HeldOut, Progress, Records
from hermes_lab.lab import Lab
from hermes_lab.training import data
from hermes_lab.training.branches import answer_logits, watch
from hermes_lab.training.config import Recipe
from hermes_lab.training.families import family
from hermes_lab.worlds import TYPES

_QUESTIONS_PER_STREAM = 72
_STREAMS_AT_ONCE = 4


def examine(
    lab_or_path: Lab | str,
    streams: int = 500,
    frames: int | None = None,
    progress: Progress | None = None,
    first_seed: int = FIRST_SEED,
) -> WorldsResult:
    """Exact match by question type and horizon on held-out worlds, with the full cache and in batches.

    Raises:
        LabError: fewer than one stream or sixteen frames, seeds outside the held-out range, or a model of a class that
            the training does not know.
    """
    held_out = HeldOut.of(lab_or_path, streams, frames, first_seed)
    return held_out.result("full cache, batched", _answered(held_out, progress))


@torch.no_grad()
def _answered(held_out: HeldOut, progress: Progress | None) -> Records:
    lab, seeds, frames = held_out.lab, held_out.seeds, held_out.frames
    model: Any = lab.adapter.model
    kin = family(model.config.model_type)
    recipe, weights = Recipe(), dict.fromkeys(TYPES, 1.0)
    records: Records = []
    for start in range(0, len(seeds), _STREAMS_AT_ONCE):
        part = seeds[start : start + _STREAMS_AT_ONCE]
        drawn = data.batch(
            recipe, part, frames, _QUESTIONS_PER_STREAM, weights, augment=False, learn_end=True,
            prefix_tokens=len(kin.prefix), closing=kin.closing,
        )  # fmt: skip
        shown = drawn.frames.to(lab.adapter.device, lab.adapter.dtype)
        features = kin.features(model, shown)
        positions = kin.positions(drawn.positions, len(kin.prefix))
        stream_pass = watch(model, features, kin.prefix, positions)
        logits = answer_logits(model, stream_pass, drawn.groups)
        for group, values, asked in zip(drawn.groups, logits, drawn.questions, strict=True):
            due = group.labels != -100
            same = values.argmax(-1) == group.labels[due]
            stream = torch.arange(len(part))[:, None, None].expand(due.shape)[due].tolist()
            number = group.question[due].tolist()
            exact: dict[tuple[int, int], bool] = {}
            for s, q, ok in zip(stream, number, same.tolist(), strict=True):
                exact[s, q] = exact.get((s, q), True) and ok
            records += [(part[s], ROW[asked[s][q].type], ok) for (s, q), ok in exact.items()]
        if progress:
            progress(start + len(part), len(seeds))
    return records

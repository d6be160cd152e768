"""What enters the decoder: a gate's answer is applied, tokens get their ids, and a chunk is kept where it is needed."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hermes_lab.engine import finite
from hermes_lab.policies.base import Admission, Arrival, Need, Policy
from hermes_lab.retention import plain_answers
from hermes_lab.retention.calling import Seal, call
from hermes_lab.retention.checks import check_admission
from hermes_lab.segment import Segment, take
from hermes_lab.stream.run import Run
from hermes_lab.stream.state import EncodedChunk, StreamState
from hermes_lab.tokens import Role


@dataclass(frozen=True)
class Entering:
    """The tokens of a chunk that enter the decoder.

    Attributes:
        segment: the tokens, at the positions they had in the chunk.
        ids: their global ids.
        admission: the gate's answer; None: there is no gate.
    """

    segment: Segment
    ids: npt.NDArray[np.int64]
    admission: Admission | None


def enter(run: Run, stream: StreamState, chunk: Segment) -> Entering:
    """Ask the gate, name what it lets in, and count it.

    Raises:
        PolicyError: the policy broke its contract.
        ModelError: the vision encoder's output is not finite.
    """
    frames, first_frame = len(chunk.time_s), stream.frames_seen
    stream.frames_seen += frames
    stream.now_s = float(chunk.time_s[-1])
    visual = (chunk.role == Role.VISUAL) & (chunk.frame == chunk.frame.max())
    stream.tokens_per_frame = int(visual.sum())
    admission = _admit(run, stream, chunk, first_frame)
    segment, admitted = chunk, np.arange(len(chunk))
    if admission is not None:
        admitted = admission.keep.cpu().numpy().astype(np.int64)
        segment = take(chunk, admitted)
        if admission.embeds is not None:
            segment = replace(segment, embeds=admission.embeds)
    ids = _name(stream, segment, first_frame)
    names = np.full(len(chunk), -1, np.int64)
    names[admitted] = ids
    _keep(run, stream, EncodedChunk(chunk, tuple(names.tolist()), first_frame, frames))
    stream.tokens_seen += len(ids)
    return Entering(segment, ids, admission)


def _admit(run: Run, stream: StreamState, chunk: Segment, first_frame: int) -> Admission | None:
    policy = run.policy
    if type(policy).admit is Policy.admit:
        return None
    if not finite.all_finite(chunk.embeds):
        finite.refuse(run.engine.adapter, -1)
    arrival = _arrival(policy, stream, chunk, first_frame)
    shown = [Seal(arrival)]
    admission = call(policy, "admit", None, lambda: policy.admit(arrival, stream.memory), shown)
    # what cannot be copied could be neither undone nor forked
    stream.memory = call(policy, "admit", None, lambda: copy.deepcopy(stream.memory))
    return check_admission(policy, admission, chunk)


def _arrival(policy: Policy, stream: StreamState, chunk: Segment, first_frame: int) -> Arrival:
    """What a gate is shown of a chunk: copies, since the chunk is the caller's and kept for replay."""

    def long(values: npt.NDArray[Any]) -> Tensor:
        return torch.as_tensor(values.astype(np.int64), device=chunk.embeds.device)

    def copied(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.clone()

    times = np.asarray(chunk.time_s, np.float32)
    return Arrival(
        embeds=chunk.embeds.clone(),
        features=copied(chunk.features) if Need.FEATURES in policy.needs else None,
        saliency=copied(chunk.saliency) if Need.SALIENCY in policy.needs else None,
        visual=long(np.flatnonzero(chunk.role == Role.VISUAL)),
        frame=long(np.where(chunk.frame < 0, -1, chunk.frame + first_frame)),
        row=long(chunk.row),
        col=long(chunk.col),
        role=long(chunk.role),
        time_s=torch.as_tensor(times[np.maximum(chunk.frame, 0)], device=chunk.embeds.device),
        step=stream.step,
    )


def _name(stream: StreamState, segment: Segment, first_frame: int) -> npt.NDArray[np.int64]:
    times = np.asarray(segment.time_s, np.float32)
    has_frame = segment.frame >= 0
    return stream.table.append(
        len(segment),
        role=segment.role,
        frame=np.where(has_frame, segment.frame + first_frame, -1),
        time_s=np.where(has_frame, times[np.maximum(segment.frame, 0)], np.nan),
        row=segment.row,
        col=segment.col,
        step=stream.step,
    )


def _keep(run: Run, stream: StreamState, chunk: EncodedChunk) -> None:
    """Keep the chunk as encoded as long as the policy, or a replay, may need it."""
    wanted = plain_answers.read_plan(run.policy).recent_frames
    if not run.keep_visual and not wanted:
        return
    chunks = (*stream.chunks, chunk)
    if not run.keep_visual:
        oldest = stream.frames_seen - wanted
        chunks = tuple(c for c in chunks if c.first_frame + c.frames > oldest)
    stream.chunks = chunks

"""Direct logit attribution: how much each token, through each head, writes towards one answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hermes_lab.lens.linear import ids_by_head, norm_gain, values_by_head, write_weights
from hermes_lab.lens.logits import answer_ids, answer_pair
from hermes_lab.lens.question_pass import question_pass

if TYPE_CHECKING:
    from hermes_lab.session import StreamSession

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DirectAttribution:
    """A logit (or the difference of two) at the question's last token, taken apart.

    The parts add up to `total`: tokens, MLPs, embedding and biases.

    Attributes:
        question: what was asked.
        answer_ids: the token, or the pair of tokens, in question.
        total: the logit (difference) itself.
        tokens: what each cached or question token writes through each head, layer -> [query_head, token].
        ids: global ids of those tokens, -1 for the question's own, layer -> [query_head, token].
        heads: the same summed over tokens, [layer, query_head].
        mlps: what each layer's MLP writes, [layer].
        embedding: what the last token's own embedding contributes.
        biases: of output projections and the head.
    """

    question: str
    answer_ids: tuple[int, ...]
    total: float
    tokens: tuple[FloatArray, ...]
    ids: tuple[IntArray, ...]
    heads: FloatArray
    mlps: FloatArray
    embedding: float
    biases: float


@torch.no_grad()
def direct_attribution(
    session: StreamSession, question: str, answer: str | int, other: str | int | None = None
) -> DirectAttribution:
    """Take apart the logit of an answer's first token, or its difference to another's, at the question's end.

    Norms are held at what they did in this pass, which makes everything after them linear (Elhage et al. 2021,
    "A Mathematical Framework for Transformer Circuits"). Only direct paths count: what a head changes in later
    layers is not attributed to it.

    Raises:
        LabError: the question is empty, an answer has no token, or both begin with the same one.
    """
    engine = session.engine
    chosen = answer_ids(session, answer) if other is None else answer_pair(session, answer, other)
    layers = range(engine.layers)
    last = f"blocks.{engine.layers - 1}.hook_resid_post"
    points = [
        f"blocks.{n}.{point}"
        for n in layers
        for point in ("attn.hook_pattern", "attn.hook_z", "hook_mlp_out")
    ]
    seen = question_pass(session, question, [*points, "blocks.0.hook_resid_pre", last])
    head = cast(Any, engine.adapter.head)
    unembed = _contrast(head.weight, chosen)
    stream = seen.activations[last][0, -1:].to(unembed.device)
    direction = (unembed * norm_gain(cast(Any, engine.adapter.decoder.norm), stream)[0]).float()

    tokens: list[FloatArray] = []
    ids: list[IntArray] = []
    biases = 0.0
    if head.bias is not None:
        biases += float(_contrast(head.bias, chosen))
    for layer in layers:
        state = seen.states[layer]
        pattern = seen.activations[f"blocks.{layer}.attn.hook_pattern"][0, :, -1].float()
        z = seen.activations[f"blocks.{layer}.attn.hook_z"][0, -1:]
        weights, gain = write_weights(session, layer, z)
        towards = gain[0].float() * direction.to(gain.device)
        read = weights.float() @ towards
        values = values_by_head(state, engine.query_heads).float()
        tokens.append((pattern * (values @ read[..., None])[..., 0]).cpu().numpy())
        ids.append(ids_by_head(state, engine.query_heads).cpu().numpy())
        bias = cast(Any, engine.adapter.layers[layer]).self_attn.o_proj.bias
        biases += 0.0 if bias is None else float(bias.float() @ towards)
    mlps = [
        float(seen.activations[f"blocks.{n}.hook_mlp_out"][0, -1].float().to(direction.device) @ direction)
        for n in layers
    ]  # fmt: skip
    logits = engine.logits(seen.hidden[-1:])[0]
    start = seen.activations["blocks.0.hook_resid_pre"][0, -1].float().to(direction.device)
    return DirectAttribution(
        question=question,
        answer_ids=chosen,
        total=float(_contrast(logits, chosen)),
        tokens=tuple(tokens),
        ids=tuple(ids),
        heads=np.stack([one.sum(-1) for one in tokens]),
        mlps=np.array(mlps, np.float32),
        embedding=float(start @ direction),
        biases=biases,
    )


def _contrast(of_vocabulary: Tensor, chosen: tuple[int, ...]) -> Tensor:
    """The entry of one token, or of the first of two minus that of the second."""
    picked = of_vocabulary[list(chosen)]
    return picked[0] if len(picked) == 1 else picked[0] - picked[1]

"""Direct logit attribution: how much each token, through each head, writes towards one answer.

1. One pass of the question over the memory; norms are held at what they did in it.
2. The answer's row of the unembedding, carried back through the final norm, is a direction in the residual stream.
3. What is written along it adds up to the logit: the embedding, each head, each MLP, the biases.
4. A head's part is the sum over the tokens it reads: pattern times value times output projection, and times the
   norm that follows the projection in Gemma 3.

Example::

    import hermes_lab
    from hermes_lab import StreamSession, lens, video

    run = StreamSession(hermes_lab.load("pocket"), policy="full")
    for chunk in video.open("world:seed=11,frames=32").chunks(16):
        run.feed(chunk)
    found = lens.direct_attribution(run, "what is the scene now", "city", "forest")
    for label, value in found.top(5):
        print(f"{label:>16}: {value:+.3f}")
    assert abs(found.parts.sum() - found.total) < 1e-3
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hermes_lab.engine.upstream import block_of, output_projection
from hermes_lab.lens.linear import ids_by_head, norm_gain, values_by_head, write_weights
from hermes_lab.lens.logits import Answers, answer_ids, answer_pair
from hermes_lab.stream.question_pass import question_pass

if TYPE_CHECKING:
    from hermes_lab.stream.session import StreamSession

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DirectAttribution:
    """A logit (or its difference to others) at the question's last token, taken apart.

    Attributes:
        question: what was asked.
        answer_ids: the token in question, then those that it is compared with.
        total: the logit (difference) itself; `parts` add up to it.
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

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each of `parts`."""
        layers, heads = self.heads.shape
        return (
            "embedding",
            *(f"layer {n} head {h}" for n in range(layers) for h in range(heads)),
            *(f"layer {n} MLP" for n in range(layers)),
            "biases",
        )

    @property
    def parts(self) -> npt.NDArray[np.float64]:
        """What adds up to `total`, in the order of `labels`, [part]."""
        return np.array([self.embedding, *self.heads.ravel(), *self.mlps, self.biases], np.float64)

    def top(self, k: int = 10) -> list[tuple[str, float]]:
        """The `k` parts that count most, for or against the answer: (label, value), the largest first."""
        values, labels = self.parts, self.labels
        order = np.argsort(-np.abs(values), kind="stable")[:k]
        return [(labels[i], float(values[i])) for i in order]


@torch.no_grad()
def direct_attribution(
    session: StreamSession, question: str, answer: str | int, other: Answers = None
) -> DirectAttribution:
    """Take apart the logit of an answer's first token, or its difference to others', at the question's end.

    Norms are held at what they did in this pass, which makes everything after them linear (Elhage et al. 2021,
    "A Mathematical Framework for Transformer Circuits"). Only direct paths count: what a head changes in later
    layers is not attributed to it.

    Args:
        question: plain text.
        answer: a text (its first token counts) or a token id.
        other: what to compare it with; of several, the mean of their logits counts, each first token once.

    Raises:
        LabError: the question is empty, an answer has no token, or another begins with the same one.
    """
    engine = session.engine
    chosen = _chosen(session, answer, other)
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
        projection = output_projection(block_of(engine.adapter.layers[layer]).attention)
        bias = cast("Tensor | None", projection.bias)
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


def _chosen(session: StreamSession, answer: str | int, other: Answers) -> tuple[int, ...]:
    """First tokens of the answer and of what it is compared with."""
    if other is None:
        return answer_ids(session, answer)
    others = [other] if isinstance(other, str | int) else list(other)
    answer_ids(session, others)  # says so where there are none
    return tuple(
        dict.fromkeys(token for one in others for token in answer_pair(session, answer, one))
    )


def _contrast(of_vocabulary: Tensor, chosen: tuple[int, ...]) -> Tensor:
    """The entry of the first token, less the mean of the others' where there are any."""
    picked = of_vocabulary[list(chosen)].float()
    return picked[0] if len(picked) == 1 else picked[0] - picked[1:].mean(0)

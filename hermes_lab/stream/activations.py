"""TransformerLens' `ActivationCache` of a question over the ragged cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from hermes_lab.engine.upstream import block_of
from hermes_lab.engine.weights import norm_behind, output_weights
from hermes_lab.errors import LabError
from hermes_lab.stream.question_pass import NamesFilter, question_pass
from hermes_lab.stream.reading import logits_of

if TYPE_CHECKING:
    from transformer_lens import ActivationCache

    from hermes_lab.stream.session import StreamSession


def activation_cache(
    session: StreamSession, question: str, names_filter: NamesFilter = None
) -> tuple[Float[Tensor, "1 new vocabulary"], ActivationCache]:
    """Logits of a question's turn, and its activations under TransformerLens' names.

    Key axes of `hook_pattern` and `hook_attn_scores` are as long as each layer's own memory; which tokens they
    are is in `session.layer_ids(layer)`, followed by the question's tokens. The cache's `model` carries what
    TransformerLens' residual-stream tools read (`cfg`, `W_U`, `blocks[l].attn.W_O`), not a runnable model; use
    `hermes_lab.lens.bridge` for one. On Gemma 3, whose heads write through a norm, `W_O` and so the cache's
    `stack_head_results` raise a `LabError` instead of leaving that norm out.

    Args:
        question: plain text.
        names_filter: a hook name, several, or a predicate over names; None: all of them.

    Raises:
        LabError: the question is empty, or a hook name is unknown.
    """
    from transformer_lens import ActivationCache

    seen = question_pass(session, question, names_filter)
    logits = logits_of(session.engine, seen.hidden, session.board)[None]
    return logits, ActivationCache(seen.activations, weights_view(session))


def weights_view(session: StreamSession) -> Any:
    """A stand-in for a TransformerLens model: its configuration and weights, in TransformerLens' layout."""
    engine = session.engine
    adapter = engine.adapter
    head = cast(Any, adapter.head)
    unembed = cast(Tensor, head.weight).T
    bias = cast("Tensor | None", getattr(head, "bias", None))
    description = session.lab.describe()
    config = SimpleNamespace(
        n_layers=engine.layers,
        n_heads=engine.query_heads,
        n_key_value_heads=engine.kv_heads,
        d_head=description["head_dim"],
        d_model=int(unembed.shape[0]),
        d_vocab=int(unembed.shape[1]),
        attn_only=False,
        normalization_type="RMS",
        final_rms=True,
        model_name=adapter.name,
        device=adapter.device,
        dtype=adapter.dtype,
    )
    blocks = [
        SimpleNamespace(attn=_AttentionView(layer, adapter.family)) for layer in adapter.layers
    ]
    return SimpleNamespace(
        cfg=config,
        blocks=blocks,
        W_U=unembed,
        b_U=bias if bias is not None else unembed.new_zeros(unembed.shape[1]),
        ln_final=adapter.decoder.norm,
        tokens_to_residual_directions=partial(_directions, unembed),
    )


@dataclass(frozen=True)
class _AttentionView:
    """What TransformerLens' tools read of a decoder layer's attention."""

    block: Any
    family: str

    @property
    def W_O(self) -> Float[Tensor, "query_head dim hidden"]:
        """The output projection by head, where it alone says what a head writes."""
        if norm_behind(self.block) is not None:
            raise LabError(
                f"What a head of {self.family} writes is not its z times W_O, since a norm follows; "
                "use lens.value_weighted or lens.direct_attribution, which count the norm in."
            )
        return output_weights(block_of(self.block).attention)


def _directions(unembed: Tensor, tokens: Any) -> Tensor:
    return unembed.T[torch.as_tensor(tokens, device=unembed.device)]

"""What a decoder layer writes with: its output projection by head, and the norm that may follow it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from hermes_lab.engine.upstream import block_of, head_dim, output_projection


def output_weights(attention: nn.Module) -> Float[Tensor, "query_head dim hidden"]:
    """The output projection of an attention module, head by head, without what may follow it (`norm_behind`)."""
    return output_projection(attention).weight.T.unflatten(0, (-1, head_dim(attention)))


def norm_behind(block: nn.Module) -> nn.Module | None:
    """The norm between a decoder layer's output projection and the residual stream (Gemma 3), or None."""
    return block_of(block).attention_out_norm

"""The one door to transformers' decoders: how they are called, and proof that they did what was asked.

transformers renames arguments, moves work between modules and swallows keywords that it does not know, so a call
that was right in one release can lose the memory, or turn keys by other angles, in the next one without an error.
Everything that depends on the way a decoder is called is in this file. Names are chosen by signature, never by
version number, and what the engine relies on is checked after each pass (see the `check_` functions).
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from hermes_lab.errors import ModelError

Tables = tuple[Float[Tensor, "1 token rotary"], Float[Tensor, "1 token rotary"]]

CACHE_NAMES = ("cache", "past_key_values")  # newest first: 5.24 takes both, and warns of the second
ROTATION_TOLERANCE = (
    0.3  # of what turning changes; right keys are off by rounding, others by about all of it
)


def versions() -> str:
    """The library that an error is about, for its sentence."""
    return f"transformers {version('transformers')}"


# --- calls -------------------------------------------------------------------------------------
def cache_keyword(module: nn.Module) -> str:
    """The name under which a module's forward takes the KV cache.

    Raises:
        ModelError: it has none of the names that are known.
    """
    return _cache_keyword(type(module))


@lru_cache(maxsize=256)
def _cache_keyword(kind: type[nn.Module]) -> str:
    taken = inspect.signature(kind.forward).parameters
    for name in CACHE_NAMES:
        if name in taken:
            return name
    raise ModelError(
        f"{kind.__name__} of {versions()} takes its KV cache under none of the names {', '.join(CACHE_NAMES)}, so "
        "it cannot be streamed; `hermes-lab doctor` lists the versions that were tested."
    )


def run_decoder(
    decoder: nn.Module,
    cache: Cache,
    embeds: Float[Tensor, "new hidden"],
    positions: Int[Tensor, "axis _ new"] | Int[Tensor, "1 new"],
    **extra: Any,
) -> Float[Tensor, "new hidden"]:
    """One forward of new tokens; their keys and values are in the cache afterwards.

    Args:
        extra: what the family's decoder takes besides (DeepStack features).

    Returns:
        normalised hidden states.
    """
    call = cast(Callable[..., Any], decoder)
    given = {cache_keyword(decoder): cache}
    out = call(inputs_embeds=embeds[None], position_ids=positions, use_cache=True, **given, **extra)
    return cast(Tensor, out.last_hidden_state)[0]


def run_layer(
    layer: nn.Module,
    cache: Cache,
    hidden: Float[Tensor, "1 new hidden"],
    positions: Int[Tensor, "1 new"],
    tables: Tables,
) -> Float[Tensor, "1 new hidden"]:
    """One decoder layer alone, without any mask of transformers'."""
    call = cast(Callable[..., Any], layer)
    given = {cache_keyword(layer): cache}
    out = call(
        hidden, attention_mask=None, position_ids=positions, position_embeddings=tables, **given
    )
    return cast(Tensor, out[0] if isinstance(out, tuple) else out)


def hidden_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Float[Tensor, "1 new hidden"]:
    """The hidden states that an attention module is called with."""
    return cast(Tensor, kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])


def with_tables(kwargs: Mapping[str, Any], tables: Tables, device: torch.device) -> dict[str, Any]:
    """An attention module's keywords with other rotary tables than the decoder made."""
    cos, sin = tables
    return {**kwargs, "position_embeddings": (cos.to(device), sin.to(device))}


def set_attention(model: nn.Module, name: str) -> None:
    """Have a model compute attention by a registered function of that name.

    Raises:
        ModelError: the model cannot be told so.
    """
    if isinstance(model, PreTrainedModel):
        model.set_attn_implementation(name)
    if not has_attention(model, name):
        raise ModelError(
            f"{type(model).__name__} of {versions()} does not let its attention be replaced, so it cannot be "
            "streamed; `hermes-lab doctor` lists the versions that were tested."
        )


def has_attention(model: nn.Module, name: str) -> bool:
    """Whether a model computes attention by the function of that name."""
    return getattr(cast(Any, model).config, "_attn_implementation", None) == name


# --- parts -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Block:
    """The parts of one decoder layer, under names that do not depend on the family.

    Attributes:
        attention, mlp: what adds to the residual stream.
        attention_norm, mlp_norm: norms of what the two read.
        attention_out_norm, mlp_out_norm: norms of what the two add, in families that have them (Gemma 3).
    """

    attention: nn.Module
    mlp: nn.Module
    attention_norm: nn.Module
    mlp_norm: nn.Module
    attention_out_norm: nn.Module | None = None
    mlp_out_norm: nn.Module | None = None


def block_of(layer: nn.Module) -> Block:
    """The parts of a decoder layer.

    Raises:
        ModelError: a part is missing: the layer is of a kind that is not known.
    """
    parts = dict(layer.named_children())
    try:
        if "pre_feedforward_layernorm" in parts:
            return Block(
                attention=parts["self_attn"],
                mlp=parts["mlp"],
                attention_norm=parts["input_layernorm"],
                mlp_norm=parts["pre_feedforward_layernorm"],
                attention_out_norm=parts["post_attention_layernorm"],
                mlp_out_norm=parts["post_feedforward_layernorm"],
            )
        return Block(
            attention=parts["self_attn"],
            mlp=parts["mlp"],
            attention_norm=parts["input_layernorm"],
            mlp_norm=parts["post_attention_layernorm"],
        )
    except KeyError as error:
        raise ModelError(
            f"{type(layer).__name__} of {versions()} has no {error.args[0]}, so it cannot be streamed; every layer "
            "must have attention with keys and an MLP."
        ) from error


def layer_index(attention: nn.Module) -> int:
    """Which layer an attention module belongs to."""
    return int(cast(Any, attention).layer_idx)


def head_dim(attention: nn.Module) -> int:
    """Size of one head."""
    return int(cast(Any, attention).head_dim)


def score_scale(attention: nn.Module) -> float:
    """What scores are multiplied by before the softmax."""
    return float(cast(Any, attention).scaling)


def project(
    attention: nn.Module, hidden: Float[Tensor, "1 token hidden"], letter: str
) -> Float[Tensor, "1 head token dim"]:
    """Queries ("q") or keys ("k") before rotation, normalised where the family does."""
    module = cast(Any, attention)
    heads = getattr(module, f"{letter}_proj")(hidden).unflatten(-1, (-1, head_dim(attention)))
    norm = head_norm(attention, letter)
    return (heads if norm is None else norm(heads)).transpose(1, 2)


def head_norm(attention: nn.Module, letter: str) -> nn.Module | None:
    """The norm of each head's queries ("q") or keys ("k"), in families that have one."""
    norm = getattr(attention, f"{letter}_norm", None)
    return norm if isinstance(norm, nn.Module) else None


def output_projection(attention: nn.Module) -> nn.Linear:
    """What maps the heads' outputs to the residual stream."""
    return cast(nn.Linear, attention.o_proj)


# --- rotary positions --------------------------------------------------------------------------
def takes_layer_type(rotary: nn.Module) -> bool:
    """Whether a rotary module has tables for several kinds of layer."""
    return "layer_type" in inspect.signature(type(rotary).forward).parameters


def rotary_tables(
    rotary: nn.Module,
    positions: Int[Tensor, "axis token"],
    dtype: torch.dtype,
    layer_type: str | None,
) -> Tables:
    """Cosines and sines of positions, as the model's attention takes them; three axes are M-RoPE's."""
    where = positions[:, None] if positions.shape[0] == 3 else positions
    like = torch.empty(1, dtype=dtype, device=positions.device)
    extra = () if layer_type is None else (layer_type,)
    return cast(Tables, cast(Any, rotary)(like, where, *extra))


@dataclass(frozen=True)
class FixedRotary:
    """A rotary module whose frequencies stay as they are.

    Attributes:
        module: called as the model's own.
        limit: positions within which its tables are the model's own; None: all.
    """

    module: nn.Module
    limit: int | None


def fixed_rotary(rotary: nn.Module) -> FixedRotary:
    """A copy of a rotary module that keeps the frequencies it was made with.

    Some variants change them with the largest position they have seen: "dynamic" beyond the model's length, "longrope"
    beyond the length it was first trained for. Keys that were cached before would then be turned by other tables
    than they were made with, and, since streams share the model's module, in other streams too.
    """
    fixed = copy.deepcopy(rotary)
    own: Any = fixed
    known = getattr(rotary, "rope_type", "default")
    kinds: dict[str | None, str] = known if isinstance(known, dict) else {None: str(known)}
    limits: list[int] = []
    for layer_type, kind in kinds.items():
        if "dynamic" not in kind and kind != "longrope":
            continue
        prefix = "" if layer_type is None else f"{layer_type}_"
        settings = own.config.rope_parameters
        settings = settings if layer_type is None else settings[layer_type]
        length = settings.get("original_max_position_embeddings") if kind == "longrope" else None
        limits.append(int(length or own.original_max_seq_len))
        frequencies = getattr(own, f"{prefix}inv_freq")
        original = getattr(own, f"{prefix}original_inv_freq").to(frequencies)
        fixed.register_buffer(f"{prefix}inv_freq", original.clone(), persistent=False)
    if limits:  # a kind that nothing recomputes
        own.rope_type = dict.fromkeys(kinds, "default") if isinstance(known, dict) else "default"
    return FixedRotary(fixed, min(limits, default=None))


def turn(
    x: Float[Tensor, "*batch token dim"],
    cos: Float[Tensor, "*_ token rotary"],
    sin: Float[Tensor, "*_ token rotary"],
) -> Float[Tensor, "*batch token dim"]:
    """Rotate queries or keys by rotary tables, fp32; dimension i is paired with i + rotary / 2."""
    rotary = cos.shape[-1]
    part = x[..., :rotary].float()
    first, second = part.chunk(2, -1)
    turned = part * cos + torch.cat((-second, first), -1) * sin
    return turned if rotary == x.shape[-1] else torch.cat([turned, x[..., rotary:].float()], -1)


# --- proof -------------------------------------------------------------------------------------
def check_rotation(
    attention: nn.Module,
    hidden: Float[Tensor, "1 new hidden"],
    tables: Tables,
    seen: Float[Tensor, "1 kv_head new dim"],
) -> None:
    """Whether attention turned new keys by the tables that it was handed, in the layout that `turn` assumes.

    The difference is measured against what turning does to the keys at all, every dimension by its own size, so
    that neither a low precision nor a few large channels decide.

    Raises:
        ModelError: it did not, so that re-indexed keys would be wrong without an error.
    """
    cos, sin = (table[:, None].float().to(hidden.device) for table in tables)
    bare = project(attention, hidden, "k").float()
    expected = turn(bare, cos, sin)
    size = expected.square().mean(2, keepdim=True).sqrt() + 1e-9
    off = ((expected - seen.float().to(expected.device)) / size).norm()
    moved = ((expected - bare) / size).norm()
    if not math.isfinite(float(off)):
        return  # activations that overflow say nothing of rotation; the pass itself tells that they do
    if not bool(off <= ROTATION_TOLERANCE * moved):
        raise ModelError(
            f"{type(attention).__name__} of {versions()} does not turn its keys by the rotary tables that it is "
            "given, or pairs other dimensions than the two halves of a head, so positions would be wrong without "
            "an error; `hermes-lab doctor` lists the versions that were tested."
        )


def check_grown(held: Sequence[int], now: Sequence[int], new: int) -> None:
    """Whether each layer of a cache grew by the tokens that were fed.

    Raises:
        ModelError: a layer did not: the decoder ran on a cache of its own.
    """
    for layer, (before, after) in enumerate(zip(held, now, strict=True)):
        if after != before + new:
            raise ModelError(
                f"Layer {layer} holds {after} keys after {new} tokens were fed to the {before} it held: the decoder "
                f"of {versions()} did not use the stream's KV cache; `hermes-lab doctor` lists the versions that "
                "were tested."
            )


def check_served(served: int, layers: int) -> None:
    """Whether every layer's attention was computed by the stream's own function.

    Raises:
        ModelError: some were not.
    """
    if served != layers:
        raise ModelError(
            f"The attention of {served} of {layers} layers went through the stream: {versions()} calls it in "
            "another way than this engine knows; `hermes-lab doctor` lists the versions that were tested."
        )

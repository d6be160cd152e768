"""TransformerLens' own `TransformerBridge` on a session's weights and memory.

The bridge wraps modules in place and re-implements attention for most families, so it gets a twin of the model:
the same weights, other modules. Every layer is given the positions and the memory that the session's own pass
gives it, hence the bridge's logits are the session's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface

from hermes_lab.engine import upstream
from hermes_lab.engine.attention import mask_of, pattern_of, weigh
from hermes_lab.engine.cache import StreamCache
from hermes_lab.engine.cursor import Cursor
from hermes_lab.engine.forward import Engine
from hermes_lab.engine.passes import Knockout, Pass, Wants, current_pass, running
from hermes_lab.errors import LabError
from hermes_lab.lens.fence import fenced
from hermes_lab.models.twin import twin_of
from hermes_lab.segment import Segment
from hermes_lab.stream.question_pass import NamesFilter, question_pass

if TYPE_CHECKING:
    from transformer_lens import ActivationCache
    from transformer_lens.model_bridge import TransformerBridge

    from hermes_lab.stream.session import StreamSession

NAME = "hermes_lab_bridge"
PROOF_GAP = 29  # positions between the prefix and the question when a fresh bridge is compared
PROOF_TOLERANCE = (
    1e-4  # relative, in fp32; coarser dtypes are allowed as much more as they are coarser
)
FwdHooks = Sequence[tuple[str | Callable[[str], bool], Callable[..., Any]]]

_BOOTED: WeakKeyDictionary[Engine, TransformerBridge] = WeakKeyDictionary()


@dataclass(frozen=True)
class SessionBridge:
    """A `TransformerBridge` that reads a session's memory.

    Attributes:
        model: TransformerLens' bridge, with its own hook names (`model.hook_dict`). Edits in its hooks change
            what it computes, never the session.
        session: whose memory is read, as it is at each call.
    """

    model: TransformerBridge
    session: StreamSession

    def __call__(self, question: str) -> Float[Tensor, "1 new vocabulary"]:
        """Logits of a question's turn; equal to the session's own."""
        with self.reading(question) as (embeds, inputs):
            return self.model(embeds, **inputs)

    def run_with_cache(
        self, question: str, names_filter: NamesFilter = None
    ) -> tuple[Float[Tensor, "1 new vocabulary"], ActivationCache]:
        """Logits of a question's turn, and its activations under the bridge's names."""
        with self.reading(question) as (embeds, inputs):
            return cast(Any, self.model).run_with_cache(embeds, names_filter=names_filter, **inputs)

    def run_with_hooks(
        self, question: str, fwd_hooks: FwdHooks
    ) -> Float[Tensor, "1 new vocabulary"]:
        """Logits of a question's turn with hooks on the bridge's hook points."""
        with self.reading(question) as (embeds, inputs):
            return cast(Any, self.model).run_with_hooks(embeds, fwd_hooks=list(fwd_hooks), **inputs)

    @contextmanager
    def reading(
        self, question: str
    ) -> Generator[tuple[Float[Tensor, "1 new hidden"], dict[str, Any]]]:
        """Inputs of one forward of `model` inside the block: `model(embeds, **inputs)`, once.

        Whatever of TransformerLens takes a model's inputs can be run so, `stop_at_layer` and the like included.
        """
        session, engine = self.session, self.session.engine
        segment = engine.adapter.question(question)
        seen = question_pass(session, question, ())
        new = len(segment)
        before = [
            replace(
                state,
                keys=None if state.keys is None else state.keys[:, :, : state.tokens - new],
                values=None if state.values is None else state.values[:, :, : state.tokens - new],
                ids=state.ids[:, : state.tokens - new],
                positions=state.positions[..., : state.tokens - new],
                carried={},
                archive=(),
            )
            for state in seen.states
        ]
        positions = [state.positions[0, :, state.tokens - new :] for state in seen.states]
        cache, knockouts = StreamCache(before), session.knockouts
        with _serving(self.model, engine, cache, segment, positions, knockouts) as inputs:
            yield segment.embeds[None], inputs


@contextmanager
def _serving(
    model: TransformerBridge,
    engine: Engine,
    cache: StreamCache,
    segment: Segment,
    positions: Sequence[Int[Tensor, "axis new"]],
    knockouts: Sequence[Knockout] = (),
) -> Generator[dict[str, Any]]:
    """Keywords of one forward of a bridge over `cache` inside the block, each layer at its own positions.

    Raises:
        ModelError: a layer that ran attended to the new tokens alone: a bridge that forgets is never silent.
    """
    tables = [engine.rope.tables(at, n, segment.embeds.dtype) for n, at in enumerate(positions)]
    current = Pass(cache, "question", list(positions), tables, Wants(knockouts=knockouts))
    first = positions[0][:, None] if engine.rope.axes == 3 else positions[0]
    named = {upstream.cache_keyword(model.original_model): cache}
    with torch.no_grad(), running(current):
        yield named | {"position_ids": first, "use_cache": True}
    ran = cache.stream_layers[: current.served]
    held, now = [layer.state.tokens for layer in ran], [layer.stored for layer in ran]
    upstream.check_grown(held, now, len(segment))


def bridge(session: StreamSession) -> SessionBridge:
    """TransformerLens' bridge on the same weights (no second copy in memory) and on this session's memory.

    The session's own hooks stay silent in it. Do not call its `enable_compatibility_mode`: that folds norms
    into the weights, and so makes a second copy of them. Where TransformerLens leaves attention to transformers
    (Qwen-VL), its attention hooks are fired from here, so that edits count there too.

    Raises:
        LabError: TransformerLens knows no architecture like the model's, or computes other logits with it.
    """
    engine = session.engine
    if engine not in _BOOTED:
        _BOOTED[engine] = _boot(engine)
    return SessionBridge(_BOOTED[engine], session)


def _boot(engine: Engine) -> TransformerBridge:
    from hermes_lab.lens.architectures import architecture_for

    architecture, adapter_class = architecture_for(engine.adapter)
    with fenced([adapter_class]):
        from transformer_lens.model_bridge import TransformerBridge
        from transformer_lens.model_bridge.sources.transformers.source import boot

        twin = twin_of(engine.adapter.model)
        decoder = replace(engine.adapter, model=twin).decoder
        architectures = twin.config.architectures
        twin.config.architectures = [architecture]  # a relative that TransformerLens knows
        try:
            model = boot(
                engine.adapter.name or architecture,
                hf_model=twin,
                tokenizer=copy.deepcopy(engine.adapter.tokenizer),
                dtype=engine.adapter.dtype,
            )
        except Exception as error:  # whatever another library's boot may raise
            first_line = (str(error).splitlines() or [""])[0]
            raise LabError(
                f"TransformerLens cannot boot {engine.adapter.name or engine.adapter.family}: "
                f"{type(error).__name__}: {first_line}. Use the session's own hooks instead."
            ) from error
        finally:
            twin.config.architectures = architectures
    assert isinstance(model, TransformerBridge)
    for layer, block in enumerate(cast(Any, model).blocks):
        block.attn.register_forward_pre_hook(_Placing(layer), with_kwargs=True)
        if not _reimplements(block.attn):
            block.attn.original_component.accepts_pattern_fn = True
            upstream.set_attention(decoder, NAME)
    _prove(model, engine)
    return model


def _reimplements(module: nn.Module) -> bool:
    """Whether the bridge computes attention itself, in place of transformers' module."""
    from transformer_lens.model_bridge.generalized_components.position_embeddings_attention import (
        PositionEmbeddingsAttentionBridge,
    )

    return isinstance(module, PositionEmbeddingsAttentionBridge)


class _Placing:
    """Gives one layer of the bridge the rotary tables and the mask of the pass that is being served."""

    def __init__(self, layer: int) -> None:
        self._layer = layer

    def __call__(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        current = current_pass()
        if current is None:
            return args, kwargs
        hidden = upstream.hidden_of(args, kwargs)
        current.served += 1
        given = upstream.with_tables(kwargs, current.tables[self._layer], hidden.device)
        if not _reimplements(module):
            return args, given | {"bridged": module}
        config = cast(Any, module).original_component.config
        shape = hidden.new_empty(0).expand(1, config.num_attention_heads, hidden.shape[1], 0)
        tokens = current.cache.stream_layers[self._layer].state.tokens + hidden.shape[1]
        mask = mask_of(current, self._layer, shape, tokens)
        # TransformerLens looks the cache up by name, and its release may know another one than transformers'
        named = dict.fromkeys(upstream.CACHE_NAMES, current.cache)
        return args, given | named | {"attention_mask": mask}


def _prove(model: TransformerBridge, engine: Engine) -> None:
    """Compare a fresh bridge with the engine on one question over a short memory, at positions with a gap.

    Raises:
        LabError: its logits are others.
    """
    adapter, cache = engine.adapter, engine.new_cache()
    prefix, question = adapter.prefix(), adapter.question("what is this")
    if len(prefix):
        engine.forward(cache, prefix, "prefix")
    cache.states = [replace(s, cursor=Cursor(s.cursor.next + PROOF_GAP)) for s in cache.states]
    positions = engine.place(cache.states, question, question.embeds.dtype)[0]
    twin = cache.beside()
    expected = engine.logits(engine.forward(cache, question, "question"))
    with _serving(model, engine, twin, question, positions) as inputs:
        found = cast(Any, model)(question.embeds[None], **inputs)[0].float()
    off = float((found - expected.to(found.device)).abs().max() / expected.abs().max())
    allowed = PROOF_TOLERANCE * torch.finfo(adapter.dtype).eps / torch.finfo(torch.float32).eps
    if not off <= allowed:
        raise LabError(
            f"TransformerLens {version('transformer-lens')} computes other logits for {adapter.name or adapter.family} "
            f"than {upstream.versions()} does (off by {off:.1%}), so it cannot be bridged; use the session's own hooks, "
            "session.hooks() and session.run_with_cache(). `hermes-lab doctor` lists the versions that were tested."
        )


def bridged_attention(
    module: nn.Module,
    query: Float[Tensor, "1 query_head new dim"],
    key: Float[Tensor, "1 kv_head token dim"],
    value: Float[Tensor, "1 kv_head token dim"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    bridged: Any = None,
    pattern_fn: Callable[[Tensor], Tensor] | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "1 new query_head dim"], None]:
    """Attention written out, through the bridge's hooks, where the bridge leaves attention to transformers."""
    current = current_pass()
    mask = attention_mask
    if current is not None:
        mask = mask_of(current, upstream.layer_index(module), query, key.shape[2])
    on_scores = None
    if bridged is not None:
        old = key.shape[2] - query.shape[2]
        query = bridged.hook_rot_q(query)
        key = torch.cat([key[:, :, :old], bridged.hook_rot_k(key[:, :, old:])], 2)
        on_scores = bridged.hook_attn_scores
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return weigh(pattern_of(query, key, mask, scale, on_scores, pattern_fn), value), None


AttentionInterface.register(NAME, bridged_attention)

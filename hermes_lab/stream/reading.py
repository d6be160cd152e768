"""How a question reads the memory: straight from the cache, over recalled tokens, or beside fresh frames.

Everything here happens on `StreamState.beside()`: what a question does to its cache, the stream never sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from hermes_lab.engine import finite, upstream
from hermes_lab.engine.cache import Archive, LayerState, StreamCache
from hermes_lab.engine.cursor import Cursor
from hermes_lab.engine.forward import Engine
from hermes_lab.engine.hooks import HookBoard
from hermes_lab.engine.passes import Pass, Wants
from hermes_lab.engine.rope import compact_contiguous
from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import Codec, Policy, RecallView
from hermes_lab.retention import plain_answers
from hermes_lab.retention.calling import FLOATS, Seal, call, refuse, tensor
from hermes_lab.retention.checks import Candidates, check_indices
from hermes_lab.retention.positions import behind
from hermes_lab.retention.views import Evidence, view_of
from hermes_lab.segment import Segment, frames_of
from hermes_lab.stream.state import StreamState
from hermes_lab.tokens import Role


@dataclass(frozen=True)
class Reader:
    """Sets the cache up for a question and prefills it; `stream` is the question's own."""

    engine: Engine
    stream: StreamState
    policy: Policy
    seed: int

    def prefill(self, question: Segment, wants: Wants) -> Float[Tensor, "new hidden"]:
        """Prefill the question over what the policy lets it read.

        Raises:
            PolicyError: the policy broke its contract.
            ModelError: the model's activations are not finite.
        """
        adapter, cache = self.engine.adapter, self.stream.cache
        with finite.blame(adapter, cache, wants.board):
            hidden = self._prefill(question, wants)
        finite.check_pass(adapter, hidden, cache.states, wants.board)
        return hidden

    def _prefill(self, question: Segment, wants: Wants) -> Float[Tensor, "new hidden"]:
        plan = plain_answers.read_plan(self.policy)
        cache = self.stream.cache
        fresh = self._fresh(plan.recent_frames, wants) if plan.recent_frames else None
        first = self.stream.frames_seen - plan.recent_frames if plan.replaces and fresh else None
        recalls = self.policy.recalls and plan.use_cache
        if not recalls:
            states: list[LayerState] = []
            for layer, state in enumerate(cache.states):
                base = state if plan.use_cache else self.stream.prefix[layer]
                base = self._without(base, first)
                states.append(base if fresh is None else self._beside(layer, base, fresh[layer]))
            cache.states = states
            return self.engine.forward(cache, question, "question", wants=wants)

        def recall(current: Pass, layer: int, module: nn.Module, hidden: Tensor) -> None:
            state = self._recalled(layer, module, hidden)
            state = self._without(state, first)
            if fresh is not None:
                state = self._beside(layer, state, fresh[layer])
            cache.stream_layers[layer].state = state
            self.engine.place_layer(current, layer, question)

        wants = replace(wants, before_attention=recall)
        return self.engine.forward(cache, question, "question", wants=wants)

    # --- frames read afresh ------------------------------------------------------------------
    def _fresh(self, frames: int, wants: Wants) -> tuple[LayerState, ...]:
        """Prefill the last frames on the system prefix alone (SimpleStream; DSCache's instant cache)."""
        cache = self.stream.cache
        kept = cache.states
        cache.states = self.stream.prefix
        first = self.stream.frames_seen - frames
        for chunk in self.stream.chunks:
            if chunk.first_frame + chunk.frames <= first:
                continue
            segment, ids = chunk.segment, torch.tensor(chunk.ids)
            if chunk.first_frame < first:
                segment = frames_of(segment, first - chunk.first_frame)
                ids = ids[len(ids) - len(segment) :]
            quiet = Wants(board=wants.board)
            self.engine.forward(cache, segment, "chunk", ids, quiet)
        fresh = cache.states
        cache.states = kept
        return fresh

    def _beside(self, layer: int, base: LayerState, fresh: LayerState) -> LayerState:
        """Put freshly prefilled tokens behind what a layer holds, re-rotated to follow it."""
        protected = self.stream.protected
        if base.tokens == protected:
            return fresh
        assert fresh.keys is not None and fresh.values is not None
        old = fresh.positions[..., protected:]
        new = old.clone()
        start = self.stream.prefix[layer].cursor.next
        video = base.cursor.video
        if fresh.cursor.video is not None and video is not None:
            new[:, 0] += video[0] - start
        else:
            new += base.cursor.next - start
        keys = self.engine.rope.rotate(fresh.keys[0, :, protected:], old, new, layer)
        state = base.append(keys, fresh.values[0, :, protected:], fresh.ids[0, protected:], new[0])
        return replace(state, cursor=behind(state, state.positions, protected))

    def _without(self, state: LayerState, first_frame: int | None) -> LayerState:
        """Leave out cached tokens of frames that are read afresh."""
        if first_frame is None:
            return state
        frame = self.stream.table.column("frame")[state.ids.clamp(min=0).cpu().numpy()]
        keep = torch.as_tensor(frame < first_frame) | (state.ids.cpu() < 0)
        counts = keep.sum(1)
        if not bool((counts == counts[0]).all()):
            raise PolicyError(
                f"Policy {self.policy.name!r} wants recent frames replaced, but its KV heads hold different "
                "numbers of their tokens; use it with replaces=False."
            )
        index = keep.nonzero()[:, 1].reshape(keep.shape[0], -1).to(state.ids.device)
        return state.select(index)

    # --- recall --------------------------------------------------------------------------------
    def _recalled(self, layer: int, module: nn.Module, hidden: Tensor) -> LayerState:
        protected = self.stream.protected
        stored = self._stored(layer, self.stream.cache.stream_layers[layer].state)
        view = view_of(
            self.engine, self.stream, stored, layer,
            policy=self.policy, evidence=Evidence.empty(self.engine.layers), seed=self.seed,
        )  # fmt: skip
        queries = upstream.project(module, hidden, "q")[0]
        known, asked = Candidates.of(view), RecallView(queries, view)
        shown = [Seal(asked), Seal(view)]
        chosen = call(self.policy, "recall", layer, lambda: self.policy.recall(asked), shown)
        if chosen is not None:
            [chosen] = check_indices(self.policy, "recall", [known], [chosen])
            heads = max(chosen.shape[0], stored.ids.shape[0])
            prefix = torch.arange(protected, device=chosen.device).expand(heads, -1)
            stored = stored.select(torch.cat([prefix, chosen.expand(heads, -1) + protected], 1))
        if stored.keys is None:
            return stored
        new = compact_contiguous(stored.positions, protected)
        keys = self.engine.rope.rotate(stored.keys[0], stored.positions, new, layer)[None]
        moved = replace(stored, keys=keys, positions=new)
        return replace(moved, cursor=Cursor(int(new.max()) + 1 if new.numel() else 0))

    def _stored(self, layer: int, state: LayerState) -> LayerState:
        """Everything a layer can still reach: archive and cache together, in temporal order."""
        if not state.archive or state.keys is None or state.values is None:
            return state
        protected, keys, values, ids, positions = self.stream.protected, [], [], [], []
        heads = max(state.ids.shape[0], *(block.ids.shape[0] for block in state.archive))
        for block in state.archive:
            k, v = block.keys, block.values
            if block.codec is not None:
                k, v = self._decoded(layer, block, block.codec, state.keys, state.values)
            keys.append(k.to(state.keys))
            values.append(v.to(state.values))
            ids.append(block.ids.to(state.ids.device).expand(heads, -1))
            positions.append(block.positions.to(state.ids.device).expand(heads, -1, -1))

        def splice(old: Tensor, blocks: Sequence[Tensor], dim: int) -> Tensor:
            head, tail = (
                old.narrow(dim, 0, protected),
                old.narrow(dim, protected, old.shape[dim] - protected),
            )
            return torch.cat([head, *blocks, tail], dim)

        whole = replace(
            state,
            keys=splice(state.keys, [k[None] for k in keys], 2),
            values=splice(state.values, [v[None] for v in values], 2),
            ids=splice(state.ids.expand(heads, -1), ids, 1),
            positions=splice(state.positions.expand(heads, -1, -1), positions, 2),
            carried={},
            archive=(),
        )
        order = whole.ids.clone()
        order[:, :protected] = -1
        return whole.select(order.argsort(dim=-1, stable=True))

    def _decoded(
        self, layer: int, block: Archive, codec: Codec, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What a codec makes of a block's keys and values; they must be like those that the layer holds."""
        found: list[Tensor] = []
        for stored, held in ((block.keys, keys), (block.values, values)):
            shape = [held.shape[1], block.ids.shape[1], held.shape[3]]
            what = f"finite numbers of shape {shape} from decode()"
            raw = call(self.policy, "codec", layer, lambda stored=stored: codec.decode(stored))
            made = tensor(self.policy, "codec", layer, raw, what, FLOATS)
            if list(made.shape) != shape or not finite.all_finite(made):
                refuse(self.policy, "codec", layer, f"a tensor of shape {list(made.shape)}", what)
            found.append(made)
        return found[0], found[1]


def logits_of(
    engine: Engine, hidden: Float[Tensor, "token hidden"], board: HookBoard | None = None
) -> Float[Tensor, "token vocabulary"]:
    """Vocabulary logits of normalised hidden states.

    Raises:
        ModelError: some are not finite.
    """
    logits = engine.logits(hidden)
    finite.check_logits(engine.adapter, logits, board)
    return logits


def decode(
    engine: Engine,
    cache: StreamCache,
    first_hidden: Float[Tensor, "new hidden"],
    *,
    max_new_tokens: int,
    wants: Wants,
) -> Iterator[tuple[int, Float[Tensor, " vocabulary"]]]:
    """Greedy decoding after a prefilled question: yields (token id, the logits that chose it).

    Raises:
        ModelError: logits or the hidden states behind them are not finite.
    """
    stop = engine.adapter.eos_ids
    logits = logits_of(engine, first_hidden[-1:], wants.board)[0]
    for remaining in range(max_new_tokens, 0, -1):
        token = int(logits.argmax())
        yield token, logits
        if token in stop or remaining == 1:
            return
        segment = token_segment(engine, token)
        hidden = engine.forward(cache, segment, "question", wants=wants)
        finite.check_pass(engine.adapter, hidden, cache.states, wants.board)
        logits = logits_of(engine, hidden[-1:], wants.board)[0]


def token_segment(engine: Engine, token: int) -> Segment:
    """One generated token as decoder input."""
    return Segment(
        embeds=engine.adapter.embed(torch.tensor([token])),
        role=np.array([Role.TEXT], np.int8),
        frame=np.array([-1], np.int32),
        row=np.array([-1], np.int16),
        col=np.array([-1], np.int16),
        rel=torch.zeros(engine.rope.axes, 1, dtype=torch.long),
    )

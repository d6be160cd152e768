"""The contract between a retention policy and the engine.

A policy is one file with one frozen dataclass whose fields are its hyperparameters. It never touches the
cache: it is shown a read-only `LayerView` of the tokens that may be evicted (system prompt and other
protected spans are left out) and answers with scores, higher meaning keep. Everything else - top-k, gathering,
positions, recording, rollback - is the engine's. Optional steps have defaults, so that most policies are a
`needs` declaration and a `score` method.

Axes: `head` is 1 where all KV heads of a layer share one token set, or the number of KV heads; `token` runs
over the candidates of the layer in temporal order; `query_head` over attention heads; `row` over query tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.codec import Codec as Codec
from hermes_lab.errors import PolicyError
from hermes_lab.frozen import Frozen
from hermes_lab.policies.late import Late
from hermes_lab.policies.ranking import minmax as minmax
from hermes_lab.policies.ranking import top_newest as top_newest
from hermes_lab.policies.settings import setting as setting
from hermes_lab.policies.settings import settle as settle
from hermes_lab.policies.settings import validate
from hermes_lab.policies.traits import computed as computed
from hermes_lab.snapshot import UNBOUNDED as UNBOUNDED


class Need(StrEnum):
    """What a policy wants to see; the engine computes only what is declared."""

    KEYS = "keys"  # rotated keys, as cached
    VALUES = "values"
    GUIDANCE = "guidance"  # attention of pseudo-queries on the cache (see `Policy.guidance`)
    CHUNK_ATTENTION = "chunk_attention"  # rows of the chunk's last `window_queries` visual queries
    RECEIVED_ATTENTION = "received_attention"  # attention received from all queries of the chunk
    QUERIES = "queries"  # queries of the pseudo-queries themselves, before rotation
    FEATURES = "features"  # vision-tower features, for `admit`
    SALIENCY = "saliency"  # attention inside the vision tower, for `admit`


@dataclass(frozen=True)
class Guidance:
    """One pseudo-query to be read against the cache.

    Attributes:
        name: key under which its attention appears in `LayerView.attention`.
        kind: "text" (a prompt), "turn_boundary" (the template tokens that open the assistant's turn),
            "question" (the true future question: only for upper bounds inside an evaluation).
        text: the prompt, for kind "text".
        reading: "propagated" runs the prompt through the layers over the cache; "raw_embedding" takes every
            layer's queries from the prompt's input embeddings (HERMES' released SDPA path).
        causal: whether prompt tokens see only earlier prompt tokens (the released raw path has no such mask).
    """

    name: str
    text: str = ""
    kind: Literal["text", "turn_boundary", "question"] = "text"
    reading: Literal["propagated", "raw_embedding"] = "propagated"
    causal: bool = True


@dataclass(frozen=True, kw_only=True)
class LayerView:
    """What one layer remembers that may be forgotten, read-only (a write is refused), in temporal order.

    Attributes:
        layer, layers: index of this layer and the number of layers.
        ids: global token ids; look them up in the session's token table.
        positions: current rotary positions.
        frame, row, col, role: what each token is (-1 where it has none).
        time_s: presentation time of the token's frame.
        tokens_per_frame: visual tokens of the newest frame.
        kv_heads, query_heads: heads of this layer.
        step, now_s, frames_seen: where the stream stands.
        keys, values: as cached, where `needs` asks for them.
        attention: rows of each guidance by name, and of the chunk's last queries as "chunk".
        received: attention received from this chunk's queries, summed over them, with `received_queries`
            the number of queries that could see each token.
        queries: queries of each guidance by name, before rotation.
        carried: per-token state returned by earlier `observe` calls, and the `Admission.terms` that tokens were
            admitted with, gathered with the survivors; NaN for tokens that have none yet.
        budget_tokens: what the layer may hold after this decision (as `Policy.budgets` says, before
            `adapt_budgets`); None without limit.
        rotate: `rotate(keys, old_positions, new_positions)` re-rotates keys exactly (fp32 inside); one new position
            [head, axis, 1] is where all of them go.
        rng: a generator seeded by (session seed, step, layer).
    """

    layer: int
    layers: int
    ids: Int[Tensor, "head token"]
    positions: Int[Tensor, "head axis token"]
    frame: Late[Int[Tensor, "head token"]] = Late()
    row: Late[Int[Tensor, "head token"]] = Late()
    col: Late[Int[Tensor, "head token"]] = Late()
    role: Late[Int[Tensor, "head token"]] = Late()
    time_s: Late[Float[Tensor, "head token"]] = Late()
    tokens_per_frame: int
    kv_heads: int
    query_heads: int
    step: int
    now_s: float
    frames_seen: int
    keys: Late[Float[Tensor, "kv_head token dim"] | None] = Late(None)
    values: Late[Float[Tensor, "kv_head token dim"] | None] = Late(None)
    attention: Mapping[str, Float[Tensor, "query_head row token"]] = field(
        default_factory=Frozen[str, Tensor]
    )
    received: Float[Tensor, "query_head token"] | None = None
    received_queries: Float[Tensor, " token"] | None = None
    queries: Mapping[str, Float[Tensor, "query_head row dim"]] = field(
        default_factory=Frozen[str, Tensor]
    )
    carried: Mapping[str, Float[Tensor, "head token"]] = field(default_factory=Frozen[str, Tensor])
    budget_tokens: int | None = None
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    rng: Late[torch.Generator | None] = Late(None)

    @property
    def tokens(self) -> int:
        """Number of candidates."""
        return int(self.ids.shape[-1])

    @property
    def filled_frame(self) -> Int[Tensor, "head token"]:
        """Frame of each token; one without a frame (a separator, a summary) goes with the one before it."""
        return self.frame.long().clamp(min=0).cummax(-1).values

    def budget(self, own: int | None) -> int:
        """Tokens that the layer may hold: the view's budget, else the policy's `own`, else all there are."""
        given = own if self.budget_tokens is None else self.budget_tokens
        return self.tokens if given is None else given

    def keys_unrotated(self) -> Float[Tensor, "kv_head token dim"]:
        """Keys before rotation (rotated back to position 0 on every axis)."""
        if self.keys is None or self.rotate is None:
            raise PolicyError("A policy that reads keys must declare Need.KEYS in its `needs`.")
        return self.rotate(self.keys, self.positions, torch.zeros_like(self.positions[..., :1]))

    def mean_attention(self, name: str) -> Float[Tensor, "1 token"]:
        """Attention of one guidance (or "chunk"), averaged over heads and query rows."""
        rows = self.attention[name].float()
        return rows[0] if rows.shape[:2] == (1, 1) else rows.mean((0, 1))[None]


@dataclass(frozen=True)
class Scores:
    """A decision's numbers: `total` ranks, `terms` explain it (shown for every token in the dashboard)."""

    total: Float[Tensor, "head token"]
    terms: Mapping[str, Float[Tensor, "head token"]] = field(default_factory=Frozen[str, Tensor])


@dataclass(frozen=True)
class Merged:
    """Tokens that a policy makes out of evicted ones and puts into the cache.

    Attributes:
        keys: rotated to `positions`.
        values: their values.
        positions: where they stand; with place "sorted" this also decides their place in the order.
        sources: for each new token, the global ids that went into it.
        place: "end" appends after the kept tokens, "sorted" inserts by the temporal position.
    """

    keys: Float[Tensor, "kv_head new dim"]
    values: Float[Tensor, "kv_head new dim"]
    positions: Int[Tensor, "axis new"]
    sources: tuple[Int[Tensor, " _source"], ...]
    place: Literal["end", "sorted"] = "end"


@dataclass(frozen=True)
class Arrival:
    """A chunk's visual tokens before the decoder sees them (for `Policy.admit`).

    Attributes:
        embeds: decoder inputs of all tokens of the chunk, markers included; read-only, as all of it.
        features, saliency: of the visual tokens only, where `needs` asks for them.
        visual: indices of the visual tokens within the chunk.
        frame, row, col, role: of all tokens (frame is the global frame index).
        time_s: of each token's frame.
    """

    embeds: Float[Tensor, "token hidden"]
    features: Float[Tensor, "visual feature"] | None
    saliency: Float[Tensor, " visual"] | None
    visual: Int[Tensor, " visual"]
    frame: Int[Tensor, " token"]
    row: Int[Tensor, " token"]
    col: Int[Tensor, " token"]
    role: Int[Tensor, " token"]
    time_s: Float[Tensor, " token"]
    step: int


@dataclass(frozen=True)
class Admission:
    """Which tokens of a chunk enter the decoder, and with which embeddings (None: their own).

    `terms` explain the choice; those of the tokens that enter are carried with them (`LayerView.carried`).
    """

    keep: Int[Tensor, " kept"]
    embeds: Float[Tensor, "kept hidden"] | None = None
    terms: Mapping[str, Float[Tensor, " token"]] = field(default_factory=Frozen[str, Tensor])
    merged_into: Mapping[int, int] = field(default_factory=Frozen[int, int])


@dataclass(frozen=True)
class ReadPlan:
    """How a question reads the memory.

    Attributes:
        recent_frames: so many of the last frames are prefilled again on the system prefix alone (their
            visual embeddings are kept as they arrived, before `admit`; the vision tower does not run again).
        use_cache: whether the retained cache stands before them.
        replaces: whether cached tokens of those same frames are hidden from the question, so that no frame is
            read twice. A policy that also recalls is asked first, and the frames are hidden from its answer.
    """

    recent_frames: int = 0
    use_cache: bool = True
    replaces: bool = False


@dataclass(frozen=True)
class RecallView:
    """One layer at question time: the question's queries against everything stored in this layer.

    Attributes:
        queries: of the question's tokens, before rotation.
        view: the stored tokens (cache and archive together), keys rotated; `view.keys_unrotated()` as usual.
    """

    queries: Float[Tensor, "query_head row dim"]
    view: LayerView


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A retention policy: which tokens each layer keeps. See the module docstring for the axes.

    Class attributes say what the engine should know. Where one follows from the fields it is `computed` from them;
    the engine reads all of them from the instance.

    Attributes:
        budget_tokens: video tokens that a layer may hold after a decision; None: the session settles it at its
            first feed (see `hermes_lab.stream.default_budget`), unless `bounded` says that none is needed.
    """

    budget_tokens: int | None = setting(
        None,
        "Video tokens that a layer may hold after a decision; None: 32 frames' worth, or the policy's own limit.",
        minimum=1,
    )

    name: ClassVar[str] = ""  # as in `--policy`; none: a file of this package gives its own
    title: ClassVar[str] = ""  # one line for listings
    source: ClassVar[str] = ""  # paper id and section, or "baseline"
    licence: ClassVar[str] = ""  # licence of the original code, if any was published
    needs: ClassVar[frozenset[Need]] = frozenset()
    per_head: ClassVar[bool] = False  # True: each KV head keeps its own tokens
    archives: ClassVar[bool] = (
        False  # True: evicted tokens go to the off-device store, for `recall`
    )
    recalls: ClassVar[bool] = False  # True: `recall` is asked at every layer of a question
    default_positions: ClassVar[str] = "keep"  # position rule when the session names none
    evaluation_only: ClassVar[bool] = False  # True: needs the future question; refused elsewhere
    presets: ClassVar[tuple[str, ...]] = ()  # classmethods that build named variants
    attention_detail: ClassVar[Literal["rows", "heads", "mean"]] = (
        "rows"  # what `LayerView.attention` keeps: every row, means over rows, or over heads too
    )
    granularity: ClassVar[str] = ""  # unit of the decision, where it is not a token

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" not in vars(cls) and cls.__module__.startswith(f"{__package__}."):
            cls.name = cls.__module__.rpartition(".")[2]

    def __post_init__(self) -> None:
        """Check every field against its `setting`; subclasses with rules of their own call this first."""
        validate(self, self.name or type(self).__name__)

    # --- what to read ----------------------------------------------------------------------
    @property
    def window_queries(self) -> int | None:
        """How many of the chunk's last visual queries to read (None: all of the last frame's)."""
        return None

    def guidance(self, history: Sequence[tuple[str, str]]) -> tuple[Guidance, ...]:
        """Pseudo-queries to read against the cache; `history` holds (question, answer) pairs so far."""
        return ()

    def reads(self, guidance: str, layer: int, layers: int) -> bool:
        """Whether the decision of a layer uses the guidance of that name; what no layer uses is not computed."""
        return True

    # --- the decision ----------------------------------------------------------------------
    def budgets(self, layers: int) -> list[int] | None:
        """Video tokens per layer; None: no limit anywhere. The total should equal layers * budget_tokens.

        A policy that limits by frames or seconds instead answers UNBOUNDED for each layer, and overrides `due` and
        `select` (which may keep fewer than it is allowed).
        """
        return None if self.budget_tokens is None else [self.budget_tokens] * layers

    def bounded(self, budget_tokens: int, layers: int) -> Policy:
        """This policy with that budget if it has no limit yet, else itself; policies that need none return themselves."""
        limited = self.budgets(layers) is not None
        return self if limited else replace(self, budget_tokens=budget_tokens)

    def due(self, tokens: Sequence[int], budgets: Sequence[int]) -> bool:
        """Whether to decide now, given candidates per layer; default: some layer is over its budget."""
        return any(n > b for n, b in zip(tokens, budgets, strict=True))

    def observe(self, view: LayerView) -> Mapping[str, Float[Tensor, "head token"]]:
        """Per-token state to carry along, asked after every chunk (running sums, first sights)."""
        return {}

    def score(self, view: LayerView) -> Scores | Float[Tensor, "head token"]:
        """Importance of each candidate of one layer; higher is kept. Default: 0 for all, beside a `select`."""
        if type(self).select is Policy.select:
            raise PolicyError(
                f"Policy {self.name or type(self).__name__!r} must define score() or select()."
            )
        return torch.zeros(view.ids.shape, device=view.ids.device)

    def mix(self, scores: list[Scores], views: Sequence[LayerView]) -> list[Scores]:
        """Whole-model step between scoring and selection (cross-layer smoothing); default: none."""
        return scores

    def adapt_budgets(
        self, budgets: list[int], scores: Sequence[Scores], views: Sequence[LayerView]
    ) -> list[int]:
        """Budgets that depend on the scores themselves; the total must not grow. Default: unchanged."""
        return budgets

    def reserve(self, layer: int, layers: int) -> int:
        """Slots of this layer's budget that `merge` will fill."""
        return 0

    def select(self, scores: Scores, count: int, view: LayerView) -> Int[Tensor, "head kept"]:
        """Indices of the candidates to keep, at most `count` per head; default: the `count` best, newest first on ties."""
        return top_newest(scores.total, count)

    def merge(
        self, view: LayerView, kept: Int[Tensor, "head kept"], scores: Scores
    ) -> Merged | None:
        """New tokens made from what was evicted; at most `reserve` of them. Needs KEYS and VALUES."""
        return None

    # --- before the decoder and at the question ------------------------------------------
    def admit(self, arrival: Arrival, memory: dict[str, Any]) -> Admission | None:
        """Drop or merge a chunk's tokens before prefill; `memory` persists between chunks. None: all enter."""
        return None

    def read_plan(self) -> ReadPlan:
        """How a question reads the memory; default: straight from the cache."""
        return ReadPlan()

    def recall(self, question: RecallView) -> Int[Tensor, "head recalled"] | None:
        """Which stored tokens of one layer a question may attend to, as indices; None: all of them."""
        return None

    def codec(self) -> Codec | None:
        """How the archive stores keys and values; None: as they are."""
        return None

    # --- descriptions ----------------------------------------------------------------------
    def config(self) -> dict[str, Any]:
        """Name and fields, as written to manifests."""
        return {"policy": self.name} | {f.name: plain(getattr(self, f.name)) for f in fields(self)}


def plain(value: Any) -> Any:
    """A field's value as manifests can hold it: policies inside it become their own descriptions."""
    if isinstance(value, Policy):
        return value.config()
    if isinstance(value, tuple):
        return tuple(plain(v) for v in cast("tuple[Any, ...]", value))
    return value

"""HERMES: the KV cache as hierarchical memory (arXiv 2601.14724), as published and as released.

Layers form three bands. Shallow layers keep what is new (sensory memory), deep layers what a general question
about the video attends to (long-term memory), middle layers mix both (working memory). Scores are smoothed from
deep to shallow, and deep layers fold what they evict into one summary token.

Every point in which the released code differs from the paper is a field, so that any mixture can be studied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import (
    Guidance,
    LayerView,
    Merged,
    Need,
    Policy,
    Scores,
    computed,
    minmax,
    setting,
)
from hermes_lab.policies.parts.scoring import DEEP_FROM, SHALLOW_UNTIL, band_of, edges_of, whole
from hermes_lab.policies.parts.summary import behind_kept, evicted, folded

Band = Literal["shallow", "middle", "deep"]
BANDS: tuple[Band, ...] = ("shallow", "middle", "deep")
PROMPT_OF: dict[Band, str] = {"shallow": "local", "middle": "mixed", "deep": "global"}
RELEASED_RATE = 20.0  # forgetting over the whole distance, released code


@dataclass(frozen=True, kw_only=True)
class Hermes(Policy):
    """Hierarchical memory by layer depth. Source: HERMES (arXiv 2601.14724), §3; code haowei-freesky/HERMES b505d95.

    The fields' defaults are those of the paper; `Hermes.paper` and `Hermes.released` name the two presets.
    """

    # --- bands (§3.1) ----------------------------------------------------------------------
    shallow_fraction: float = setting(
        SHALLOW_UNTIL,
        "Share of the layers that is shallow, rounded down (§3.1).",
        minimum=0,
        maximum=1,
    )
    deep_fraction: float = setting(
        DEEP_FROM, "Depth from which layers are deep, rounded down (§3.1).", minimum=0, maximum=1
    )
    shallow_until: int | None = setting(
        None, "First layer that is not shallow, in place of the fraction.", minimum=0
    )
    deep_from: int | None = setting(
        None, "First layer that is deep, in place of the fraction.", minimum=0
    )
    bands: tuple[Band, ...] | None = setting(
        None, "Band of each layer, in place of all four fields above (for shuffled bands)."
    )
    # --- recency and mixing (§3.1) ----------------------------------------------------------
    distance: Literal["tokens", "normalised"] = setting(
        "tokens", "Unit of age: tokens (paper), or share of the cached span (released code)."
    )
    forgetting_rate: float | None = setting(
        None,
        "Decay of recency per unit of age; None: 20 over the budget (tokens) or the span (normalised). "
        "The released code has 20; the paper states none.",
        minimum=0,
    )
    forgetting_rate_end: float | None = setting(
        None,
        "Rate that the middle band approaches towards the deep one (released: 0.5); None: constant.",
        minimum=0,
    )
    recency_start: float = setting(
        0.75,
        "Weight of recency in the first middle layer (paper 0.75, released 1).",
        minimum=0,
        maximum=1,
    )
    recency_end: float = setting(
        0.15,
        "Weight of recency that the middle band approaches (paper 0.15, released 0.1).",
        minimum=0,
        maximum=1,
    )
    alpha: float = setting(
        1.0, "Scale of shallow and deep scores before smoothing (α; released code: 1).", minimum=0
    )
    normalise: bool = setting(
        True, "Scale recency and attention to [0, 1] in each layer before they are mixed."
    )
    # --- across layers (§3.2) ---------------------------------------------------------------
    smoothing: Literal["raw", "cascade"] = setting(
        "raw", "What a layer takes from the one above: its own score (paper) or its smoothed one."
    )
    lambdas: tuple[float, float, float] = setting(
        (0.1, 0.3, 0.4),
        "Share taken from the layer above in shallow, middle and deep layers (§3.2).",
        minimum=0,
        maximum=1,
    )
    budget_weights: tuple[float, float, float] = setting(
        (1.0, 1.0, 1.0),
        "Relative budgets of shallow, middle and deep layers at the same total (Table 5: 0.7, 1, 1.3).",
        minimum=0,
    )
    # --- summary token (Algorithm 1) --------------------------------------------------------
    summary: bool = setting(True, "Fold what a deep layer evicts into one token (Table 7).")
    summary_position: Literal["last_kept_plus_one", "latest_evicted"] = setting(
        "last_kept_plus_one",
        "Where the summary stands: behind the last kept token (released), or in place of the newest evicted.",
    )
    # --- guidance (Appendix B) --------------------------------------------------------------
    reading: Literal["propagated", "raw_embedding"] = setting(
        "propagated",
        "Run the prompts through the layers, or take every layer's queries from the raw embeddings "
        "(released SDPA path).",
    )
    causal: bool = setting(
        True, "Whether prompt tokens see only earlier ones (the released SDPA path has no mask)."
    )
    read_local: bool = setting(
        False, "Read the local prompt too, which no score uses; shallow layers then record it."
    )
    use_history: bool = setting(True, "Put the last question and answer before the prompts.")
    local_prompt: str = setting(
        "Describe the current scene in detail, focusing on specific objects, fine-grained actions, "
        "and spatial relationships.",
        "Prompt about the present (App. B).",
    )
    global_prompt: str = setting(
        "Summarize the video narrative, identifying main characters, key events, timeline changes, "
        "and the overall theme.",
        "Prompt about the whole video (App. B).",
    )
    prompt_joint: str = setting("; ", "What joins the two for the middle band.")
    local_history: str = setting(
        "Find recent details related to: {last_conv}. ",
        "Prefix of the local prompt after a question; {last_conv} is the last round.",
    )
    global_history: str = setting(
        "Context summary: {last_conv}. ", "Prefix of the global prompt after a question."
    )
    last_conv: str = setting(
        "Question: {question} Answer: {answer}", "How the last round is written (released code)."
    )

    title = "recent in shallow layers, relevant in deep ones, smoothed across"
    source = "HERMES (arXiv 2601.14724)"
    licence = "MIT"
    needs = computed(  # keys and values are read for the summary token alone
        lambda policy: (
            frozenset({Need.GUIDANCE}) | ({Need.KEYS, Need.VALUES} if policy.summary else set())
        )
    )
    attention_detail = "mean"
    default_positions = "lazy"
    presets = ("paper", "released")

    @classmethod
    def paper(cls, **fields: Any) -> Hermes:
        """As the paper writes it (§3, Algorithm 1, Appendix B)."""
        return cls(**fields)

    @classmethod
    def released(cls, **fields: Any) -> Hermes:
        """As the authors' code does it on its default (SDPA) path, commit b505d95."""
        released: dict[str, Any] = {
            "distance": "normalised",
            "forgetting_rate": RELEASED_RATE,
            "forgetting_rate_end": 0.5,
            "recency_start": 1.0,
            "recency_end": 0.1,
            "smoothing": "cascade",
            "reading": "raw_embedding",
            "causal": False,
            "read_local": True,
        }
        return cls(**(released | fields))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shallow_fraction > self.deep_fraction:
            raise PolicyError(
                f"The bands of 'hermes' cross: shallow_fraction {self.shallow_fraction:g} must not "
                f"exceed deep_fraction {self.deep_fraction:g}."
            )
        if None not in (self.shallow_until, self.deep_from):
            self._check_edges(self.shallow_until or 0, self.deep_from or 0)
        if self.summary and self.budget_tokens == 1:
            raise PolicyError(
                "A budget of 1 leaves a deep layer of 'hermes' nothing beside its summary token; "
                "raise budget_tokens or set summary=False."
            )

    # --- bands -------------------------------------------------------------------------------
    def bands_of(self, layers: int) -> tuple[Band, ...]:
        """The band of each layer of a model.

        Raises:
            PolicyError: the bands cross, or do not fit a model of so many layers.
        """
        if self.bands is not None:
            if len(self.bands) != layers:
                raise PolicyError(
                    f"The field 'bands' of 'hermes' names {len(self.bands)} layers, but the model has "
                    f"{layers}; give one band a layer."
                )
            return self.bands
        shallow, deep = edges_of(layers, self.shallow_fraction, self.deep_fraction)
        shallow = shallow if self.shallow_until is None else self.shallow_until
        deep = deep if self.deep_from is None else self.deep_from
        self._check_edges(shallow, deep)
        if max(shallow, deep) > layers:
            raise PolicyError(
                f"The bands of 'hermes' end at layer {max(shallow, deep)}, but the model has only "
                f"{layers} layers; lower shallow_until or deep_from."
            )
        return _runs((shallow, deep), layers)

    def progress(self, layer: int, layers: int) -> float:
        """How far a middle layer is from the shallow to the deep band, in [0, 1); 0 outside the middle band.

        In an unbroken band this is (l - l_short) / (l_long - l_short); shuffled bands count middle layers.
        """
        bands = self.bands_of(layers)
        if bands[layer] != "middle":
            return 0.0
        return bands[:layer].count("middle") / bands.count("middle")

    # --- what to read ------------------------------------------------------------------------
    def guidance(self, history: Sequence[tuple[str, str]]) -> tuple[Guidance, ...]:
        """The prompts of Appendix B: mixed for middle layers, global for deep ones, local on request."""
        local, general = self.local_prompt, self.global_prompt
        if history and self.use_history:
            question, answer = history[-1]
            last = self.last_conv.replace("{question}", question).replace("{answer}", answer)
            local = self.local_history.replace("{last_conv}", last) + local
            general = self.global_history.replace("{last_conv}", last) + general
        texts = {"mixed": local + self.prompt_joint + general, "global": general}
        if self.read_local:
            texts = {"local": local, **texts}
        return tuple(
            Guidance(name, text, reading=self.reading, causal=self.causal)
            for name, text in texts.items()
        )

    def reads(self, guidance: str, layer: int, layers: int) -> bool:
        """Each band reads one prompt, so that a prompt ends with the last layer of its band."""
        return guidance == PROMPT_OF[self.bands_of(layers)[layer]]

    # --- the decision ------------------------------------------------------------------------
    def budgets(self, layers: int) -> list[int] | None:
        """Budgets in proportion to the weights of the bands, rounded so that the total is kept (Table 5).

        Raises:
            PolicyError: a layer would get nothing.
        """
        if self.budget_tokens is None:
            return None
        bands = self.bands_of(layers)
        weights = [self.budget_weights[BANDS.index(band)] for band in bands]
        total = layers * self.budget_tokens
        if sum(weights) == 0:
            raise PolicyError(
                "The budget_weights of 'hermes' are zero for every layer; give one a weight."
            )
        budgets = whole([total * w / sum(weights) for w in weights], total, ties="deep")
        for layer, budget in enumerate(budgets):
            if budget <= self.reserve(layer, layers):
                raise PolicyError(
                    f"The budget_weights of 'hermes' leave layer {layer} no room ({budget} tokens); "
                    "raise budget_tokens or the weight of its band."
                )
        return budgets

    def score(self, view: LayerView) -> Scores:
        """Importance before smoothing: recency, attention, or their mixture, by the layer's band (§3.1)."""
        band = self.bands_of(view.layers)[view.layer]
        recency = self._recency(view)
        terms = {"recency": recency}
        prompt = PROMPT_OF[band]
        if band != "shallow" or prompt in view.attention:
            terms["attention"] = self._scaled(view.mean_attention(prompt))
        if band == "shallow":
            own = self.alpha * recency
        elif band == "deep":
            own = self.alpha * terms["attention"]
        else:
            step = self.progress(view.layer, view.layers)
            weight = self.recency_start + step * (self.recency_end - self.recency_start)
            own = (1 - weight) * terms["attention"] + weight * recency
        return Scores(own, {**terms, "own": own})

    def mix(self, scores: list[Scores], views: Sequence[LayerView]) -> list[Scores]:
        """Cross-layer smoothing from deep to shallow (§3.2); the last layer has none above it.

        Adds the term "above": what the layer above contributed, so that total = (1 - lambda) own + above.
        """
        bands = self.bands_of(len(scores))
        mixed = list(scores)
        for layer in reversed(range(len(scores))):
            own = scores[layer].total
            if layer == len(scores) - 1:
                total, above = own, torch.zeros_like(own)
            else:
                share = self.lambdas[BANDS.index(bands[layer])]
                source = mixed if self.smoothing == "cascade" else scores
                above = share * resample(source[layer + 1].total, own.shape[-1]).to(own.device)
                total = (1 - share) * own + above
            mixed[layer] = Scores(total, {**scores[layer].terms, "above": above})
        return mixed

    def reserve(self, layer: int, layers: int) -> int:
        """One slot for the summary token in deep layers."""
        return int(self.summary and self.bands_of(layers)[layer] == "deep")

    def merge(
        self, view: LayerView, kept: Int[Tensor, "head kept"], scores: Scores
    ) -> Merged | None:
        """The summary token of a deep layer (Algorithm 1): mean value, and mean key at the summary's position."""
        if not self.reserve(view.layer, view.layers) or kept.shape[-1] == view.tokens:
            return None
        if view.keys is None or view.values is None:
            raise PolicyError("The summary token of 'hermes' needs the layer's keys and values.")
        gone = evicted(view, kept)
        if self.summary_position == "latest_evicted":
            at = view.positions[0, :, gone[0, -1]]
            return folded(view, gone, view.keys, view.values, at, "sorted")
        return folded(view, gone, view.keys, view.values, behind_kept(view, kept))

    # --- parts of the score ------------------------------------------------------------------
    def _recency(self, view: LayerView) -> Float[Tensor, "1 token"]:
        """exp(-k dt), scaled; dt the age in tokens or as a share of the span; k by band and depth."""
        span = float(max(view.tokens - 1, 1))
        unit = span if self.distance == "normalised" else 1.0
        if self.distance == "normalised":
            span = 1.0
        elif self.budget_tokens is not None:
            span = float(self.budget_tokens)
        rate = RELEASED_RATE / span if self.forgetting_rate is None else self.forgetting_rate
        if self.forgetting_rate_end is not None:
            rate += self.progress(view.layer, view.layers) * (self.forgetting_rate_end - rate)
        age = torch.arange(view.tokens - 1, -1, -1, device=view.ids.device, dtype=torch.float32)
        return self._scaled(torch.exp(-rate * (age / unit))[None])

    def _scaled(self, values: Float[Tensor, "1 token"]) -> Float[Tensor, "1 token"]:
        return minmax(values) if self.normalise else values

    def _check_edges(self, shallow: int, deep: int) -> None:
        if shallow > deep:
            raise PolicyError(
                f"The bands of 'hermes' cross: layers below {shallow} are shallow and layers from {deep} "
                "on are deep; lower the first edge or raise the second."
            )


@lru_cache(maxsize=64)
def _runs(edges: tuple[int, int], layers: int) -> tuple[Band, ...]:
    return tuple(BANDS[band_of(layer, layers, edges)] for layer in range(layers))


def resample(values: Float[Tensor, "head upper"], tokens: int) -> Float[Tensor, "head lower"]:
    """Linear interpolation to another number of tokens, by centres of equal cells; unchanged where it fits."""
    if values.shape[-1] == tokens:
        return values
    return torch.nn.functional.interpolate(
        values[:, None], size=tokens, mode="linear", align_corners=False
    )[:, 0]

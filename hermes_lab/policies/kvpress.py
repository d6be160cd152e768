"""NVIDIA kvpress scorers as policies (needs the package `kvpress`, which is not installed with this one)."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import LayerView, Need, Policy, Scores, computed, setting, settle
from hermes_lab.policies.parts.scoring import by_head, keys_of, rows_of, values_of

# They read every query of the prompt at once; a stream has only the newest, and sums must be carried along.
WHOLE_PROMPT = {"ObservedAttentionPress": "h2o"}


@dataclass(frozen=True, kw_only=True)
class KVPress(Policy):
    """Score with a kvpress `ScorerPress`: `KVPress(press=KnormPress())`, or `kvpress(press=KnormPress)` by name.

    The press sees the candidates of one layer: cached keys and values, and on request the newest attention rows. It sees
    no hidden states, which are gone when a chunk has been prefilled: presses that compute queries from them are refused
    when they try. Its `compression_ratio` is set to what the budget asks for. Source: kvpress 0.5 (Apache-2.0).
    """

    press: Any = field(metadata={"doc": "A ScorerPress, or the name of its class in kvpress."})
    options: tuple[tuple[str, Any], ...] = setting(
        (), 'Fields of a press given by name: options=(("n_sink", 8),).'
    )
    reads_attention: bool = setting(
        False,
        "Give the press the attention rows of the chunk's last queries (SnapKVPress, TOVAPress).",
    )

    title = "a kvpress scorer"
    source = "kvpress 0.5"
    licence = "Apache-2.0"
    needs = computed(
        lambda policy: (
            frozenset({Need.KEYS, Need.VALUES})
            | ({Need.CHUNK_ATTENTION} if policy.reads_attention else set())
        ),
        otherwise=frozenset({Need.KEYS, Need.VALUES}),
    )
    per_head = True

    def __post_init__(self) -> None:
        super().__post_init__()
        press = (
            _named(self.press, dict(self.options)) if isinstance(self.press, str) else self.press
        )
        kind = type(press).__name__
        if kind in WHOLE_PROMPT:
            raise PolicyError(
                f"{kind} needs the attention of the whole prompt; use the policy {WHOLE_PROMPT[kind]!r}, which carries it."
            )
        if not callable(getattr(press, "score", None)):
            raise PolicyError(
                f"{kind} has no score() method; only kvpress presses of the ScorerPress kind can be policies."
            )
        settle(self, press=press)

    @property
    def window_queries(self) -> int | None:
        """The press' observation window, or its last query."""
        return int(getattr(self.press, "window_size", 1))

    def score(self, view: LayerView) -> Scores:
        """What the press answers for keys and values of this layer."""
        press = copy.copy(self.press)
        budget = view.budget(self.budget_tokens)
        if hasattr(press, "compression_ratio"):
            press.compression_ratio = max(0.0, 1 - budget / max(view.tokens, 1))
        rows = rows_of(view, "chunk")[None] if self.reads_attention else None
        keys, values = keys_of(view)[None], values_of(view)[None]
        answer = press.score(
            _module(view, keys.shape[-1]), _NoHiddenStates(type(press).__name__, view.tokens),
            keys, values, rows, {},
        )  # fmt: skip
        total = by_head(cast(Tensor, answer)[0].float(), view)
        return Scores(total, {"press": total})

    def config(self) -> dict[str, Any]:
        """The press by the name of its class, with its fields as options."""
        known = dataclasses.fields(self.press) if dataclasses.is_dataclass(self.press) else ()
        options = tuple((f.name, getattr(self.press, f.name)) for f in known)
        return super().config() | {"press": type(self.press).__name__, "options": options}


@dataclass(frozen=True)
class _NoHiddenStates:
    """Stands where kvpress passes hidden states: it has a length, and a clear refusal for everything else."""

    press: str
    tokens: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1, self.tokens, 0

    def __getitem__(self, _: object) -> Float[Tensor, ...]:
        self._refuse()
        return torch.empty(0)

    def __getattr__(self, name: str) -> Any:
        self._refuse()

    def _refuse(self) -> None:
        raise PolicyError(
            f"{self.press} reads hidden states, which a stream no longer has when it decides; "
            "try reads_attention=True, or a press that scores from keys and values."
        )


def _module(view: LayerView, dim: int) -> Any:
    """What presses ask an attention module about."""
    config = SimpleNamespace(
        num_attention_heads=view.query_heads,
        num_key_value_heads=view.kv_heads,
        num_hidden_layers=view.layers,
        head_dim=dim,
    )
    return SimpleNamespace(
        layer_idx=view.layer,
        head_dim=dim,
        num_key_value_groups=view.query_heads // view.kv_heads,
        config=config,
    )


def _named(name: str, options: dict[str, Any]) -> Any:
    """A press by the name of its class.

    Raises:
        PolicyError: kvpress is not installed, or has no press of that name with these fields.
    """
    try:
        package = importlib.import_module("kvpress")
    except ImportError as error:
        raise PolicyError(
            f"The press {name!r} needs the package kvpress, which cannot be imported ({error}); install it with "
            "`pip install --no-deps kvpress cachetools fire termcolor`, since its pins exclude this transformers."
        ) from error
    kind = getattr(package, name, None)
    if not isinstance(kind, type):
        raise PolicyError(
            f"The package kvpress has no press {name!r}; give the name of a class, such as KnormPress."
        )
    try:
        return kind(**options)
    except TypeError as error:
        raise PolicyError(f"The press {name!r} does not take these options: {error}.") from error

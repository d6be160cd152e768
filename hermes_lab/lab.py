"""A loaded model, ready to be streamed into: `hermes_lab.load(...)`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hermes_lab.engine.forward import Engine
from hermes_lab.environment import untested
from hermes_lab.errors import LabError, ModelError
from hermes_lab.models.base import Adapter


@dataclass(repr=False)
class Lab:
    """One set of weights; any number of sessions may run on it at the same time.

    Attributes:
        adapter: what the engine knows of the model.
        notes: sentences a person should read, such as that these versions were not tested; they go into the first
            snapshot of every session.
        engine: the decoder prepared for streaming; built with the lab.
    """

    adapter: Adapter
    notes: tuple[str, ...] = ()
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        self.engine = Engine(self.adapter)

    def __repr__(self) -> str:
        return f"Lab({self.name!r}, {self.adapter.family}, {self.layers} layers, on {self.adapter.device})"

    @property
    def name(self) -> str:
        """What the model was asked for by."""
        return self.adapter.name

    @property
    def layers(self) -> int:
        return self.engine.layers

    def describe(self) -> dict[str, Any]:
        """Sizes and settings, as written to manifests."""
        config = self.adapter.text_config
        return {
            "model": self.name,
            "family": self.adapter.family,
            "revision": self.adapter.revision,
            "layers": self.engine.layers,
            "query_heads": self.engine.query_heads,
            "kv_heads": self.engine.kv_heads,
            "head_dim": int(
                getattr(config, "head_dim", None)
                or config.hidden_size // config.num_attention_heads
            ),
            "dtype": str(self.adapter.dtype).removeprefix("torch."),
            "device": str(self.adapter.device),
            "rotary_axes": self.adapter.rotary_axes,
            "max_positions": self.adapter.max_positions,
        }


def load(
    name: str | Path = "pocket",
    *,
    dtype: str | torch.dtype = "auto",
    device: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Lab:
    """Load a model for streaming.

    Args:
        name: "pocket" (or another shipped model), a local folder, or a hub id.
        dtype: weights' dtype; "auto" takes the checkpoint's.
        device: "cpu", "cuda", ...; None: a GPU when there is one.
        device_map: passed to transformers, instead of `device`.
        revision: of a hub id.
        local_files_only: never ask a hub.

    Raises:
        ModelError: unknown, unsupported or damaged, in one sentence.
    """
    from hermes_lab.models import load as load_adapter
    from hermes_lab.models.source import first_line

    adapter = load_adapter(
        name,
        dtype=dtype,
        device=device,
        device_map=device_map,
        revision=revision,
        local_files_only=local_files_only,
    )
    note = untested()
    try:
        lab = Lab(adapter, () if note is None else (note,))
        origin = torch.zeros(adapter.rotary_axes, 1, dtype=torch.long, device=adapter.device)
        for layer in range(lab.layers):
            lab.engine.rope.tables(origin, layer)
    except LabError:
        raise
    except Exception as error:  # settings that contradict each other surface as many types
        raise ModelError(
            f"The settings of {adapter.name} describe a decoder that cannot be streamed "
            f"({type(error).__name__}: {first_line(error)[:-1]}); compare them with those of the original model."
        ) from error
    return lab

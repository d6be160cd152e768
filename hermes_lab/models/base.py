"""What the engine asks of a model family, and nothing more.

An adapter knows one family of streaming-capable MLLMs: where its decoder, rotary module, head and vision
encoder are, how frames become visual tokens with grid coordinates and rotary positions, and what the chat
template puts before the video and around a question. The engine knows no family by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hermes_lab.errors import ModelError
from hermes_lab.models.told import METHODS, told
from hermes_lab.segment import Segment as Segment


@dataclass(frozen=True)
class FrameLayout:
    """How many tokens a frame of a given size becomes."""

    rows: int
    cols: int
    marker_tokens: int = 0  # text tokens that accompany each frame
    frames_per_group: int = 1  # 2 where the vision encoder merges pairs of frames

    @property
    def visual_tokens(self) -> int:
        return self.rows * self.cols


@dataclass
class Adapter(ABC):
    """One loaded model of one family. Subclasses live one per file and are listed in `models/registry.py`, which also
    finds those of other packages.

    Class attributes:
        family: name of the family.
        model_types: `model_type` values of config.json that this adapter takes.
        rotary_axes: 1, or 3 for M-RoPE.
        examples: hub ids of checkpoints, for listings.
        note: one line on how the family streams, for listings.
    """

    model: nn.Module  # the ...ForConditionalGeneration, in eval mode, unmodified class
    tokenizer: Any
    image_settings: dict[str, Any] = field(default_factory=dict)  # saved processor settings
    name: str = ""  # what the user asked for: hub id, folder, or "pocket"
    revision: str | None = None

    family: ClassVar[str] = ""
    model_types: ClassVar[tuple[str, ...]] = ()
    rotary_axes: ClassVar[int] = 1
    examples: ClassVar[tuple[str, ...]] = ()
    note: ClassVar[str] = ""

    # --- where things are ------------------------------------------------------------------
    @property
    @abstractmethod
    def decoder(self) -> nn.Module:
        """The text model whose forward takes `inputs_embeds` and a KV cache; has `.layers`, `.norm`."""

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, each with a `self_attn`."""
        layers = self.decoder.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    @property
    def rotary(self) -> nn.Module:
        """The model's own rotary module: `rotary(x, position_ids) -> (cos, sin)`."""
        rotary = self.decoder.rotary_emb
        assert isinstance(rotary, nn.Module)
        return rotary

    @property
    @abstractmethod
    def head(self) -> nn.Module:
        """Maps normalised hidden states to vocabulary logits (`lm_head`)."""

    @property
    @abstractmethod
    def vision(self) -> nn.Module:
        """The vision encoder."""

    @property
    def text_config(self) -> Any:
        """The configuration of the decoder."""
        return self.decoder.config

    @property
    def device(self) -> torch.device:
        """Where decoder inputs must lie (the embedding's device under a `device_map`)."""
        return cast(Tensor, self.embedding.weight).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of decoder inputs."""
        return cast(Tensor, self.embedding.weight).dtype

    @cached_property
    def embedding(self) -> nn.Module:
        """The input embedding of the decoder; looking it up for every tensor that is placed would cost time."""
        return cast(nn.Module, cast(Any, self.model).get_input_embeddings())

    # --- inputs ----------------------------------------------------------------------------
    def embed(self, ids: Int[Tensor, " tokens"]) -> Float[Tensor, "tokens hidden"]:
        """Decoder input embeddings of token ids (with the family's scaling, if any)."""
        return self.embedding(ids.to(self.device))

    @abstractmethod
    def prefix(self, system: str | None = None) -> Segment:
        """Everything of the chat template before the first frame (role SYSTEM); `system` replaces the default prompt."""

    @abstractmethod
    def encode(
        self,
        frames: Sequence[npt.NDArray[np.uint8]],
        times_s: Sequence[float],
        *,
        want_saliency: bool = False,
    ) -> Segment:
        """Visual tokens of some frames ([H, W, 3] RGB uint8), in stream order, with markers where the template has them.

        Every call is independent of the others (causal chunks), so the frames of one chunk never see those
        of another in the vision encoder. Where the family merges pairs of frames, an odd last frame is
        repeated, as the family's own processor does.
        """

    @abstractmethod
    def question(self, text: str, *, history: Sequence[tuple[str, str]] = ()) -> Segment:
        """A user turn that follows the video: closes the video part, holds the question, opens the assistant's turn."""

    @abstractmethod
    def text(self, text: str) -> Segment:
        """Bare text without any template (role TEXT), for guidance prompts."""

    def turn_boundary(self) -> Segment:
        """The tokens that end the user's turn and open the assistant's (StreamMem's template pseudo-query)."""
        raise NotImplementedError

    @abstractmethod
    def frame_layout(self, height: int, width: int) -> FrameLayout:
        """The token grid that a frame of this size is given."""

    def forward_kwargs(self, segment: Segment) -> dict[str, Any]:
        """Extra keyword arguments for the decoder's forward on this segment (DeepStack), batch axis included."""
        return {}

    def __init_subclass__(cls) -> None:
        """Whatever a family's methods raise is told in a sentence."""
        super().__init_subclass__()
        for name in METHODS:
            if callable(method := vars(cls).get(name)):
                setattr(cls, name, told(method))

    # --- outputs ---------------------------------------------------------------------------
    @property
    @abstractmethod
    def eos_ids(self) -> frozenset[int]:
        """Token ids that end an answer."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    # --- other libraries -------------------------------------------------------------------
    def bridge_architecture(self) -> str | type[Any]:
        """What of TransformerLens fits the model, for `lens.bridge`: an architecture's name, or an adapter class.

        Default: the model's own class. A family whose class TransformerLens does not know names one of the same module
        layout, or brings an `ArchitectureAdapter` of its own.
        """
        return type(self.model).__name__

    # --- limits ----------------------------------------------------------------------------
    @property
    def max_positions(self) -> int:
        """Positions that the model was configured for."""
        return int(self.text_config.max_position_embeddings)

    def check_streamable(self, needed_tokens: int | None = None) -> None:
        """Refuse, in one sentence, what the engine cannot stream correctly.

        The engine lets every kept token be attended to, so layers with a sliding window must never hold more
        than the window: the budget plus a chunk, a question and its answer, or (None) all that the model's
        positions allow.

        Raises:
            ModelError: sliding-window layers shorter than `needed_tokens`.
        """
        window = getattr(self.text_config, "sliding_window", None)
        kinds = getattr(self.text_config, "layer_types", None) or []
        needed = self.max_positions if needed_tokens is None else needed_tokens
        if "sliding_attention" in kinds and window is not None and needed > window:
            raise ModelError(
                f"{self.name or self.family} cannot keep {needed} tokens: {kinds.count('sliding_attention')} of "
                f"its {len(kinds)} layers attend to the last {window} tokens only; lower the budget so that "
                f"budget, chunk, question and answer together stay within {window} tokens."
            )

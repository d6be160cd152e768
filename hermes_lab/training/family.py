"""What a pocket model's family decides: its class, the text around the video, and its positions.

Streams, questions, curriculum and evaluation are the same for all families.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hermes_lab.training.config import PocketConfig
from hermes_lab.training.vocabulary import PAD, TURN_END, TURN_START, WORDS

Settings = dict[str, dict[str, Any]]
"""Processor files of a checkpoint: contents by file name."""


PREPARED: dict[str, Any] = {
    "resample": 3,
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_convert_rgb": True,
}
"""How frames are prepared in every family: as training prepares them."""


class Family(ABC):
    """One family; subclasses live one per file and are found by `hermes_lab.training.families.family`."""

    words: ClassVar[tuple[str, ...]]
    """The vocabulary, in order of ids; the first ids mean the same in every family."""
    chat_template: ClassVar[str]
    opening_words: ClassVar[tuple[str, ...]] = ()
    """What the template writes between the user's turn and the first frame."""
    closing_words: ClassVar[tuple[str, ...]] = ()
    """What it writes between the last frame and a question."""

    @property
    def prefix(self) -> tuple[int, ...]:
        """Ids before the first frame."""
        start = (TURN_START, "system", "watch", "the", "stream", TURN_END, TURN_START, "user")
        return tuple(self.words.index(w) for w in (*start, *self.opening_words))

    @property
    def closing(self) -> tuple[int, ...]:
        """Ids between the last frame and the words of a question."""
        return tuple(self.words.index(w) for w in self.closing_words)

    @property
    def vocabulary_size(self) -> int:
        """Rows of the embedding: the words, rounded up to a multiple of 8."""
        return -(-len(self.words) // 8) * 8

    def text_settings(self, config: PocketConfig) -> dict[str, Any]:
        """What the decoders of all families have in common."""
        text = config.text
        return {
            "hidden_size": text.width,
            "intermediate_size": text.mlp,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "num_key_value_heads": text.kv_heads,
            "vocab_size": self.vocabulary_size,
            "max_position_embeddings": text.max_positions,
            "rope_parameters": {"rope_type": "default", "rope_theta": text.rope_theta},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": WORDS.index(TURN_END),
            "pad_token_id": WORDS.index(PAD),
        }

    @abstractmethod
    def build(self, config: PocketConfig, attention: str) -> Any:
        """A model of the family's own class, freshly initialised by transformers."""

    @abstractmethod
    def processor(self, config: PocketConfig) -> Settings:
        """Processor files, with which the checkpoint's frames are prepared as in training."""

    @abstractmethod
    def tower(self, model: Any) -> nn.Module:
        """The vision encoder (with whatever projector lies inside it)."""

    @abstractmethod
    def projector(self, model: Any) -> nn.Module:
        """What maps the encoder's patches to visual tokens; trained together with the decoder too."""

    @abstractmethod
    def features(
        self, model: Any, frames: Float[Tensor, "stream frame 3 side side"]
    ) -> Float[Tensor, "stream token width"]:
        """Visual tokens as the adapter gives them to the decoder, frame by frame in raster order."""

    def positions(
        self, place: Int[Tensor, "stream token"], prefix_tokens: int
    ) -> Int[Tensor, "... stream token"]:
        """Rotary positions of prefix and frames, from their places on one axis (which may have gaps)."""
        return place

    def perceiving(self, model: Any) -> dict[str, nn.Parameter]:
        """Parameters that perception trains, by name."""
        found = {f"tower.{n}": p for n, p in self.tower(model).named_parameters()}
        known = {id(p) for p in found.values()}
        found |= {
            f"projector.{n}": p
            for n, p in self.projector(model).named_parameters()
            if id(p) not in known
        }
        return found

    def freeze_tower(self, model: Any) -> None:
        """Leave the encoder as it is from now on; the projector goes on learning."""
        self.tower(model).requires_grad_(False)
        self.projector(model).requires_grad_(True)


@torch.no_grad()
def scale_matrices(module: nn.Module) -> None:
    """Give matrices the scale of their inputs: stock weights start too small to train from scratch."""
    for parameter in module.parameters():
        if parameter.ndim >= 2:
            parameter.normal_(0, parameter[0].numel() ** -0.5)

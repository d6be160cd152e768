"""Where the "...ForConditionalGeneration" classes of transformers keep decoder, head and vision encoder."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import nn

from hermes_lab.models.chat import ChatAdapter


class ConditionalGeneration(ChatAdapter):
    """An adapter of a model that has a head of its own and everything else in `model`.

    Class attributes:
        decoder_name, vision_name: names of the text model and of the vision encoder inside it.
    """

    decoder_name: ClassVar[str] = "language_model"
    vision_name: ClassVar[str] = "vision_tower"

    @property
    def _inner(self) -> Any:
        return cast(Any, self.model).model

    @property
    def decoder(self) -> nn.Module:
        """The text model."""
        return cast(nn.Module, getattr(self._inner, self.decoder_name))

    @property
    def head(self) -> nn.Module:
        """The language-model head."""
        return cast(nn.Module, cast(Any, self.model).lm_head)

    @property
    def vision(self) -> nn.Module:
        """The vision encoder."""
        return cast(nn.Module, getattr(self._inner, self.vision_name))

"""Warm start: a pocket model of one family takes over the decoder of a trained one of another.

The text layers of Qwen2 and Qwen2.5-VL have the same parameters, so embeddings, layers and head are copied,
and what is left to learn is a vision tower and M-RoPE. The new tower learns from the dense targets of
perception and, beside them, to give the decoder the visual tokens that it is used to.

Whatever is found on such a model is not independent of the training of the model that it started from: a
finding on both may still be an accident of that one training.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hermes_lab.errors import LabError
from hermes_lab.models.base import Adapter
from hermes_lab.models.loading import load
from hermes_lab.training.config import PocketConfig, Stage, TextShape
from hermes_lab.training.families import family

_DECODERS = ("qwen2", "qwen2_5_vl_text")
_STAGES = (Stage(32, 4, 48, 0.10), Stage(64, 2, 96, 0.25), Stage(128, 1, 144, 0.65))
_PERCEPTION_MINUTES, _DECODER_MINUTES = 6.0, 9.0
_LOOKUP_UNTIL, _DECAY_FROM = 0.4, 0.6
_GENTLER = 1 / 3
"""Rates of a decoder that is already trained, relative to one that is not."""


def warmed(config: PocketConfig, source: str) -> PocketConfig:
    """The configuration for a start from `source`: its decoder's shape, fewer minutes, gentler rates.

    Raises:
        ModelError: there is no such model.
        LabError: `config` is for a decoder that starts from nothing.
        LabError: its decoder is not of the Qwen2 kind, or it sees frames of another size.
    """
    if config.tower_from:
        raise LabError(
            f"{config.name} is trained from scratch to see what its decoder learns by itself, so it cannot start "
            f"from that of {source}: leave out --init-from."
        )
    adapter = load(source)
    text, vision = adapter.text_config, config.vision
    if text.model_type not in _DECODERS:
        raise LabError(
            f"{source} has a decoder of type {text.model_type!r}, which {config.name} cannot take over: "
            "start from a trained pocket model."
        )
    side = int(adapter.frame_layout(vision.image_px, vision.image_px).visual_tokens ** 0.5)
    if side * 2 * vision.patch_px != vision.image_px:
        raise LabError(
            f"{source} gives a frame {side}x{side} visual tokens, and {config.name} "
            f"{vision.image_px // vision.patch_px // 2} a side: start from a trained pocket model."
        )
    shape = TextShape(
        width=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        mlp=text.intermediate_size,
        rope_theta=text.rope_parameters["rope_theta"],
        max_positions=text.max_position_embeddings,
    )
    recipe = replace(
        config.recipe,
        stages=_STAGES,
        perception_minutes=_PERCEPTION_MINUTES,
        decoder_minutes=_DECODER_MINUTES,
        lookup_from=0.0,
        lookup_until=_LOOKUP_UNTIL,
        decay_from=_DECAY_FROM,
        decoder_rate=_GENTLER,
    )
    return replace(config, init_from=source, text=shape, recipe=recipe)


@torch.no_grad()
def take_over(model: Any, source: str) -> None:
    """Copy the decoder of `source` into a model of the same text shape, embeddings word by word.

    Words that the source lacks keep their fresh embeddings.
    """
    adapter = load(source)
    theirs, mine = adapter.decoder.state_dict(), model.model.language_model.state_dict()
    known = {word: i for i, word in enumerate(_words(adapter))}
    words = family(model.config.model_type).words
    shared = [(i, known[word]) for i, word in enumerate(words) if word in known]
    for name, value in mine.items():
        if name == "embed_tokens.weight":
            rows, from_rows = (torch.tensor(part) for part in zip(*shared, strict=True))
            value[rows] = theirs[name][from_rows].to(value)
        else:
            value.copy_(theirs[name])


@torch.no_grad()
def take_tower(model: Any, source: str) -> None:
    """Copy the vision encoder of `source`, which its decoder's training left as perception made it.

    Raises:
        ModelError: there is no such model.
        LabError: its encoder has another shape.
    """
    mine = family(model.config.model_type).tower(model)
    theirs: Any = load(source).model
    kin = family(theirs.config.model_type)
    try:
        mine.load_state_dict(kin.tower(theirs).state_dict())
    except RuntimeError as error:
        raise LabError(
            f"{source} has a vision encoder of another shape than this model's: take one from a pocket model of "
            "the same family and size."
        ) from error


def _words(adapter: Adapter) -> list[str]:
    return list(adapter.tokenizer.convert_ids_to_tokens(range(len(adapter.tokenizer))))


class Teacher:
    """The visual tokens that the source's decoder was trained on."""

    def __init__(self, source: str, device: str) -> None:
        self.model: Any = load(source).model.to(device)
        self.family = family(self.model.config.model_type)

    @torch.no_grad()
    def __call__(
        self, frames: Float[Tensor, "stream frame 3 side side"]
    ) -> Float[Tensor, "stream token width"]:
        """The source's tokens of the same frames."""
        return self.family.features(self.model, frames).float()

    def unexplained(
        self,
        frames: Float[Tensor, "stream frame 3 side side"],
        tokens: Float[Tensor, "stream cell width"],
    ) -> Tensor:
        """Share of the variance of the source's tokens that `tokens` miss (0: the same, 1: nothing of it)."""
        wanted = self(frames).view_as(tokens)
        return (tokens - wanted).square().mean() / wanted.var(unbiased=False)

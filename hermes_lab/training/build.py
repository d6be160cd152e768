"""Build a pocket model of a stock class, and save it as any checkpoint of its family is saved."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import GenerationConfig

from hermes_lab.pocket.shipped import CARD
from hermes_lab.training.config import PocketConfig
from hermes_lab.training.families import family
from hermes_lab.training.vocabulary import PAD, TURN_END, WORDS, tokenizer


def build(config: PocketConfig, attention: str = "sdpa") -> Any:
    """A freshly initialised model of the family's own class."""
    torch.manual_seed(config.seed)
    model = family(config.family).build(config, attention)
    model.tie_weights()
    _initialise(model)
    return model


@torch.no_grad()
def _initialise(model: Any) -> None:
    """Small residual writers let twelve narrow layers train at a high rate from the first step."""
    model.get_input_embeddings().weight.normal_(0, 0.1)
    for name, parameter in model.model.language_model.layers.named_parameters():
        if parameter.ndim == 2:
            writer = "o_proj" in name or "down_proj" in name
            parameter.normal_(0, (0.25 if writer else 0.7) / parameter.shape[1] ** 0.5)


def save(model: nn.Module, config: PocketConfig, folder: Path) -> None:
    """Write weights, configuration, tokenizer, processor settings and the card into a folder.

    Weights are stored as float16; the configuration says float32, so that they are computed with as such.
    """
    folder.mkdir(parents=True, exist_ok=True)
    any_model = cast(Any, model)
    any_model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=WORDS.index(TURN_END), pad_token_id=WORDS.index(PAD)
    )
    half = {k: v.half() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    any_model.save_pretrained(folder, state_dict=half)
    kin = family(config.family)
    tokenizer(kin.words, kin.chat_template).save_pretrained(str(folder))
    for name, body in kin.processor(config).items():
        (folder / name).write_text(json.dumps(body, indent=2) + "\n")
    # a folder's own path means nothing elsewhere
    told = replace(
        config, init_from=Path(config.init_from).name, tower_from=Path(config.tower_from).name
    )
    card = {
        "name": config.name,
        "note": _note(told),
        "trained_frames": max(s.frames for s in config.recipe.stages),
        "config": asdict(told),
    }
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n")


def _note(config: PocketConfig) -> str:
    """What a listing says of a model: whose training it shares, and what its decoder was asked for."""
    recipe, domain = config.recipe, "procedural streams only, real footage is out of its domain"
    if config.init_from:
        start = f"decoder warm-started from {config.init_from}, so not independent of its training"
    elif config.tower_from:
        start = f"decoder trained from scratch behind the vision encoder of {config.tower_from}"
    else:
        return "trained from scratch on procedural streams; real footage is out of its domain"
    if any(s.motion_weight or s.memory_weight for s in recipe.stages):
        return f"{start}; {domain}"
    nudge = (
        f"no dense target, look-ups nudged in layers {recipe.lookup_layer} and {recipe.lookup_layer + 1}"
        if recipe.lookup_weight and recipe.lookup_layer is not None
        else "no dense target and no nudge at any depth"
    )
    return f"{start}, {nudge}; {domain}"

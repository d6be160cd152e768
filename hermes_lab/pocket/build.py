"""Build a pocket model of a stock class, and save it as any checkpoint of its family is saved."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
)

from hermes_lab.pocket.config import PocketConfig
from hermes_lab.pocket.shipped import CARD
from hermes_lab.pocket.vocabulary import IMAGE, PAD, TURN_END, VIDEO, WORDS, tokenizer

_ID = {w: i for i, w in enumerate(WORDS)}
_VOCAB = -(-len(WORDS) // 8) * 8


def build(config: PocketConfig, attention: str = "sdpa") -> Any:
    """A freshly initialised model of the family's own class."""
    torch.manual_seed(config.seed)
    model = _llava_onevision(config, attention)
    _initialise(model)
    return model


def _text_config(config: PocketConfig) -> dict[str, Any]:
    text = config.text
    return {
        "model_type": "qwen2",
        "hidden_size": text.width,
        "intermediate_size": text.mlp,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads,
        "vocab_size": _VOCAB,
        "max_position_embeddings": text.max_positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": text.rope_theta},
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": _ID[TURN_END],
        "pad_token_id": _ID[PAD],
    }


def _llava_onevision(config: PocketConfig, attention: str) -> Any:
    vision = config.vision
    cfg = LlavaOnevisionConfig(
        text_config=cast(Any, _text_config(config)),
        vision_config=cast(
            Any,
            {
                "model_type": "siglip_vision_model",
                "hidden_size": vision.width,
                "intermediate_size": vision.mlp,
                "num_hidden_layers": vision.layers,
                "num_attention_heads": vision.heads,
                "image_size": vision.image_px,
                "patch_size": vision.patch_px,
                "vision_use_head": False,
            },
        ),
        image_token_index=_ID[IMAGE],
        video_token_index=_ID[VIDEO],
        image_grid_pinpoints=[[vision.image_px, vision.image_px]],
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    cfg._attn_implementation = attention  # pyright: ignore[reportPrivateUsage]  # how transformers is told
    model = LlavaOnevisionForConditionalGeneration(cfg)
    model.tie_weights()
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
        do_sample=False, eos_token_id=_ID[TURN_END], pad_token_id=_ID[PAD]
    )
    half = {k: v.half() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    any_model.save_pretrained(folder, state_dict=half)
    tokenizer().save_pretrained(str(folder))
    _save_processor(config, folder)
    card = {
        "name": config.name,
        "note": "trained from scratch on procedural streams; real footage is out of its domain",
        "trained_frames": max(s.frames for s in config.recipe.stages),
        "config": asdict(config),
    }
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n")


def _save_processor(config: PocketConfig, folder: Path) -> None:
    side = config.vision.image_px
    common: dict[str, Any] = {
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": True,
    }
    image = common | {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_grid_pinpoints": [[side, side]],
        "do_pad": True,
    }
    video = common | {"video_processor_type": "LlavaOnevisionVideoProcessor"}
    processor = {
        "processor_class": "LlavaOnevisionProcessor",
        "num_image_tokens": (side // config.vision.patch_px) ** 2,
        "vision_feature_select_strategy": "full",
        "image_token": IMAGE,
        "video_token": VIDEO,
        "vision_aspect_ratio": "anyres_max_9",
    }
    for name, body in (
        ("preprocessor_config.json", image),
        ("video_preprocessor_config.json", video),
        ("processor_config.json", processor),
    ):
        (folder / name).write_text(json.dumps(body, indent=2) + "\n")

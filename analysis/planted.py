"""A model in which the finding is true by construction, to test whether the studies see it.

A small LLaVA-OneVision whose weights are set by hand: heads 0 and 1 of the first layer forget at known rates
per frame, heads 0 and 1 of the last layer look at one known slot of every frame, and everything in between
is drawn at random and attends almost uniformly. Both mechanisms also carry content to the output: even
vocabulary entries read what the first layer gathered, odd ones what the last layer gathered. Its answers mean
nothing.

How the plants work. Forgetting: constant query and key biases in one slow rotary pair, a quarter turn apart,
score -a sin(theta * distance), which is linear over a stream's length, so attention fades exponentially.
Anchors: the vision tower's position embedding marks the patches of one cell in a channel of its own; a key
of the last layer reads that channel into the slowest rotary pair, where a constant query finds it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from einops import rearrange
from torch import nn
from transformers import AutoTokenizer, LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from hermes_lab.lab import Lab
from hermes_lab.models.llava_onevision import LlavaOnevision
from hermes_lab.pocket.shipped import shipped_path

HIDDEN = 64
VISION = 32
MARK = VISION - 1  # channel that marks the anchor cell
MARK_VALUE = 16.0
READ = 16  # content channels that a planted head carries
RECENT_AT, ANCHOR_AT = 32, 48  # where it writes them
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16
ROPE_THETA = 1e6
RECENCY_PAIR, ANCHOR_PAIR = 5, 7  # rotary pairs: 1.8e-4 and 5.6e-6 radians per token


@dataclass(frozen=True)
class Plant:
    """What was planted, in the units in which the studies report it.

    Attributes:
        rates_per_frame: forgetting rates of heads 0 and 1 of the first layer.
        slot: the anchor's place in a frame of `side` x `side` tokens, row by row.
        lift: log of an anchor's weight over another token's, in heads 0 and 1 of the last layer.
        layers: decoder layers.
        side: tokens per side of a frame.
    """

    rates_per_frame: tuple[float, float] = (0.35, 0.15)
    slot: int = 6
    lift: float = 2.5
    layers: int = 6
    side: int = 4

    @property
    def tokens_per_frame(self) -> int:
        """Visual tokens of a frame."""
        return self.side**2

    @property
    def anchor_share(self) -> float:
        """Share of the anchor's slot over the uniform share."""
        p = self.tokens_per_frame
        return math.exp(self.lift) * p / (math.exp(self.lift) + p - 1)


def planted_config(plant: Plant, vocab_size: int) -> LlavaOnevisionConfig:
    """Configuration of the planted model (eager to read, small enough for any test)."""
    return LlavaOnevisionConfig(
        text_config={
            "model_type": "qwen2",
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": plant.layers,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_DIM,
            "vocab_size": vocab_size,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
            "tie_word_embeddings": False,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": VISION,
            "intermediate_size": VISION,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16 * plant.side,
            "patch_size": 8,
            "vision_use_head": False,
        },
        image_token_index=vocab_size - 2,
        video_token_index=vocab_size - 1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )


def planted_model(
    plant: Plant | None = None, *, vocab_size: int = 300, seed: int = 0
) -> LlavaOnevisionForConditionalGeneration:
    """Build the planted model; the same seed gives the same weights.

    `vocab_size` must fit the tokenizer that is used with it.
    """
    plant = plant or Plant()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaOnevisionForConditionalGeneration(planted_config(plant, vocab_size))
        with torch.no_grad():
            _plant_vision(model, plant)
            _plant_recency(model, plant)
            _plant_anchors(model, plant)
            _plant_output(model)
    return model.eval().requires_grad_(False)


def _plant_vision(model: LlavaOnevisionForConditionalGeneration, plant: Plant) -> None:
    """Patches become random colour features plus the mark of their cell; the tower's layers do nothing."""
    tower = model.model.vision_tower
    embeddings = tower.embeddings
    weight = embeddings.patch_embedding.weight
    weight.copy_(torch.randn(weight.shape) / math.sqrt(weight[0].numel()))
    weight[MARK] = 0
    embeddings.patch_embedding.bias.zero_()
    position = embeddings.position_embedding.weight.zero_()
    row, col = divmod(plant.slot, plant.side)
    patches = rearrange(position, "(row col) channel -> row col channel", row=2 * plant.side)
    patches[2 * row : 2 * row + 2, 2 * col : 2 * col + 2, MARK] = MARK_VALUE
    for layer in tower.encoder.layers:
        for projection in (layer.self_attn.out_proj, layer.mlp.fc2):
            projection.weight.zero_()
            projection.bias.zero_()
    projector = model.model.multi_modal_projector
    # gelu(x) - gelu(-x) = x: the projector hands its input on unchanged.
    eye = torch.eye(VISION)
    projector.linear_1.weight.copy_(torch.cat([eye, -eye]))
    projector.linear_1.bias.zero_()
    projector.linear_2.weight.zero_()
    projector.linear_2.weight[:VISION] = torch.cat([eye, -eye], 1)
    projector.linear_2.bias.zero_()
    words = cast(nn.Embedding, model.get_input_embeddings())
    words.weight[:, MARK] = 0
    words.weight[:, VISION:] = 0


def _planted_layer(
    model: LlavaOnevisionForConditionalGeneration, index: int, out: int, gain: float
) -> Any:
    """Empty a layer, except that it carries content of KV head 0 to channels `out`; returns its attention module."""
    layer = model.model.language_model.layers[index]
    attention = layer.self_attn
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight.zero_()
        projection.bias.zero_()
    attention.o_proj.weight.zero_()
    layer.mlp.down_proj.weight.zero_()
    channels = torch.arange(READ)
    attention.v_proj.weight[channels, channels] = 1.0
    for head in (0, 1):
        attention.o_proj.weight[out + channels, head * HEAD_DIM + channels] = gain
    return attention


def _plant_recency(model: LlavaOnevisionForConditionalGeneration, plant: Plant) -> None:
    attention = _planted_layer(model, 0, RECENT_AT, gain=0.5)
    theta = ROPE_THETA ** (-2 * RECENCY_PAIR / HEAD_DIM)
    strength = 16.0  # split between query and key, so that neither is large
    attention.k_proj.bias[RECENCY_PAIR] = strength
    for head, rate in enumerate(plant.rates_per_frame):
        per_token = rate / plant.tokens_per_frame
        slope = per_token * math.sqrt(HEAD_DIM) / (theta * strength)
        attention.q_proj.bias[head * HEAD_DIM + RECENCY_PAIR + HEAD_DIM // 2] = slope


def _plant_anchors(model: LlavaOnevisionForConditionalGeneration, plant: Plant) -> None:
    gain = 4.0  # the norm shrinks everything except the mark
    attention = _planted_layer(model, plant.layers - 1, ANCHOR_AT, gain)
    normalised = math.sqrt(HIDDEN)  # the mark outweighs all content: the RMS norm leaves it at this
    attention.k_proj.weight[ANCHOR_PAIR, MARK] = 1.0
    for head in (0, 1):
        query = plant.lift * math.sqrt(HEAD_DIM) / normalised
        attention.q_proj.bias[head * HEAD_DIM + ANCHOR_PAIR] = query


def _plant_output(model: LlavaOnevisionForConditionalGeneration) -> None:
    head = model.lm_head.weight.zero_()
    head[0::2, RECENT_AT : RECENT_AT + READ] = torch.randn(len(head[0::2]), READ)
    head[1::2, ANCHOR_AT : ANCHOR_AT + READ] = torch.randn(len(head[1::2]), READ)


def planted_lab(plant: Plant | None = None, *, seed: int = 0) -> Lab:
    """The planted model ready to stream, with the default model's words as its tokenizer."""
    words = AutoTokenizer.from_pretrained(shipped_path())
    model = planted_model(plant, vocab_size=len(words), seed=seed)
    return Lab(LlavaOnevision(model=model, tokenizer=words, name="planted"))

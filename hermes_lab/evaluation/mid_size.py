"""A mid-size decoder with random weights, for timing only: what it answers means nothing."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from hermes_lab.lab import Lab, load
from hermes_lab.pocket.shipped import shipped_path

# the decoder of a 0.5B Qwen2 at half its depth: width, heads and MLP are the real ones
SHAPE = {
    "hidden_size": 896,
    "num_hidden_layers": 12,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
}


def mid_size_lab() -> Lab:
    """The default model with a wider decoder, through a saved checkpoint: it loads by the path of every model."""
    source = shipped_path("pocket")
    config: Any = AutoConfig.from_pretrained(source)
    for name, value in SHAPE.items():
        setattr(config.text_config, name, value)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = cast(Any, AutoModelForImageTextToText).from_config(config)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        model.save_pretrained(folder)
        for file in source.iterdir():  # tokenizer, chat template and processor settings
            if file.suffix in (".json", ".jinja") and not (folder / file.name).exists():
                shutil.copy(file, folder)
        lab = load(folder, dtype="float32")
    lab.adapter.name = "mid-size (random weights)"
    return lab

"""Tiny random checkpoints of every model family, written as a hub checkpoint would lie on disk.

Decoder: hidden 64, 4 query and 2 KV heads, byte-level tokenizer. Weights are large enough for attention to
be far from uniform, and biases and norm weights are random too, so that a token more or less, or a wrong
position, moves the logits well beyond rounding.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
)

from tests.checkpoint_specs import (
    ID,
    SPECIAL,
    VOCABULARY,
    Spec,
    gemma3,
    idefics3,
    internvl,
    llava_onevision,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_vl,
)

_SPECS: dict[str, Callable[[int], Spec]] = {
    "llava_onevision": llava_onevision,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "idefics3": idefics3,
    "internvl": internvl,
    "gemma3": gemma3,
    "qwen2_vl": qwen2_vl,
    "smolvlm": partial(idefics3, kind="smolvlm"),
}
VARIANTS: tuple[str, ...] = (
    "qwen2_vl",
    "smolvlm",
)  # model types that share another family's adapter
FAMILIES: tuple[str, ...] = tuple(name for name in _SPECS if name not in VARIANTS)


def write_checkpoint(family: str, folder: Path, seed: int = 0, layers: int = 4) -> Path:
    """Write a tiny checkpoint of one family into `folder`; the same seed gives the same weights."""
    config, settings, template = _SPECS[family](layers)
    folder.mkdir(parents=True, exist_ok=True)
    kind = config.pop("model_type")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **config))
        for parameter in model.parameters():
            if parameter.ndim == 1 or not parameter.any():  # Gemma3 starts its projection at zero
                parameter.data += 0.1 * torch.randn_like(parameter)
    model.generation_config.eos_token_id = ID["<|im_end|>"]
    model.save_pretrained(folder)
    write_tokenizer(folder, template)
    for name, content in settings.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def write_tokenizer(folder: Path, template: str | None) -> None:
    """A tokenizer of single bytes and the special tokens of all families, with a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {**ID, **{letter: len(ID) + i for i, letter in enumerate(alphabet)}}
    assert len(vocabulary) <= VOCABULARY
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<|im_end|>",
        additional_special_tokens=[t for t in SPECIAL if t not in ("<pad>", "<bos>", "<|im_end|>")],
        chat_template=template,
    ).save_pretrained(folder)

"""What a checkpoint may ask for. Whoever made it may mean harm, so it is looked at before transformers acts on it.

Weights come from safetensors files of the checkpoint itself, whatever an index or the settings name. Settings choose
no code: neither a kernel of a hub, nor remote code, nor a quantisation that fetches kernels. Sizes are plausible, and
those of the settings belong to those of the weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText

from hermes_lab.errors import ModelError
from hermes_lab.files import check_file, depth_beyond, parse_json, read_bytes
from hermes_lab.models.source import MOST_BYTES, Source, first_line

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Taken out of the settings: what chooses code. This library says itself how attention is computed.
_CHOOSES_CODE = re.compile(
    r"_?(attn|experts)_implementation(_internal|_autoset)?|auto_map|custom_(generate|pipelines)|custom_object_save|"
    r"use_kernels|kernel_config|fusion_config|distributed_config|quantizer_class"
)
_QUANTIZED = ("bitsandbytes", "gptq", "awq", "compressed-tensors")
_SHARD = re.compile(r"shard-\d+-model-\d+-of-\d+\.safetensors")
_VOCABULARIES = (
    "tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
)  # fmt: skip
_MOST_WORDS = 1_000_000
_LARGEST_FILE = 2**62

# The first that matches a setting's name decides: least and most.
_RANGES: tuple[tuple[re.Pattern[str], int, int], ...] = tuple(
    (re.compile(name), least, most)
    for name, least, most in (
        (r"num_hidden_layers|depth", 1, 1024),
        (r".*layers", 0, 1024),
        (r".*experts.*", 0, 4096),
        (r"vocab_size", 1, 4 * _MOST_WORDS),
        (r"shortest_edge|min_pixels|min_image_size", 1, 2**25),
        (r"image_size|patch_size|temporal_patch_size|spatial_merge_size|merge_size", 1, 2**14),
        (r"height|width", 1, 2**14),
        (r"(crop|tile|grid|window)_size|num_(image|patch).*", 0, 2**14),
        (r"hidden_size|(num_)?(attention_)?heads", 1, 2**20),
        (r".*(_size|_dim|_heads|_channels|_groups|_rank)", 0, 2**20),
        (r"max_position_embeddings", 0, 2**31),
    )
)


def checked_settings(settings: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A checkpoint's settings without those that choose code.

    Args:
        what: where they come from, as a sentence begins.

    Raises:
        ModelError: they are nested too deeply, hold sizes that cannot be, or ask for code of others.
    """
    if depth_beyond(settings, 32):
        raise ModelError(f"{what} cannot be used: its settings are nested too deeply.")
    clean = cast("dict[str, Any]", _without_code(dict(settings)))
    for name, value in _named(clean):
        _check_number(name, value, what)
        _check_code(name, value, what)
    return clean


def weight_files(source: Source, settings: Mapping[str, Any]) -> list[Path]:
    """The safetensors files that hold a checkpoint's weights.

    Raises:
        ModelError: there are none, or an index or the settings name something else.
    """
    if source.is_folder:
        _check_names(Path(source.name))
    given = settings.get("transformers_weights")
    if given is not None:
        _check_name(given, "config.json", source)
        name = str(given)
    else:
        name = WEIGHTS if source.find(WEIGHTS) is not None else INDEX
    path = source.find(name)
    if path is None:
        raise ModelError(
            f"The weights of {source} cannot be loaded: it has no {WEIGHTS} and no {INDEX}; pickled weights are never "
            "read, so convert them to safetensors."
        )
    names = _shards(source, name) if name.endswith(".json") else [name]
    found = source.find_all(names)
    for file in found:
        check_file(file, at_most=_LARGEST_FILE, error=ModelError)
    return found


def check_parameters(source: Source, config: Any, files: list[Path]) -> None:
    """Compare the model that the settings describe with the weights that are there, before memory is taken for it.

    Raises:
        ModelError: the weights cannot be read, or the model would be far larger than they are.
    """
    try:
        stored = sum(map(_stored, files))
    except Exception as error:  # safetensors has its own types, which it does not document
        raise ModelError(
            f"The weights of {source} cannot be loaded: {first_line(error)}"
        ) from error
    try:
        with torch.device("meta"):
            model = cast(Any, AutoModelForImageTextToText).from_config(
                config, attn_implementation="sdpa"
            )
        described = sum(int(p.numel()) for p in model.parameters())
    except Exception as error:  # settings that contradict each other surface as many types
        raise ModelError(
            f"The config.json of {source} describes no model that can be built: {first_line(error)}"
        ) from error
    packed = 16 if getattr(config, "quantization_config", None) is not None else 1
    if described > 2 * packed * stored + 10_000_000:
        raise ModelError(
            f"The config.json of {source} describes a model of {described:,} parameters, and its weights hold "
            f"{stored:,}: they do not belong together."
        )


def check_vocabulary(source: Source) -> None:
    """Look at the vocabulary before a tokenizer is built from it, which takes minutes for millions of words.

    Raises:
        ModelError: it is damaged, or larger than any vocabulary is.
    """
    for name in _VOCABULARIES:
        path = source.find(name)
        if path is None:
            continue
        check_file(path, at_most=MOST_BYTES, error=ModelError)
        if name == "tokenizer.json":
            data = read_bytes(path, at_most=MOST_BYTES, error=ModelError)
            what = f"The tokenizer of {source} is missing or cannot be loaded: {name}"
            value = parse_json(data, what, ModelError)
            words = _length(value, "model", "vocab") + _length(value, "added_tokens")
            if max(words, _length(value, "model", "merges")) > _MOST_WORDS:
                raise ModelError(
                    f"The tokenizer of {source} has more than {_MOST_WORDS:,} words, which no known one has; it is "
                    "not loaded."
                )


# --- settings -------------------------------------------------------------------------------
def _without_code(value: Any) -> Any:
    if isinstance(value, dict):
        named = cast("dict[str, Any]", value)
        return {
            k: _without_code(v) for k, v in named.items() if not _CHOOSES_CODE.fullmatch(str(k))
        }
    if isinstance(value, list):
        return [_without_code(one) for one in cast("list[Any]", value)]
    return value


def _named(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with its name; entries of a list have the name of the list."""
    if isinstance(value, dict):
        for key, one in cast("dict[str, Any]", value).items():
            yield str(key), one
            yield from _named(one, str(key))
    elif isinstance(value, list):
        for one in cast("list[Any]", value):
            if not isinstance(one, (dict, list)):
                yield name, one
            yield from _named(one, name)


def _check_number(name: str, value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    for pattern, least, most in _RANGES:
        if pattern.fullmatch(name):
            if not least <= value <= most:  # NaN is in no range
                raise ModelError(
                    f"{what} cannot be used: its {name} is {value:.6g}, and must be from {least} to {most}."
                    if isinstance(value, float) or abs(value) < 10**15
                    else f"{what} cannot be used: its {name} is beyond {most}."
                )
            return


def _check_code(name: str, value: Any, what: str) -> None:
    method = cast("dict[str, Any]", value).get("quant_method") if isinstance(value, dict) else None
    if name == "quantization_config" and isinstance(value, dict):
        bits = any(cast("dict[str, Any]", value).get(f"load_in_{n}bit") for n in (4, 8))
        method = "bitsandbytes" if method is None and bits else method
        if method not in _QUANTIZED:
            raise ModelError(
                f"{what} asks for the quantisation {method!r}, whose code may come from a hub; those that are used "
                f"here are {', '.join(_QUANTIZED)}."
            )
    fetched = isinstance(value, str) and name == "model_type" and "timm" in value
    if fetched or (name in ("backbone", "use_pretrained_backbone", "use_timm_backbone") and value):
        raise ModelError(
            f"{what} asks for {name} = {value!r}, which fetches another model; that is not done here."
        )


# --- weights ----------------------------------------------------------------------------------
def _check_names(folder: Path) -> None:
    """Files of a folder from which transformers would load in other ways."""
    names = {path.name for path in folder.iterdir()}
    if "adapter_config.json" in names:
        raise ModelError(
            f"The folder {folder} holds an adapter (adapter_config.json) besides its weights, which is not applied "
            "here; merge it into the weights, or take it away."
        )
    if shards := sorted(filter(_SHARD.fullmatch, names)):
        raise ModelError(
            f"The folder {folder} holds parts of a distributed checkpoint ({shards[0]}); save it as one first."
        )


def _shards(source: Source, index: str) -> list[str]:
    content = source.json(index)
    named = content.get("weight_map")
    if not isinstance(named, dict) or not named:
        raise ModelError(f"The {index} of {source} has no weight_map; it is damaged.")
    files = list(cast("dict[str, Any]", named).values())
    for file in files:
        _check_name(file, index, source)
    return sorted(set(files))


def _check_name(file: Any, where: str, source: Source) -> None:
    """Refuse whatever is not the plain name of a safetensors file, or of their index."""
    ends = (".safetensors",) if where == INDEX else (".safetensors", ".safetensors.index.json")
    plain = isinstance(file, str) and not re.search(r"[/\\\0:]|^\.", file)
    if not plain or not file.endswith(ends):
        raise ModelError(
            f"The {where} of {source} names the weights file {str(file)[:80]!r}; only safetensors files of the "
            "checkpoint itself are read."
        )


def _stored(file: Path) -> int:
    """Numbers in a safetensors file, from its header."""
    total = 0
    with safe_open(file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118  # not a mapping
            size = 1
            for side in opened.get_slice(name).get_shape():
                size *= side
            total += size
    return total


def _length(value: Any, *names: str) -> int:
    """Entries of a list or object within others; 0 where there is none."""
    for name in names:
        value = cast("dict[str, Any]", value).get(name) if isinstance(value, dict) else None
    return len(cast("list[Any]", value)) if isinstance(value, (list, dict)) else 0

"""Loading a model by name: a shipped default, a local folder, or a hub id. Remote code is never run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedConfig,
)

from hermes_lab.errors import ModelError, nearest
from hermes_lab.files import is_folder, looked_up, named
from hermes_lab.memory import is_out_of_memory, within_memory
from hermes_lab.models.base import Adapter
from hermes_lab.models.device import check_device, default_device
from hermes_lab.models.registry import FamilyInfo as FamilyInfo
from hermes_lab.models.registry import adapter_class, families
from hermes_lab.models.source import Source, check_folder, first_line
from hermes_lab.models.untrusted import (
    check_parameters,
    check_vocabulary,
    checked_settings,
    weight_files,
)
from hermes_lab.pocket.shipped import names, shipped_path

_SMALLER = "choose a smaller one, load it with dtype='bfloat16', or give another device"
_TEMPLATE_FILES = ("chat_template.json", "processor_config.json")
_NEEDED = (
    ("config.json", "config.json"),
    ("*.safetensors", "weights (*.safetensors; pickled weights are never read)"),
    ("tokenizer*", "tokenizer (tokenizer.json, tokenizer.model ...)"),
)


def load(
    name: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Adapter:
    """Load a model and wrap it in its family's adapter, in eval mode with frozen weights.

    Args:
        name: a shipped model's name ("pocket"), a local folder, or a hub id.
        dtype: "auto" (the checkpoint's own), a dtype, or its name, such as "bfloat16".
        device: where the whole model goes, not together with `device_map`; None: a CUDA GPU when there is one. What
            is quantised stays where its library puts it.
        device_map: passed to transformers (needs the accelerate package).
        revision: branch, tag or commit of a hub id.
        local_files_only: never ask the hub.

    Raises:
        ModelError: unknown name, unsupported family, or a checkpoint that is incomplete, damaged or asks for too much.
        OutOfMemoryError: it does not fit.
    """
    if device is not None and device_map is not None:
        raise ModelError("Give either a device or a device_map, not both.")
    if device is not None:
        check_device(device)
    elif device_map is None:
        device = default_device()
    source = Source(_resolve(name), {"revision": revision, "local_files_only": local_files_only})
    with within_memory(f"The model {name}", _SMALLER):
        return _adapter(str(name), source, dtype, device, device_map)


def _adapter(
    name: str,
    source: Source,
    dtype: str | torch.dtype,
    device: str | None,
    device_map: str | Mapping[str, Any] | None,
) -> Adapter:
    """Look at a checkpoint, then load it."""
    if source.is_folder:
        check_folder(Path(source.name))
    settings = checked_settings(_read_config(source), f"The config.json of {source}")
    adapter = adapter_class(name, settings.get("model_type"))
    check_vocabulary(source)
    config = _config(source, settings)
    model = _load_model(source, config, settings, dtype, device_map)
    if device is not None and getattr(model, "quantization_method", None) is None:
        try:
            model.to(device)
        except (RuntimeError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
            raise ModelError(
                f"The model cannot be moved to device {device!r}: {first_line(error)}"
            ) from error
    return adapter(
        model=model.eval().requires_grad_(False),
        tokenizer=_load_tokenizer(source, config),
        image_settings=_load_settings(source),
        name=name,
        revision=source.hub["revision"] or getattr(model.config, "_commit_hash", None),
    )


def _shipped() -> dict[str, Path]:
    """Names and folders of the models that travel with the package."""
    return {name: shipped_path(name) for name in names()}


def _resolve(name: str | Path) -> str:
    """The folder or hub id that a name stands for."""
    text = str(name)
    if isinstance(name, str) and text in (shipped := _shipped()):
        return _checked(shipped[text])
    folder = named(text)
    if is_folder(folder, ModelError):
        return _checked(folder)
    if looked_up(folder, ModelError) is not None:
        raise ModelError(f"{folder} is a file; name the folder of the checkpoint instead.")
    if isinstance(name, Path) or text.startswith(("/", ".", "~")) or text.count("/") > 1:
        raise ModelError(f"There is no model folder at {folder}.")
    if "/" not in text:
        known = [*_shipped(), *(example for info in families() for example in info.examples)]
        raise ModelError(
            f"There is no model named {text!r}; {nearest(text, known, 'hermes-lab models')}"
        )
    return text


def _checked(folder: Path) -> str:
    """The folder, if it holds the files without which nothing can be loaded."""
    try:
        os.listdir(folder)
    except OSError as error:
        raise ModelError(f"The folder {folder} cannot be read: {error.strerror}.") from error
    for pattern, what in _NEEDED:
        if not any(folder.glob(pattern)):
            raise ModelError(
                f"The folder {folder} holds no {what}, so it cannot be loaded as a model."
            )
    return str(folder)


def _read_config(source: Source) -> dict[str, Any]:
    try:
        config, _ = PreTrainedConfig.get_config_dict(source.name, **source.hub)
    except Exception as error:  # a damaged file or an unreachable hub surface as many types
        if source.is_folder:
            raise ModelError(
                f"The config.json in {source} cannot be read: {first_line(error)}"
            ) from error
        if source.hub.get("local_files_only"):
            raise ModelError(
                f"The model {source.name!r} is neither a folder here nor in the local cache of the hub; fetch it first, "
                f"such as with `hermes-lab run --model {source}`."
            ) from error
        raise ModelError(
            f"The model {source.name!r} is neither a folder here nor reachable on the hub: {first_line(error)}"
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"The config.json of {source} holds no settings by name; it is damaged.")
    return config


def _config(source: Source, settings: Mapping[str, Any]) -> PreTrainedConfig:
    """The settings as transformers holds them, made of those that were checked."""
    try:
        return CONFIG_MAPPING[settings["model_type"]].from_dict(dict(settings))
    except Exception as error:  # settings of the wrong kind surface as many types
        raise ModelError(
            f"The config.json of {source} cannot be used: {first_line(error)}"
        ) from error


def _load_model(
    source: Source,
    config: PreTrainedConfig,
    settings: Mapping[str, Any],
    dtype: str | torch.dtype,
    device_map: str | Mapping[str, Any] | None,
) -> Any:
    if (
        isinstance(dtype, str)
        and dtype != "auto"
        and not isinstance(getattr(torch, dtype, None), torch.dtype)
    ):
        raise ModelError(
            f"{dtype!r} is not a torch dtype; try 'auto', 'float32', 'bfloat16' or 'float16'."
        )
    check_parameters(source, config, weight_files(source, settings))
    try:
        model, report = cast(Any, AutoModelForImageTextToText).from_pretrained(
            source.name,
            config=config,
            dtype=dtype,
            device_map=device_map,
            attn_implementation="sdpa",
            trust_remote_code=False,
            use_safetensors=True,  # never unpickle weights
            output_loading_info=True,
            **source.hub,
        )
    except Exception as error:  # damaged files surface as many types, safetensors' own among them
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"The weights of {source} cannot be loaded: {first_line(error)}"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"The checkpoint {source} lacks {len(missing)} of its model's weights, {missing[0]} among them; "
            "it is incomplete."
        )
    return model


def _load_tokenizer(source: Source, config: PreTrainedConfig) -> Any:
    try:
        tokenizer = cast(Any, AutoTokenizer).from_pretrained(
            source.name, config=config, trust_remote_code=False, **source.hub
        )
    except Exception as error:  # a missing or damaged tokenizer surfaces as many types
        raise ModelError(
            f"The tokenizer of {source} is missing or cannot be loaded: {first_line(error)}"
        ) from error
    if source.find("chat_template.jinja") is None:  # older checkpoints: the processor's goes first
        processors = map(source.json, _TEMPLATE_FILES)
        templates = [p["chat_template"] for p in processors if p.get("chat_template")]
        tokenizer.chat_template = templates[0] if templates else tokenizer.chat_template
    return tokenizer


def _load_settings(source: Source) -> dict[str, Any]:
    """Saved processor settings: "image", "video" and "processor", each a mapping (empty where not saved)."""
    processor = _settings_of(source, "processor_config.json")
    image = processor.pop("image_processor", None)
    video = processor.pop("video_processor", None)
    found = {
        "image": image or _settings_of(source, "preprocessor_config.json"),
        "video": video or _settings_of(source, "video_preprocessor_config.json"),
        "processor": processor,
    }
    for name, value in found.items():
        if not isinstance(value, dict):
            raise ModelError(
                f"The {name} settings of {source} are not given by name; they are damaged."
            )
    return found


def _settings_of(source: Source, file: str) -> dict[str, Any]:
    return checked_settings(source.json(file), f"The {file} of {source}")

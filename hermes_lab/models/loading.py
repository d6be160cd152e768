"""Loading a model by name: a shipped default, a local folder, or a hub id. Remote code is never run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import HFValidationError
from transformers import AutoModelForImageTextToText, AutoTokenizer, PreTrainedConfig
from transformers.utils.hub import cached_file

from hermes_lab.errors import ModelError, nearest
from hermes_lab.files import is_folder, looked_up, named
from hermes_lab.models.base import Adapter
from hermes_lab.models.device import check_device
from hermes_lab.models.registry import FamilyInfo as FamilyInfo
from hermes_lab.models.registry import adapter_class, families
from hermes_lab.pocket.shipped import names, shipped_path

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
        device: where the whole model goes; not together with `device_map`.
        device_map: passed to transformers (needs the accelerate package).
        revision: branch, tag or commit of a hub id.
        local_files_only: never ask the hub.

    Raises:
        ModelError: unknown name, unsupported family, or a checkpoint that is incomplete or damaged.
    """
    if device is not None and device_map is not None:
        raise ModelError("Give either a device or a device_map, not both.")
    if device is not None:
        check_device(device)
    source = _resolve(name)
    hub = {"revision": revision, "local_files_only": local_files_only}
    config = _read_config(source, hub)
    adapter = adapter_class(str(name), config.get("model_type"))
    model = _load_model(source, hub, dtype, device_map)
    if device is not None:
        try:
            model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(
                f"The model cannot be moved to device {device!r}: {_line(error)}"
            ) from error
    return adapter(
        model=model.eval().requires_grad_(False),
        tokenizer=_load_tokenizer(source, hub),
        image_settings=_load_settings(source, hub),
        name=str(name),
        revision=revision or getattr(model.config, "_commit_hash", None),
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


def _line(error: BaseException) -> str:
    """The first line of somebody else's message, as the end of a sentence."""
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__).rstrip(" .:") + "."


def _read_config(source: str, hub: Mapping[str, Any]) -> dict[str, Any]:
    try:
        config, _ = PreTrainedConfig.get_config_dict(source, **hub)
    except (OSError, ValueError, HFValidationError) as error:
        if Path(source).is_dir():
            raise ModelError(
                f"The config.json in {source} cannot be read: {_line(error)}"
            ) from error
        raise ModelError(
            f"The model {source!r} is neither a folder here nor reachable on the hub: {_line(error)}"
        ) from error
    return config


def _load_model(
    source: str,
    hub: Mapping[str, Any],
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
    try:
        model, report = cast(Any, AutoModelForImageTextToText).from_pretrained(
            source,
            dtype=dtype,
            device_map=device_map,
            attn_implementation="sdpa",
            trust_remote_code=False,
            use_safetensors=True,  # never unpickle weights
            output_loading_info=True,
            **hub,
        )
    except Exception as error:  # damaged files surface as many types, safetensors' own among them
        raise ModelError(f"The weights of {source} cannot be loaded: {_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"The checkpoint {source} lacks {len(missing)} of its model's weights, {missing[0]} among them; "
            "it is incomplete."
        )
    return model


def _load_tokenizer(source: str, hub: Mapping[str, Any]) -> Any:
    try:
        tokenizer = cast(Any, AutoTokenizer).from_pretrained(source, trust_remote_code=False, **hub)
    except Exception as error:  # a missing or damaged tokenizer surfaces as many types
        raise ModelError(
            f"The tokenizer of {source} is missing or cannot be loaded: {_line(error)}"
        ) from error
    if (
        _find(source, "chat_template.jinja", hub) is None
    ):  # older checkpoints: the processor's goes first
        processors = (_read_json(source, name, hub) for name in _TEMPLATE_FILES)
        templates = [p["chat_template"] for p in processors if p.get("chat_template")]
        tokenizer.chat_template = templates[0] if templates else tokenizer.chat_template
    return tokenizer


def _load_settings(source: str, hub: Mapping[str, Any]) -> dict[str, Any]:
    """Saved processor settings: "image", "video" and "processor", each a mapping (empty where not saved)."""
    processor = _read_json(source, "processor_config.json", hub)
    image = processor.pop("image_processor", None)
    video = processor.pop("video_processor", None)
    return {
        "image": image or _read_json(source, "preprocessor_config.json", hub),
        "video": video or _read_json(source, "video_preprocessor_config.json", hub),
        "processor": processor,
    }


def _find(source: str, file: str, hub: Mapping[str, Any]) -> str | None:
    return cached_file(
        source,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **hub,
    )


def _read_json(source: str, file: str, hub: Mapping[str, Any]) -> dict[str, Any]:
    path = _find(source, file, hub)
    if path is None:
        return {}
    try:
        return cast(dict[str, Any], json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ModelError(f"The file {file} of {source} cannot be read: {_line(error)}") from error

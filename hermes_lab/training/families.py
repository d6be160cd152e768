"""The families of pocket models by the `model_type` of their configuration."""

from __future__ import annotations

from hermes_lab.errors import LabError, nearest
from hermes_lab.training.family import Family
from hermes_lab.training.llava_onevision import LlavaOnevisionFamily
from hermes_lab.training.qwen2_5_vl import Qwen2_5VLFamily

FAMILIES: dict[str, Family] = {
    "llava_onevision": LlavaOnevisionFamily(),
    "qwen2_5_vl": Qwen2_5VLFamily(),
}


def family(model_type: str) -> Family:
    """The family of a model type.

    Raises:
        LabError: no pocket model is of that type.
    """
    if model_type not in FAMILIES:
        raise LabError(
            f"There is no pocket model of type {model_type!r}: {nearest(model_type, FAMILIES)}"
        )
    return FAMILIES[model_type]

"""Model families: `load` a checkpoint, get an `Adapter`.

What is specific to one family of models enters, one file each: where its parts are, what tokens a frame becomes, its
chat template. Nothing here knows of streams, caches or policies.
"""

from hermes_lab.models.base import Adapter, FrameLayout
from hermes_lab.models.loading import load
from hermes_lab.models.registry import FamilyInfo, families, problems, register, unregister
from hermes_lab.segment import Segment

__all__ = [
    "Adapter",
    "FamilyInfo",
    "FrameLayout",
    "Segment",
    "families",
    "load",
    "problems",
    "register",
    "unregister",
]

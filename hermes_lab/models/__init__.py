"""Model families: `load` a checkpoint, get an `Adapter`."""

from hermes_lab.models.base import Adapter, FrameLayout, Segment
from hermes_lab.models.cursor import Cursor
from hermes_lab.models.loading import FamilyInfo, families, load

__all__ = ["Adapter", "Cursor", "FamilyInfo", "FrameLayout", "Segment", "families", "load"]

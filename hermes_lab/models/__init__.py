"""Model families: `load` a checkpoint, get an `Adapter`."""

from hermes_lab.engine.cursor import Cursor
from hermes_lab.models.base import Adapter, FrameLayout
from hermes_lab.models.loading import FamilyInfo, families, load
from hermes_lab.segment import Segment

__all__ = ["Adapter", "Cursor", "FamilyInfo", "FrameLayout", "Segment", "families", "load"]

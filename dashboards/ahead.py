"""Everything that is slow to import and needed only once a model runs; see `app.import_ahead`."""

from __future__ import annotations

from dashboards.lab import contest
from dashboards.live import running
from dashboards.parts import controls, readings

__all__ = ["contest", "controls", "readings", "running"]

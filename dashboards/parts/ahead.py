"""Everything that is slow to import and needed only once a model runs; see `app.import_ahead`."""

from __future__ import annotations

import dashboards.lab.contest as contest
import dashboards.live.running as live_run
import dashboards.parts.controls as controls
import dashboards.parts.readings as readings

__all__ = ["contest", "controls", "live_run", "readings"]

"""Everything that is slow to import and needed only once a model runs; see `app.import_ahead`."""

from __future__ import annotations

import dashboards.contest as contest
import dashboards.controls as controls
import dashboards.live_run as live_run
import dashboards.readings as readings

__all__ = ["contest", "controls", "live_run", "readings"]

"""All kinds of input, by name."""

from __future__ import annotations

from tests.fuzz.cases import Target
from tests.fuzz.checkpoints import Checkpoints
from tests.fuzz.links import Links
from tests.fuzz.policies import Policies
from tests.fuzz.recordings import Recordings
from tests.fuzz.reports import Reports
from tests.fuzz.videos import Videos

KINDS: dict[str, type[Target]] = {
    kind.name: kind for kind in (Videos, Recordings, Reports, Checkpoints, Policies, Links)
}

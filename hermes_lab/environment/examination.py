"""Look at everything once."""

from __future__ import annotations

from hermes_lab.environment.checks import Examination
from hermes_lab.environment.codecs import codecs
from hermes_lab.environment.devices import devices
from hermes_lab.environment.extras import browser, optional
from hermes_lab.environment.versions import own_version, packages, python
from hermes_lab.environment.weights import weights


def examine() -> Examination:
    """Versions, devices, codecs, weights, optional packages and the test browser, as they are here and now."""
    return Examination(
        own_version(),
        {
            "python": [python()],
            "packages": packages(),
            "devices": devices(),
            "codecs": codecs(),
            "models": weights(),
            "optional": optional(),
            "browser": browser(),
        },
    )

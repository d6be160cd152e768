"""What HERMES Lab finds around it: versions, devices, codecs, shipped weights, optional packages.

`examine()` looks at everything, as `hermes-lab doctor` shows it. Nothing here needs torch or any other
package to be importable: a missing package is a finding, not an error. One file enters for each kind of finding.
"""

from __future__ import annotations

from hermes_lab.environment.checks import Check, Examination
from hermes_lab.environment.examination import examine
from hermes_lab.environment.versions import untested

__all__ = ["Check", "Examination", "examine", "untested"]

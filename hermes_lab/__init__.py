"""HERMES Lab: what does a video model remember, and where?

```python
import hermes_lab
from hermes_lab import StreamSession, video

lab = hermes_lab.load("pocket")
run = StreamSession(lab, policy="hermes(budget_tokens=512)")
for chunk in video.open("clip.mp4", fps=1).chunks(16):
    run.feed(chunk)
print(run.ask("What was the first object?").text)
```
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hermes_lab import figures as figures
    from hermes_lab import lens as lens
    from hermes_lab import policies as policies
    from hermes_lab import video as video
    from hermes_lab.errors import LabError as LabError
    from hermes_lab.lab import Lab as Lab
    from hermes_lab.lab import load as load
    from hermes_lab.policies.base import Policy as Policy
    from hermes_lab.recording.reader import Recording as Recording
    from hermes_lab.snapshot import Answer as Answer
    from hermes_lab.snapshot import Snapshot as Snapshot
    from hermes_lab.stream.session import StreamSession as StreamSession

__version__ = "0.2.0"

# torch and transformers take seconds to import: names come from their modules when they are asked for
_HOMES = {
    "Answer": "snapshot",
    "Lab": "lab",
    "LabError": "errors",
    "Policy": "policies.base",
    "Recording": "recording.reader",
    "Snapshot": "snapshot",
    "StreamSession": "stream.session",
    "load": "lab",
}
_MODULES = ("figures", "lens", "policies", "video")

__all__ = [
    "Answer",
    "Lab",
    "LabError",
    "Policy",
    "Recording",
    "Snapshot",
    "StreamSession",
    "figures",
    "lens",
    "load",
    "policies",
    "video",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"hermes_lab.{_HOMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"hermes_lab.{name}")
    raise AttributeError(f"module 'hermes_lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

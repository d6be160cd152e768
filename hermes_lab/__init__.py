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

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hermes_lab.lab import Lab as Lab
    from hermes_lab.lab import load as load
    from hermes_lab.session import StreamSession as StreamSession

__version__ = "0.2.0"
__all__ = ["Lab", "StreamSession", "load"]


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import: recordings and listings must not pay for them
    if name in ("Lab", "load"):
        from hermes_lab import lab

        return getattr(lab, name)
    if name == "StreamSession":
        from hermes_lab.session import StreamSession

        return StreamSession
    raise AttributeError(f"module 'hermes_lab' has no attribute {name!r}")

"""Whether a process is still there, and what processes that are gone have left behind."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)(\.part|\.tmp)?")
_SHORT = 40  # names near the system's limit are cut for their temporary files


def is_running(pid: int) -> bool | None:
    """Whether a process of this machine runs; None where the system does not tell."""
    if os.name != "posix" or pid <= 0:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:  # no process can have that number
        return None
    except OSError:  # it is somebody else's
        return True
    return True


def sweep(path: Path) -> None:
    """Remove temporary files of processes that were killed while they wrote `path`: `.NAME.PID`, `.part`, `.tmp`."""
    with suppress(OSError):
        for entry in path.parent.iterdir():
            match = _LEFTOVER.fullmatch(entry.name)
            same = match is not None and match["name"][:_SHORT] == path.name[:_SHORT]
            if match and same and is_running(int(match["pid"])) is False:
                entry.unlink(missing_ok=True)

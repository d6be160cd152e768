"""One finding about the environment, and all of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["ok", "untested", "absent", "missing", "outside", "broken"]
_FAILED: tuple[State, ...] = ("missing", "outside", "broken")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        state: "ok"; "untested" (allowed, but nobody ran the tests with this version); "absent" (not here, and
            only some features want it); "missing"; "outside" (of the versions that are allowed); "broken".
        found: what is here, in words; None where nothing is.
        wanted: what should be here, in words.
        fix: the command, or the step, that fixes it; None where nothing has to be fixed.
        needed: whether HERMES Lab cannot do its main job without it.
        facts: the same for programs; keys differ by what was looked at.
    """

    name: str
    state: State
    found: str | None = None
    wanted: str = ""
    fix: str | None = None
    needed: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def failed(self) -> bool:
        """Whether something needed is not as it must be."""
        return self.needed and self.state in _FAILED


@dataclass(frozen=True)
class Examination:
    """Everything that was looked at, by section, in the order in which it is shown."""

    version: str
    sections: Mapping[str, Sequence[Check]]

    @property
    def failed(self) -> list[Check]:
        """What has to be fixed before HERMES Lab can do its main job."""
        return [check for checks in self.sections.values() for check in checks if check.failed]

    def to_json(self) -> dict[str, Any]:
        """Plain data; the keys are stable: "hermes_lab", "ok", and one list of checks per section."""
        return {
            "hermes_lab": self.version,
            "ok": not self.failed,
            **{name: [asdict(c) for c in checks] for name, checks in self.sections.items()},
        }


def install(*requirements: str) -> str:
    """The command that installs packages into the Python that runs."""
    return "python -m pip install " + " ".join(f'"{r}"' for r in requirements)


def first_line(error: BaseException) -> str:
    """Somebody else's message, short enough for a table."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

"""What installed packages add to HERMES Lab by entry points: loaded once, and a faulty one harms no other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from hermes_lab.errors import LabError

_log = logging.getLogger(__name__)


class Plugins:
    """The plug-ins of one entry-point group.

    Args:
        group: the entry-point group.
        kind: what a plug-in of it is, in a word or two ("policy").
        builtin: names that plug-ins cannot take.
        fault: why an object that an entry point names cannot be used, as a clause, or None; given the entry
            point's name and the object.
    """

    def __init__(
        self,
        group: str,
        kind: str,
        builtin: Collection[str],
        fault: Callable[[str, Any], str | None],
    ) -> None:
        self.group, self.kind, self.builtin = group, kind, builtin
        self._fault = fault
        self._found: dict[str, Any] | None = None
        self._problems: dict[str, str] = {}

    def found(self) -> dict[str, Any]:
        """Sound plug-ins by name; the first call imports them and logs what is wrong with the others."""
        if self._found is None:
            self._found = {}
            for entry in entry_points(group=self.group):
                try:
                    self._found[entry.name] = self._load(entry, self._found)
                except LabError as error:
                    self._problems[entry.name] = str(error)
                    _log.warning("%s", error)
        return self._found

    def sound(self) -> dict[str, Any]:
        """Sound plug-ins as far as they are loaded; nothing is imported."""
        return dict(self._found or {})

    def problems(self) -> dict[str, str]:
        """One sentence for each plug-in that cannot be used, by name."""
        self.found()
        return self._problems

    def package(self, name: str) -> str:
        """The distribution that a plug-in came with, or "plug-in" where nobody says."""
        for entry in entry_points(group=self.group):
            if entry.name == name and entry.dist is not None:
                return entry.dist.name
        return "plug-in"

    def _load(self, entry: EntryPoint, found: Collection[str]) -> Any:
        package = f" of package {entry.dist.name!r}" if entry.dist is not None else ""
        about = f"{self.kind.capitalize()} plug-in {entry.name!r}{package} cannot be used"
        if entry.name in self.builtin or entry.name in found:
            owner = f"a built-in {self.kind}" if entry.name in self.builtin else "another plug-in"
            raise LabError(f"{about}: its name belongs to {owner}; rename its entry point.")
        try:
            loaded = entry.load()
        except (Exception, SystemExit) as error:  # whatever a foreign module does on import
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise LabError(
                f"{about}: loading {entry.value!r} failed with {reason.rstrip('.')}."
            ) from error
        fault = self._fault(entry.name, loaded)
        if fault is not None:
            raise LabError(f"{about}: {fault}.")
        return loaded

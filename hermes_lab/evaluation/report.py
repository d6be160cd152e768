"""Tables that a benchmark prints and writes: numbers, the command that made them, and the machine."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

Cell = str | float | int | None


@dataclass(frozen=True)
class Section:
    """One table with what it shows and what to expect of it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def table(self) -> str:
        """Text for a terminal or a document."""
        console = Console(width=110, no_color=True, force_terminal=False, markup=False, emoji=False)
        grid = Table(*self.columns, title=self.title, title_justify="left")
        for row in self.rows:
            grid.add_row(*(_cell(value) for value in row))
        with console.capture() as captured:
            console.print()
            console.print(grid)
            if self.note:
                console.print(self.note)
        return captured.get()


@dataclass(frozen=True)
class Report:
    """Several tables of one run."""

    title: str
    machine: dict[str, Any]
    sections: list[Section] = field(default_factory=list[Section])

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def heading(self) -> str:
        """Title and machine."""
        facts = ", ".join(f"{k}: {v}" for k, v in self.machine.items())
        return f"{self.title}\n{facts}"

    def table(self) -> str:
        """Text for a terminal or a document."""
        return "\n".join([self.heading(), *(section.table() for section in self.sections)])


def _cell(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def machine() -> dict[str, Any]:
    """The machine and the libraries that numbers depend on."""
    import torch
    import transformers

    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

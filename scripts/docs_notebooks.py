"""Execute notebooks in place and strip from them what changes from run to run.

    python scripts/docs_notebooks.py            all of them
    python scripts/docs_notebooks.py 03 04      those whose names begin so

A notebook that raises is left as it was.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 600
STARTUP_S = 180  # a kernel that starts beside other work


def notebooks() -> list[Path]:
    """All notebooks, and then their solutions."""
    folder = ROOT / "notebooks"
    return [*sorted(folder.glob("*.ipynb")), *sorted((folder / "solutions").glob("*.ipynb"))]


def execute(path: Path) -> nbformat.NotebookNode:
    """A freshly executed copy of a notebook.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        startup_timeout=STARTUP_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    path_of = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    client.execute(env={"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": path_of})
    return notebook


def strip(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leave out execution times, ids and kernel details, so that a second run differs in its numbers only."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return notebook


def main(names: list[str]) -> int:
    """Execute and write the chosen notebooks."""
    for path in notebooks():
        if names and not any(path.name.startswith(name) for name in names):
            continue
        started = time.perf_counter()
        notebook = strip(execute(path))
        nbformat.write(notebook, path)
        kilobytes = path.stat().st_size // 1000
        sys.stdout.write(
            f"{path.relative_to(ROOT)}: {time.perf_counter() - started:.0f} s, {kilobytes} kB\n"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

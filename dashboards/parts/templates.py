"""HTML and SVG from templates in which everything that is filled in is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

BROWSER = Path(__file__).parents[1] / "browser"
"""What runs in the browser: the components' HTML, CSS and JavaScript."""
_ENVIRONMENT = Environment(
    loader=FileSystemLoader([Path(__file__).parent / "templates", BROWSER]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def filled(template: str, /, **values: Any) -> str:
    """The template with these values in it."""
    return _ENVIRONMENT.get_template(template).render(values)

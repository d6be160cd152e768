"""What only some features want: optional packages, and the browser that drives the dashboard in tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hermes_lab.environment.checks import Check, install
from hermes_lab.environment.versions import installed

OPTIONAL = {
    "kvpress": "policies made of NVIDIA's presses",
    "accelerate": "--device-map: models over several GPUs",
    "bitsandbytes": "checkpoints quantised to 8 or 4 bits",
    "peft": "LoRA adapters",
    "ray": "work spread over processes or machines",
    "gguf": "weights in GGUF files",
}
_FIXES = {
    # its pins exclude this transformers
    "kvpress": "python -m pip install --no-deps kvpress cachetools fire termcolor",
}
CHROMIUM = "/usr/bin/chromium"


def optional() -> list[Check]:
    """Optional packages."""
    return [_optional(name, use) for name, use in OPTIONAL.items()]


def _optional(name: str, use: str) -> Check:
    version = installed(name)
    facts = {"version": version}
    if version is None:
        fix = _FIXES.get(name, install(name))
        return Check(name, "absent", None, use, fix, facts=facts)
    return Check(name, "ok", version, use, facts=facts)


def browser() -> list[Check]:
    """What the browser tests of this project drive; nobody else needs it."""
    version = installed("playwright")
    path = os.environ.get("CHROMIUM", CHROMIUM)
    there = Path(path).exists()
    elsewhere = shutil.which("chromium") or shutil.which("google-chrome")
    return [
        Check(
            "playwright", "ok" if version else "absent", version, "browser tests (development only)",
            None if version else install("playwright"), facts={"version": version},
        ),
        Check(
            "Chromium", "ok" if there else "absent", path if there else None,
            "browser tests (development only)",
            None if there
            else f"export CHROMIUM={elsewhere}" if elsewhere
            else "apt install chromium, or export CHROMIUM=/path/to/chromium",
            facts={"path": path if there else None},
        ),
    ]  # fmt: skip

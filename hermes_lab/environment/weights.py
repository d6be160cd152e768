"""Whether the models that travel with the package are there, whole, and the ones that were shipped."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hermes_lab.environment.checks import Check, State
from hermes_lab.environment.versions import PACKAGE
from hermes_lab.pocket import WEIGHTS

SUMS = WEIGHTS / "SHA256SUMS"
"""SHA-256 of every weights file, in the format of `sha256sum`."""


def weights() -> list[Check]:
    """Every shipped model."""
    in_checkout = (PACKAGE.parent / ".git").exists()
    fix = f"git checkout -- {WEIGHTS}" if in_checkout else "install the hermes-lab wheel again"
    try:
        lines = SUMS.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        said = f"{SUMS} cannot be read: {error.strerror}"
        return [Check("shipped models", "missing", said, "their list", fix, True)]
    pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
    return [_model(WEIGHTS / file, digest, fix) for digest, file in pairs]


def _model(path: Path, expected: str, fix: str) -> Check:
    name = path.parent.name
    state, found, digest = _look(path, expected)
    facts = {"sha256": digest, "expected": expected}
    wanted = f"sha256 {expected[:12]}"
    return Check(
        name, state, found, wanted, None if state == "ok" else fix, name == "pocket", facts
    )


def _look(path: Path, expected: str) -> tuple[State, str | None, str | None]:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "missing", None, None
    except OSError as error:
        return "broken", f"{path} cannot be read: {error.strerror}", None
    if digest != expected:
        return "broken", f"{path} has sha256 {digest[:12]}: damaged or replaced", digest
    return "ok", f"{path.stat().st_size / 2**20:.1f} MiB, whole", digest

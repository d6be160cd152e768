"""`python -m hermes_lab` is `hermes-lab`."""

from __future__ import annotations

from hermes_lab.cli import entry

if __name__ == "__main__":
    entry()

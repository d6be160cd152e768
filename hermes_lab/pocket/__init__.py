"""The default model: a small MLLM trained on procedural streams, and how it was trained."""

from __future__ import annotations

from hermes_lab.pocket.shipped import card, cautions, describe, names, shipped_path, trained_frames

__all__ = ["card", "cautions", "describe", "names", "shipped_path", "trained_frames"]

"""Recordings: what a stream did, written while it ran and read back equal. Nothing here needs a model or torch.

The format enters, its writer, its reader and what can be computed from the files alone.
"""

from __future__ import annotations

from hermes_lab.recording.agreement import Agreement, diff, difference
from hermes_lab.recording.attention import RowFilter
from hermes_lab.recording.catalogue import RecordingEntry, list_recordings
from hermes_lab.recording.format import FORMAT_VERSION, Level, Manifest, ModelInfo, SourceInfo
from hermes_lab.recording.life import LayerLife, TokenLife, Trial
from hermes_lab.recording.reader import Recording, Steps
from hermes_lab.recording.retention import Retention, TokenState
from hermes_lab.recording.summary import AnswerSummary, RecordingSummary
from hermes_lab.recording.timeline import Timeline
from hermes_lab.recording.writer import RecordingWriter

__all__ = [
    "FORMAT_VERSION",
    "Agreement",
    "AnswerSummary",
    "LayerLife",
    "Level",
    "Manifest",
    "ModelInfo",
    "Recording",
    "RecordingEntry",
    "RecordingSummary",
    "RecordingWriter",
    "Retention",
    "RowFilter",
    "SourceInfo",
    "Steps",
    "Timeline",
    "TokenLife",
    "TokenState",
    "Trial",
    "diff",
    "difference",
    "list_recordings",
]

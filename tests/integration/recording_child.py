"""Records synthetic steps as fast as it can and says which are completed, until it is killed."""

from __future__ import annotations

import os
import sys

import numpy as np

from hermes_lab.recording.writer import RecordingWriter
from tests.recording_streams import Stream, manifest


def main(folder: str, seed: int) -> None:
    """Write steps and, after every third, an answer; print the number of each step that is on disk."""
    stream = Stream(seed=seed, heads=2, summarise="sorted")
    writer = RecordingWriter(folder, manifest(seed=seed), level="rows")
    pictures = [np.zeros((8, 8, 3), np.uint8)] * stream.chunk_frames
    os.write(1, b"ready\n")
    for snapshot, table in stream.play(10**9):
        writer.write_step(snapshot, table, pictures if seed % 3 == 0 else None)
        os.write(1, b"%d\n" % snapshot.step)
        if snapshot.step % 3 == 2:
            writer.write_answer(stream.answer(snapshot.step))


main(sys.argv[1], int(sys.argv[2]))

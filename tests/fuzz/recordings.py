"""Recordings that somebody passed on."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as tensors_of

from dashboards.parts.store import Store
from hermes_lab.errors import LabError
from hermes_lab.recording import Recording, RecordingWriter, list_recordings
from hermes_lab.recording.parts import _checksum  # what a forger would do, too
from tests.fuzz.cases import GONE, LINK, PIPE, Case, Fault, Target, lay
from tests.fuzz.mutators import (
    assembled,
    damaged,
    damaged_json,
    damaged_safetensors,
    json_bytes,
    parsed,
)
from tests.recording_streams import Stream, manifest

_STEPS = 5


class Recordings(Target):
    """A recording folder with one or two files that are not as they were written."""

    name = "recording"

    def prepare(self, folder: Path) -> None:
        self.base = folder / "base"
        stream = Stream(seed=3, heads=2, summarise="sorted")
        pictures = [np.zeros((8, 8, 3), np.uint8)] * stream.chunk_frames
        with RecordingWriter(self.base, manifest(), level="rows") as writer:
            for snapshot, table in stream.play(_STEPS):
                writer.write_step(snapshot, table, pictures)
                if snapshot.step % 2:
                    writer.write_answer(stream.answer(snapshot.step))
        self.files = {
            path.relative_to(self.base).as_posix(): path.read_bytes()
            for path in sorted(self.base.rglob("*"))
            if path.is_file()
        }

    def draw(self, rng: random.Random) -> Case:
        case: Case = {}
        for name in rng.sample(sorted(self.files), rng.choice((1, 1, 1, 2))):
            data, kind = self.files[name], rng.random()
            if kind < 0.1:
                case[name] = rng.choice(
                    (GONE, PIPE, LINK + b"/etc/passwd", LINK + b"/dev/zero", b"")
                )
            elif name == "manifest.json":
                case[name] = json_bytes(json.loads(data), rng)
            elif kind < 0.5:
                case[name] = _forged(data, rng)
            elif kind < 0.6:
                other = rng.choice([n for n in self.files if n != "manifest.json"])
                case[name] = self.files[other]
            else:
                case[name] = damaged_safetensors(data, rng)
        return case

    def run(self, case: Case, folder: Path) -> None:
        run = folder / "runs" / "one"
        shutil.copytree(self.base, run)
        lay(case, run)
        store = Store(folder / "runs")
        (entry,) = list_recordings(folder / "runs") or [None]
        store.listing()
        if entry is None:
            return
        said: LabError | None = None
        for salvage in (False, True):
            try:
                recording = Recording.open(run, salvage=salvage)
            except LabError as error:
                said = error
                continue
            said = _use(recording) or said
        store.zipped("one")
        if secret := [n for n in store.left_out("one") if str(n) in case and case[str(n)] == GONE]:
            raise Fault(f"{secret} are gone and yet there")
        if said is not None:
            raise said


def _use(recording: Recording) -> LabError | None:
    """Everything that pages and commands read; the last thing that was refused."""
    said: LabError | None = None
    frames = [frame for part in recording.step_parts for frame in part.record["frames"]][:3]
    uses = (
        lambda: list(recording.steps), lambda: recording.answers, lambda: recording.tokens.column("role"),
        lambda: recording.timeline, lambda: recording.retention().state(), lambda: recording.summary().to_text(),
        lambda: recording.summary().to_json(), lambda: recording.life(7), lambda: recording.retention(0),
        lambda: [recording.decisions(i, frozenset({0, 1})) for i in range(len(recording.steps))], lambda: [recording.thumbnail(f) for f in frames],
        lambda: recording.chronicle(0), recording.verify, lambda: repr(recording), lambda: recording.status,
    )  # fmt: skip
    for use in uses:
        try:
            use()
        except LabError as error:
            said = error
    return said


def _forged(data: bytes, rng: random.Random) -> bytes:
    """Damage in the record or the arrays, with a checksum that agrees."""
    header, arrays = parsed(data)
    text = header["__metadata__"]["record"]
    if rng.random() < 0.3:
        arrays = damaged(arrays, rng)[: len(arrays)].ljust(len(arrays), b"\0")
    else:
        text = json.dumps(damaged_json(json.loads(text), rng))
    header["__metadata__"]["record"] = text
    try:
        tensors = tensors_of(assembled(header, arrays))
        header["__metadata__"]["crc32"] = str(_checksum(text, tensors))
    except (SafetensorError, UnicodeEncodeError):
        pass
    return assembled(header, arrays)

"""Stream for a very long time and see that nothing grows: memory, processor time of a step, positions.

    python scripts/soak.py                     # 100,000 frames; minutes on one core
    python scripts/soak.py --frames 4000       # the same judgement on a short run
    python scripts/soak.py --policy fifo --positions lazy --record runs/soak

A tiny random model of a real family streams made-up frames. After a first part that fills the cache, the run is cut into
ten pieces: the last must take no more processor time per step and hold no more memory than the first, but for a
tolerance, and no position may reach the model's limit. Prints a line for each piece; status 1 if something grew.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

PIECES = 10
CHUNK = 8
FILL = 0.1  # of the run, before the pieces
SLOWER = 1.5  # times the processor time of a step; medians of a busy machine differ by less
GROWTH_BYTES_A_FRAME = (
    600  # the table of tokens and of notes of what was; 100,000 frames may take 60 MB
)
GROWTH_BYTES = 24 * 2**20  # what an allocator may keep


@dataclass
class Piece:
    """One piece of a run: medians of processor seconds of a step, memory at its end, the largest position in it."""

    frames: int
    step_s: float
    resident_bytes: int
    position: int


def resident_bytes() -> int:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def soak(frames: int, policy: str, positions: str, record: Path | None) -> tuple[list[Piece], int]:
    """Stream; the pieces, and the model's limit of positions."""
    import hermes_lab
    from hermes_lab import StreamSession
    from tests.checkpoints import write_checkpoint

    with tempfile.TemporaryDirectory(prefix="hermes-lab-soak-") as folder:
        lab = hermes_lab.load(write_checkpoint("llava_onevision", Path(folder) / "tiny", layers=2))
    session = StreamSession(
        lab, policy, positions=positions, chunk_frames=CHUNK, record=record, overwrite=True
    )
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (64, 40, 40, 3), dtype=np.uint8)
    pieces: list[Piece] = []
    first = int(frames * FILL)
    ends = [first + (frames - first) * (n + 1) // PIECES for n in range(PIECES)]
    took: list[float] = []
    position, fed = 0, 0
    for end in (first, *ends):
        took.clear()
        position = 0
        while fed < end:
            at = rng.integers(0, len(pictures) - CHUNK)
            times = [float(fed + n) for n in range(CHUNK)]
            began = time.process_time()
            snapshot = session.feed(pictures[at : at + CHUNK], times_s=times)
            took.append(time.process_time() - began)
            fed += CHUNK
            position = max(position, *(int(p.max(initial=0)) for p in snapshot.positions))
        if end != first:
            pieces.append(Piece(fed, statistics.median(took), resident_bytes(), position))
    if not session.ask("what is shown", max_new_tokens=2).token_ids:
        raise SystemExit("The session gave no answer at the end.")
    session.close()
    return pieces, lab.adapter.max_positions


def grown(pieces: list[Piece], limit: int) -> list[str]:
    """What is not flat, in sentences."""
    first, last = pieces[0], pieces[-1]
    found: list[str] = []
    early, late = (statistics.median(p.step_s for p in part) for part in (pieces[:3], pieces[-3:]))
    if late > SLOWER * early:
        found.append(
            f"A step took {1e3 * early:.2f} ms at the beginning and {1e3 * late:.2f} ms at the end."
        )
    allowed = GROWTH_BYTES + GROWTH_BYTES_A_FRAME * (last.frames - first.frames)
    if last.resident_bytes - first.resident_bytes > allowed:
        found.append(
            f"Memory grew by {(last.resident_bytes - first.resident_bytes) >> 20} MiB, more than {allowed >> 20}."
        )
    if (highest := max(piece.position for piece in pieces)) >= limit:
        found.append(f"Position {highest} was reached; the model knows those below {limit}.")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--policy", default="hermes(budget_tokens=96)")
    parser.add_argument("--positions", default="lazy")
    parser.add_argument("--record", type=Path, help="record the run, too")
    options = parser.parse_args(arguments)
    if options.frames < 40 * CHUNK:
        parser.error(f"a run needs at least {40 * CHUNK} frames to be judged")
    began = time.monotonic()
    pieces, limit = soak(options.frames, options.policy, options.positions, options.record)
    for piece in pieces:
        print(
            f"{piece.frames:8} frames: {1e3 * piece.step_s:7.2f} ms of processor time per step, "
            f"{piece.resident_bytes / 2**20:7.1f} MiB, positions up to {piece.position} of {limit}"
        )
    found = grown(pieces, limit)
    print(*(found or ["Flat."]), f"{time.monotonic() - began:.0f} s.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

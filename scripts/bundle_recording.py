"""Make the bundled recording again: stream the bundled clip into a model, ask its questions, write hermes_lab/bundled.

python scripts/bundle_recording.py [--model pocket] [--policy "hermes(budget_tokens=128)"]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import hermes_lab
from hermes_lab import bundled, video
from hermes_lab.stream.session import StreamSession
from hermes_lab.worlds import bundled as clip

LARGEST_BYTES = 2_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--policy", default="hermes(budget_tokens=128)")
    parser.add_argument("--chunk-frames", type=int, default=12)
    parser.add_argument("--folder", type=Path, default=bundled.recording_path())
    options = parser.parse_args()
    torch.set_num_threads(1)
    lab = hermes_lab.load(options.model)
    waiting = clip.demo_questions()
    with video.open(clip.clip_path(), fps=1, max_side_px=96) as source:
        session = StreamSession(
            lab, options.policy, chunk_frames=options.chunk_frames, record=options.folder, record_level="rows",
            record_rows=[lab.layers // 2], overwrite=True, fps=1,
            source={"name": source.name, "kind": source.kind, "sha256": source.sha256()},
        )  # fmt: skip
        with session:
            for chunk in source.chunks(options.chunk_frames):
                session.feed(chunk)
                # asked after whole chunks, which keeps the steps few and the recording small
                for question in [q for q in waiting if q.time_s <= chunk[-1].time_s]:
                    session.ask(question.text, max_new_tokens=8)
                    waiting.remove(question)
    size = sum(p.stat().st_size for p in options.folder.rglob("*") if p.is_file())
    print(f"{options.folder}: {size / 1e6:.2f} MB")
    if size > LARGEST_BYTES:
        print(
            f"That is more than {LARGEST_BYTES / 1e6:.1f} MB; use larger chunks or fewer questions."
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

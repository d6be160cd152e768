"""The command line as a person uses it: the main job, and one sentence for everything that can go wrong."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hermes_lab import StreamSession, load, policies, video
from hermes_lab.cli import main
from hermes_lab.cli.run import PARTIAL_INPUT
from hermes_lab.cli.strip import SHADES, held_share, render
from hermes_lab.policies.base import LayerView, Policy
from hermes_lab.recording import Recording
from hermes_lab.video import Chunk

WORLD = "world:seed=7,frames=24"


@pytest.fixture(scope="module")
def model(checkpoint: Callable[..., Path]) -> str:
    return str(checkpoint("llava_onevision"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    return video.write(tmp_path / "clip.mp4", frames, fps=1)


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["run", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


# --- the main job -----------------------------------------------------------------------------
def test_run_streams_asks_and_records(
    model: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "recording"
    code, said = report(
        capsys, str(clip), "--model", model, "--policy", "fifo", "--budget", "48", "--chunk-frames", "8",
        "--ask", "what is this?@12.5", "--ask", "and now?", "--record", str(folder), "--max-new-tokens", "3",
    )  # fmt: skip
    assert code == 0
    assert said["frames"] == 24
    assert said["held_tokens"] == [48] * 4
    assert [a["question"] for a in said["answers"]] == ["what is this?", "and now?"]
    # the clip has one frame a second: at 12.5 s the newest frame is that of second 12
    assert [a["time_s"] for a in said["answers"]] == [12.0, 23.0]
    recording = Recording.open(folder)
    assert recording.manifest.status == "finished"
    assert sum(len(step.frames) for step in recording.steps) == 24
    assert [a.question for a in recording.answers] == ["what is this?", "and now?"]
    assert main(["show", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "what is this?" in shown
    assert "fifo" in shown
    assert main(["show", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 24


def test_folder_of_images_and_world_are_sources(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 40), (number * 80, 0, 0)).save(folder / f"frame{number}.png")
    code, said = report(capsys, str(folder), "--model", model)
    assert (code, said["frames"]) == (0, 3)
    code, said = report(capsys, WORLD, "--model", model, "--max-frames", "5")
    assert (code, said["frames"]) == (0, 5)


def test_live_view_shows_the_strip_and_says_what_to_do_next(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "run",
                WORLD,
                "--model",
                model,
                "--budget",
                "40",
                "--max-new-tokens",
                "2",
                "--ask",
                "what?",
            ]
        )
        == 0
    )
    said = capsys.readouterr()
    assert "layers down, stream time across" in said.err
    assert "what?" in said.out
    assert "--record" in said.out


def test_without_a_budget_32_frames_are_kept_in_python_too(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same policy is the same experiment on the command line and in Python, and both say what was chosen."""
    code, said = report(capsys, "world:seed=7,frames=48", "--model", model, "--policy", "fifo")
    session = StreamSession(load(model), "fifo")
    with video.open("world:seed=7,frames=48", fps=1) as source:
        for chunk in source.chunks(16):
            session.feed(chunk)
    assert code == 0
    assert said["policy"] == session.policy.config()
    assert said["held_tokens"] == [ids.shape[1] for ids in session.snapshot.held]
    (note,) = said["notes"]
    assert note == session.budget_notes[0]
    assert note.startswith("fifo has no budget: 32 frames of")


def test_a_budget_that_never_bound_is_said_at_the_end(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", WORLD, "--model", model, "--budget", "4096", "--quiet"]) == 0
    said = capsys.readouterr().err
    assert "Note: The budget of 4096 tokens per layer was never exceeded" in said
    assert main(["run", WORLD, "--model", model, "--budget", "40", "--quiet"]) == 0
    assert "never exceeded" not in capsys.readouterr().err


def test_a_second_after_the_end_is_said(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = report(capsys, WORLD, "--model", model, "--budget", "40", "--ask", "what?@300", "--ask", "and?@23.5")  # fmt: skip
    assert code == 0
    assert [a["time_s"] for a in said["answers"]] == [23.0, 23.0]
    assert said["notes"] == ["The stream ended at 23 s, so 'what?' was asked there and not at 300 s."]  # fmt: skip


def test_same_seed_same_decisions(model: str, tmp_path: Path) -> None:
    held: list[np.ndarray[Any, Any]] = []
    for name in ("a", "b"):
        folder = tmp_path / name
        assert main(["run", WORLD, "--model", model, "--policy", "random", "--budget", "40", "--quiet",
                     "--record", str(folder)]) == 0  # fmt: skip
        held.append(Recording.open(folder).steps[-1].held[2])
    assert np.array_equal(held[0], held[1])


# --- small parts ---------------------------------------------------------------------------------
def test_strip_shades_by_what_is_held() -> None:
    frame = np.repeat(np.arange(4), 10)
    held = [np.arange(40)[None], np.array([[0, 30, 31, 32, 33, 34]])]
    share = held_share(held, frame, frames_seen=4, columns=4)
    assert share.tolist() == [[1, 1, 1, 1], [0.1, 0, 0, 0.5]]
    lines = render(share)
    assert lines[0].endswith(SHADES[4] * 4)
    assert lines[1].endswith(SHADES[1] + SHADES[0] * 2 + SHADES[2])
    assert len(render(np.ones((40, 3)))) <= 14


def test_listings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policies", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"full", "fifo", "hermes", "recent_frames"} <= {p["name"] for p in listed}
    assert all(p["source"] and p["title"] for p in listed)
    assert main(["policies", "hermes"]) == 0
    assert "lambdas" in capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    families = json.loads(capsys.readouterr().out)["families"]
    assert {"llava_onevision", "qwen2_5_vl", "qwen3_vl"} <= {f["name"] for f in families}


# --- bad input -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["missing.mp4"], "missing.mp4"),
        ([WORLD, "--budget", "0"], "positive number"),
        ([WORLD, "--budget", "-4"], "positive number"),
        ([WORLD, "--budget", "2"], "protected prefix"),
        ([WORLD, "--policy", "hermez"], "hermes"),
        ([WORLD, "--policy", "fifo(budgets=3)"], "budget"),
        ([WORLD, "--positions", "lasy"], "lazy"),
        ([WORLD, "--fps", "0"], "fps"),
        ([WORLD, "--chunk-frames", "0"], "at least"),
        ([WORLD, "--record-level", "everything"], "summary"),
        ([WORLD, "--policy", "oracle"], "upper bound"),
        ([WORLD, "--ask", "  "], "empty"),
        ([WORLD, "--ask", "what?@5,0"], "@0:01:05"),
        ([WORLD, "--ask", "what?\udcff"], "no character"),
        ([WORLD, "--device", "gpu"], "no such device"),
        ([WORLD, "--policy", "nope"], "known names are"),
        ([WORLD, "--ask", "what?", "--max-new-tokens", "0"], "at least one token"),
        ([WORLD, "--next-position", "somewhere"], "last_kept"),
        (["world:seed=x"], "seed"),
        ([WORLD, "--nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_one_sentence_and_a_failure(
    model: str, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--model", model, *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("Error:")
    assert expected in said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1


def test_unknown_model_names_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", WORLD, "--model", "pocketz"]) == 2
    assert "pocketz" in capsys.readouterr().err


def test_file_without_video_stream(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("this is no video")
    assert main(["run", str(text), "--model", model]) == 2
    assert "notes.mp4" in capsys.readouterr().err


def test_truncated_video_is_used_up_to_the_damage_and_reported(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    whole = video.write(tmp_path / "whole.mkv", frames, fps=1)
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    folder = tmp_path / "recording"
    code, said = report(capsys, str(broken), "--model", model, "--record", str(folder))
    assert code == PARTIAL_INPUT
    assert 0 < said["frames"] < 40
    assert said["problem"]
    assert sum(len(step.frames) for step in Recording.open(folder).steps) == said["frames"]


def test_existing_recording_is_not_touched(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "kept"
    assert main(["run", WORLD, "--model", model, "--quiet", "--record", str(folder)]) == 0
    before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    assert main(["run", WORLD, "--model", model, "--quiet", "--record", str(folder)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before
    assert (
        main(["run", WORLD, "--model", model, "--quiet", "--record", str(folder), "--overwrite"])
        == 0
    )


class _Faulty(Policy):
    """Ranks with NaN, or raises, from its second decision on."""

    name = "faulty"
    title = "fails on purpose"
    source = "test"

    def score(self, view: LayerView) -> torch.Tensor:
        if view.step < 1:
            return view.ids.float()
        if self.budget_tokens == 41:
            raise RuntimeError("it broke")
        return torch.full_like(view.ids, float("nan"), dtype=torch.float32)


@pytest.mark.parametrize(("budget", "expected"), [("40", "NaN"), ("41", "it broke")])
def test_faulty_policy_is_refused_and_what_was_recorded_stays(
    model: str, tmp_path: Path, budget: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    policies.register(_Faulty)
    try:
        folder = tmp_path / "recording"
        code = main(["run", WORLD, "--model", model, "--policy", "faulty", "--budget", budget, "--quiet",
                     "--chunk-frames", "8", "--record", str(folder)])  # fmt: skip
    finally:
        policies.unregister("faulty")
    assert code == 2
    assert expected in capsys.readouterr().err
    recording = Recording.open(folder)
    assert recording.manifest.status == "aborted"
    assert len(recording.steps) == 1


def test_full_disk_ends_the_recording_but_not_the_stream(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import hermes_lab.recording.syncing as writing

    written = writing.write_whole

    def full(path: Path, data: bytes, **options: Any) -> None:
        if "000002" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        written(path, data, **options)

    monkeypatch.setattr(writing, "write_whole", full)
    folder = tmp_path / "recording"
    code, said = report(capsys, WORLD, "--model", model, "--chunk-frames", "4", "--record", str(folder),
                        "--ask", "what?")  # fmt: skip
    assert code == PARTIAL_INPUT
    assert said["frames"] == 24
    assert len(said["answers"]) == 1
    assert "disk is full" in said["problem"]
    assert len(Recording.open(folder).steps) == 2


def test_camera_that_goes_away(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = video.open

    def camera(source: object, **options: Any) -> Any:
        found = opened(WORLD, **options)
        chunks = found.chunks

        def until_it_goes(count: int) -> Iterator[Chunk]:
            yield from chunks(count)
            found.damage = "The camera went away after 24 frames."

        monkeypatch.setattr(found, "chunks", until_it_goes)
        return found

    monkeypatch.setattr(video, "open", camera)
    code, said = report(capsys, "0", "--model", model)
    assert code == PARTIAL_INPUT
    assert said["frames"] == 24
    assert "went away" in said["problem"]


def test_notes_of_a_source_are_said_and_are_no_failure(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note = "camera [0] carries no times of its own: its frames are timed by their arrival."
    monkeypatch.setattr(video.FrameSource, "notes", (note,))
    code, said = report(capsys, WORLD, "--model", model, "--policy", "full")
    assert (code, said["notes"], said["problem"]) == (0, [note], None)
    assert main(["run", WORLD, "--model", model, "--quiet"]) == 0
    assert note in capsys.readouterr().err


def test_pictures_of_any_size_fit_into_memory(
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.new("RGB", (8300, 6200)).save(tmp_path / "a.png")
    assert main(["run", str(tmp_path), "--model", model]) == 2
    assert "frames of 8300 x 6200 = 51460000 pixels and the limit is" in capsys.readouterr().err
    fed: list[tuple[int, ...]] = []
    feed = StreamSession.feed
    monkeypatch.setattr(
        StreamSession,
        "feed",
        lambda self, chunk: fed.append(chunk.images.shape) or feed(self, chunk),
    )
    Image.new("RGB", (8200, 100)).save(tmp_path / "a.png")
    code, said = report(capsys, str(tmp_path), "--model", model)
    assert (code, said["frames"], fed) == (0, 1, [(1, 50, 4096, 3)])


def test_missing_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path / "nothing")]) == 2
    assert "nothing" in capsys.readouterr().err

"""Whatever stands in the files of a recording, reading it ends in values or in one sentence; never in a traceback."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from hermes_lab.errors import LabError, RecordingError
from hermes_lab.recording import Recording, RecordingWriter, diff, list_recordings
from hermes_lab.recording.parts import Part, pack
from tests.recording_streams import Stream, manifest

STEPS = 5
WRONG: list[Any] = [
    None,
    5,
    -1,
    2**80,
    1.5,
    "x",
    [],
    {},
    [[]],
    {"a": 1},
    True,
    [None],
    float("nan"),
]
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five steps with pictures and an answer, never changed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    stream = Stream(heads=2, axes=2, summarise="sorted")
    with RecordingWriter(folder, manifest(), level="rows") as writer:
        for snapshot, table in stream.play(STEPS):
            writer.write_step(snapshot, table, [np.zeros((4, 4, 3), np.uint8)] * 2)
        writer.write_answer(stream.answer(STEPS - 1))
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "runs" / "run"))


USES: dict[str, Callable[[Recording], Any]] = {
    "steps": lambda r: [repr(step) for step in r.steps],
    "answers": lambda r: r.answers,
    "tokens": lambda r: r.tokens.arrays(),
    "timeline": lambda r: r.timeline,
    "retention": lambda r: (r.retention().state(), r.retention().held_share(2)),
    "life": lambda r: [r.life(token) for token in (0, 7, 30)],
    "summary": lambda r: (r.summary().to_text(), r.summary().to_json()),
    "verify": lambda r: r.verify(),
    "picture": lambda r: [r.thumbnail(frame) for frame in (0, 5)],
    "difference": lambda r: diff(r, r),
    "state": lambda r: r.state(len(r.step_parts) - 1),
    "decisions": lambda r: [r.decisions(n, frozenset([0, 1])) for n in range(len(r.steps))],
    "repr": repr,
}


def use(folder: Path) -> list[str]:
    """Use a recording in every way; the sentences that came of it."""
    said: list[str] = []
    attempt(lambda: list_recordings(folder.parent), said)
    recording = attempt(lambda: Recording.open(folder, salvage=True), said)
    attempt(lambda: Recording.open(folder), said)
    for work in USES.values() if recording is not None else ():
        attempt(lambda work=work: work(recording), said)
    return said


def attempt(work: Callable[[], Any], said: list[str]) -> Any:
    """Do something that may be refused in a sentence."""
    try:
        return work()
    except LabError as error:
        said.append(str(error))


def test_the_uses_work_on_a_whole_recording(run: Path) -> None:
    assert use(run) == []


# --- the manifest --------------------------------------------------------------------------------
def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a JSON document."""
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with something else at a place; `KeyError` as the value takes it away."""
    if not path:
        return value
    copy: Any = json.loads(json.dumps(document))
    at = copy
    for key in path[:-1]:
        at = at[key]
    if value is KeyError:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return copy


def test_a_manifest_of_any_content_is_read_or_refused_in_a_sentence(run: Path) -> None:
    good = json.loads((run / "manifest.json").read_text())
    for path in places(good):
        for value in (*WRONG, KeyError) if path else WRONG:
            (run / "manifest.json").write_text(json.dumps(changed(good, path, value)))
            said: list[str] = []
            attempt(lambda: list_recordings(run.parent), said)
            attempt(lambda: Recording.open(run).summary().to_text(), said)
            assert all(str(run) in sentence for sentence in said)


@pytest.mark.parametrize(
    ("field", "value"),
    [("created", 5), ("policy", ["hermes"]), ("model", []), ("status", "done"), ("fps", "1"), ("owner", 3),
     ("libraries", [1]), ("reason", {}), ("source", None), ("model.grid", [1]), ("model.layers", "3")],
)  # fmt: skip
def test_a_field_of_another_kind_is_named(run: Path, field: str, value: Any) -> None:
    good = json.loads((run / "manifest.json").read_text())
    path = tuple(field.split("."))
    (run / "manifest.json").write_text(json.dumps(changed(good, path, value)))
    with pytest.raises(RecordingError, match=rf"its '{path[0]}' is not what it should be"):
        Recording.open(run)
    (entry,) = list_recordings(run.parent)
    assert entry.manifest is None and entry.problem is not None and path[0] in entry.problem


@pytest.mark.parametrize(
    "text", [DEEP, '{"format":' + DEEP, "", "null", "[]", '"x"', "\ufeff{}", "1" * 5000]
)
def test_json_that_is_no_manifest(run: Path, text: str) -> None:
    (run / "manifest.json").write_text(text)
    with pytest.raises(RecordingError):
        Recording.open(run)
    assert [entry.manifest for entry in list_recordings(run.parent)] == [None]


# --- parts ---------------------------------------------------------------------------------------
def rewritten(path: Path, record: Any, tensors: dict[str, Any] | None = None) -> None:
    """A part with another record and a checksum that fits."""
    part = Part.open(path)
    held = dict(zip(sorted(part.names), part.read(*sorted(part.names)), strict=True))
    path.write_bytes(pack(record, held if tensors is None else held | tensors))


@pytest.mark.parametrize("name", ["000002-step", "000005-answer", "000003-frames", "000000-step"])
def test_records_of_any_content_are_read_or_refused_in_a_sentence(run: Path, name: str) -> None:
    path = run / "parts" / f"{name}.safetensors"
    whole = path.read_bytes()
    record = Part.open(path).record
    rng = random.Random(1)
    found = list(places(record))
    for place in rng.sample(found, min(len(found), 60)):
        value = rng.choice([*WRONG, KeyError])
        if not place and value is KeyError:
            continue
        path.write_bytes(whole)
        rewritten(path, changed(record, place, value))
        use(run)


def test_arrays_of_any_content_are_read_or_refused_in_a_sentence(run: Path) -> None:
    rng = np.random.default_rng(2)
    for name in ("000002-step", "000000-step", "000005-answer", "000003-frames"):
        path = run / "parts" / f"{name}.safetensors"
        whole, part = path.read_bytes(), Part.open(path)
        for tensor in rng.permutation(sorted(part.names)).tolist()[:12]:
            (array,) = part.read(tensor)
            other = [
                np.zeros(0, array.dtype), array.ravel()[:-1], array.astype(np.float64), array.astype(np.bool_),
                np.full_like(array, np.iinfo(array.dtype).max if array.dtype.kind in "iu" else np.nan),
                np.full(array.shape, -7).astype(array.dtype), np.repeat(array.ravel(), 2),
            ]  # fmt: skip
            for values in other:
                path.write_bytes(whole)
                rewritten(path, dict(part.record), {tensor: values})
                use(run)
        path.write_bytes(whole)


def test_bytes_of_any_kind_are_read_or_refused_in_a_sentence(run: Path) -> None:
    rng = random.Random(3)
    files = sorted(p for p in run.rglob("*") if p.is_file())
    for _ in range(60):
        path = rng.choice(files)
        whole = path.read_bytes()
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 8])):
            at = rng.randrange(len(data))
            data[at] = rng.randrange(256)
        path.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.3 else data)
        use(run)
        path.write_bytes(whole)


def test_a_part_under_the_name_of_another_kind_is_refused(run: Path) -> None:
    step, answer = (run / "parts" / f"00000{n}.safetensors" for n in ("2-step", "5-answer"))
    data = answer.read_bytes()
    step.write_bytes(data)
    with pytest.raises(
        RecordingError, match=r"000002-step.*its 'frames' is not that of a part of kind step"
    ):
        Recording.open(run)
    use(run)


def test_steps_of_another_recording_or_in_another_order_are_refused(
    run: Path, tmp_path: Path
) -> None:
    parts = run / "parts"
    one, other = parts / "000002-step.safetensors", parts / "000003-step.safetensors"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    with pytest.raises(RecordingError, match="stands behind step 3"):
        Recording.open(run)
    use(run)
    with RecordingWriter(tmp_path / "deep", manifest()) as writer:
        for snapshot, table in Stream(layers=5).play(3):
            writer.write_step(snapshot, table)
    shutil.copy(tmp_path / "deep" / "parts" / one.name, one)
    other.write_bytes(second)
    with pytest.raises(RecordingError, match="it has 5 layers, the recording 3"):
        Recording.open(run)
    use(run)


@pytest.mark.parametrize(
    "name", ["manifest.json", "parts/000002-step.safetensors", "parts/000002-frames.safetensors"]
)
@pytest.mark.parametrize("kind", ["pipe", "folder", "link to nowhere", "device"])
def test_what_is_no_file_is_not_waited_for(run: Path, name: str, kind: str) -> None:
    path = run / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/nowhere" if kind.startswith("link") else "/dev/zero")
    said = use(run)
    assert said or name.endswith("frames.safetensors")


def test_without_its_folder_of_parts_a_recording_is_empty(run: Path) -> None:
    shutil.rmtree(run / "parts")
    assert Recording.open(run).verify() == []
    (run / "parts").write_text("a file")
    assert len(Recording.open(run).steps) == 0
    use(run)


def test_what_is_asked_for_wrongly_is_no_damage(run: Path) -> None:
    recording, wrong = Recording.open(run), cast(Any, "7")
    with pytest.raises(TypeError):
        recording.life(wrong)
    with pytest.raises(RecordingError, match="There is no layer 9"):
        recording.retention(9)
    with pytest.raises(RecordingError, match="There is no token 9999"):
        recording.life(9999)

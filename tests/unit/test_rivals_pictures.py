"""Pictures of policies: what they are drawn from, what their words say, and that each policy has one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hermes_lab.errors import LabError
from hermes_lab.figures.frame_share import Panel, colours, draw, draw_legend, frame_shares, small
from hermes_lab.policies import registry
from scripts import policy_catalogue as catalogue
from scripts import policy_pictured as pictured
from scripts.policy_pictured import Band, Pictured, measured

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"
FOLDER = catalogue.pictures_of(PAGE)
LARGEST_BYTES = 15_000


def holdings(seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Ids that three layers hold in two heads each, and the frame of each of 5 prefix and 20 x 4 video tokens."""
    rng = np.random.default_rng(seed)
    frame = np.concatenate([np.full(5, -1), np.repeat(np.arange(20), 4)])
    held = [np.stack([rng.choice(80, n, replace=False) + 5 for _ in range(2)]) for n in (10, 30, 1)]
    return held, frame


def test_shares_of_frames_are_counted() -> None:
    held, frame = holdings()
    found = frame_shares(held, frame, 20, 4)
    for layer, ids in enumerate(held):
        for f in range(20):
            count = sum(int(frame[i]) == f for row in ids for i in row)
            assert found[layer, f] == pytest.approx(count / 8)


def test_numbers_of_a_band() -> None:
    held, frame = holdings(1)
    band = measured("deep", held, frame, 20, made=2.0)
    every = [int(frame[i]) for ids in held for row in ids for i in row]
    assert band.tokens == pytest.approx((10 + 30 + 1) / 3)
    assert band.frames == pytest.approx(
        np.mean([len({int(frame[i]) for i in row}) for ids in held for row in ids])
    )
    assert band.newest == pytest.approx(np.mean([f >= 4 for f in every]))
    assert band.oldest == pytest.approx(np.mean([f < 16 for f in every]))
    assert measured("deep", [np.empty((1, 0), int)], frame, 20).tokens == 0


def test_words_name_equal_bands_once() -> None:
    band = Band("shallow", 12.0, 3.0, 0.5, 0.25)
    other = Band("deep", 4.0, 1.0, 1.0, 0.0, made=2.0)
    read = (band, replace(band, name="deep"))
    shown = Pictured("fifo", 20, 80, 0.5, 4, (band, other), read)
    assert shown.words() == (
        "Layers from top to bottom, 20 frames from left to right. 50 % of the tokens enter the decoder. "
        "The cache holds in shallow layers 12 tokens of 3 frames, 50 % from the last 16 frames and 25 % from the "
        "first 16; in deep layers 4 tokens of 1 frame and 2 made of evicted ones, 100 % from the last 16 frames and "
        "0 % from the first 16. A question prefills the last 4 frames again. "
        "A question reads in all layers 12 tokens of 3 frames, 50 % from the last 16 frames and 25 % from the first 16."
    )


def test_numbers_are_read_back(tmp_path: Path) -> None:
    shown = Pictured("fifo", 20, 80, None, 0, (Band("shallow", 12.0, 3.0, 0.5, 0.25),), None)
    pictured.save(tmp_path, {"fifo": shown})
    assert pictured.load(tmp_path) == {"fifo": shown}
    assert pictured.load(tmp_path / "elsewhere") == {}
    (tmp_path / pictured.NUMBERS).write_text(json.dumps({"fifo": {"run": "fifo"}}))
    with pytest.raises(LabError, match=r"policy_pictures\.py"):
        pictured.load(tmp_path)


def test_cells_are_drawn_where_they_belong() -> None:
    """One cell in colour, on the right row and column, in a picture whose ground is clear."""
    shares = np.zeros((3, 40), np.float32)
    shares[1, 7] = 1.0
    image = np.asarray(draw([Panel("cache", shares, edges=(2,))]))
    full, none = colours(np.float32([1.0, 0.0]))
    rows, columns = np.nonzero((image[..., :3] == full).all(-1) & (image[..., 3] == 255))
    panel_rows, panel_columns = np.nonzero((image[..., :3] == none).all(-1))
    left, top = panel_columns.min(), panel_rows.min()
    width = (panel_columns.max() + 1 - left) / 40
    assert (columns.min() - left, columns.max() + 1 - left) == (7 * width, 8 * width)
    assert (rows.min() - top, rows.max() + 1 - top) == (48, 96)
    assert image[0, 0, 3] == 0


def test_more_held_is_darker() -> None:
    ramp = colours(np.linspace(0, 1, 33, dtype=np.float32)).astype(int).sum(-1)
    assert (np.diff(ramp) < 0).all()
    assert small(draw_legend()).mode == "P"


@pytest.mark.parametrize("name", list(registry.BUILTIN))
def test_every_policy_has_a_small_picture_or_a_reason(name: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
    if name in pictured.UNPICTURED:
        assert f"No picture: it {pictured.UNPICTURED[name]}." in section
        return
    path = FOLDER / f"{name}.png"
    assert path.stat().st_size < LARGEST_BYTES
    with Image.open(path) as image:
        assert image.mode == "P"
    numbers = pictured.load(FOLDER)[name]
    assert f"![{numbers.words()}](images/policies/{name}.png)" in section
    assert registry.get(numbers.run).name == name


def test_no_picture_is_left_over() -> None:
    expected = {f"{name}.png" for name in registry.BUILTIN if name not in pictured.UNPICTURED}
    found = {path.name for path in FOLDER.iterdir()}
    assert found == expected | {pictured.LEGEND, pictured.NUMBERS}

"""Python and the browser's JavaScript read the same fields of a message, under the same names and numbers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dashboards.live.arriving import ArrivingFrames
from dashboards.live.filmstrip import filmstrip_of
from dashboards.live.message import Message, Thumbnails, payload
from dashboards.live.moment import recorded_moment
from dashboards.parts import protocol
from dashboards.parts.canvas import ON_ITS_WAY, strip_head
from dashboards.parts.templates import BROWSER
from hermes_lab.figures import make_strip
from hermes_lab.recording import Recording, TokenState
from tests.app.pages import unpacked

SHARED = "strip_parts.js"
HEADS = [
    ("live.js", protocol.LiveHead),
    ("strip.js", protocol.StripHead),
    ("clickable.js", protocol.ClickableHead),
]
INSIDE = [
    ("arriving", "strip_parts.js", protocol.Arriving),
    ("due", "strip_parts.js", protocol.Due),
    ("tile", "live.js", protocol.Tile),
    ("now", "live.js", protocol.Now),
]
NOT_FIELDS = {"length"}  # of arrays


def script(name: str) -> str:
    return (BROWSER / name).read_text("utf-8")


def read_of(variable: str, text: str) -> set[str]:
    """Fields of a variable that a script reads: `variable.field`, `{ a, b } = variable`."""
    found = set(re.findall(rf"\b{variable}\.([a-z_]+)", text))
    for names in re.findall(rf"\{{([^{{}}]*)\}} = {variable}\b", text):
        found |= {name.strip() for name in names.split(",")}
    return found - NOT_FIELDS


@pytest.mark.parametrize(("name", "head"), HEADS, ids=[name for name, _ in HEADS])
def test_a_script_reads_the_fields_of_its_head_and_no_others(name: str, head: type) -> None:
    own, shared = read_of("head", script(name)), read_of("head", script(SHARED))
    written = set(head.__annotations__)
    if head is protocol.ClickableHead:
        assert own == written
        return
    assert own <= written
    missing = written - own - shared
    assert missing == set(), "nobody in the browser reads these"
    assert shared - written <= {"arriving"}  # of the live view alone


@pytest.mark.parametrize(("variable", "name", "kind"), INSIDE, ids=[v for v, *_ in INSIDE])
def test_and_so_it_is_with_what_lies_in_a_head(variable: str, name: str, kind: type) -> None:
    assert read_of(variable, script(name)) == set(kind.__annotations__)


def test_states_and_shares_of_a_code_are_what_the_browser_takes_them_for() -> None:
    constants = dict(re.findall(r"^const ([A-Z_]+) = (\d+);", script(SHARED), re.MULTILINE))
    state = np.full((1, 1), TokenState.KEPT, np.int8)
    strip = make_strip(state, np.zeros(1, np.int64), np.zeros(1))
    (code,) = strip.codes().ravel()
    assert (code & 7, code >> 3) == (TokenState.KEPT, int(constants["LEVELS"]))
    head = strip_head(strip)
    assert int(constants["COMING"]) == len(TokenState)
    assert head["words"][int(constants["COMING"])] == ON_ITS_WAY
    assert len(head["light"]) == len(head["dark"]) == len(head["words"])


def test_every_field_is_sent(recorded: Path) -> None:
    """What is declared is what travels: of the strip, of frames on their way, of tiles and of the newest frame."""
    recording = Recording.open(recorded / "first")
    moment = recorded_moment(recording, recording.retention(), 2)
    arriving = ArrivingFrames(frames=(12,), times_s=(12.0,), slots=4, due_in_s=0.5)
    sent = Message(
        moment=moment, arriving=arriving, numbers={"Stream": "1 s"}, filmstrip=filmstrip_of(moment, None, False)
    )  # fmt: skip
    head, _ = unpacked(payload(sent, Thumbnails("s", moment.picture)))
    for value, kind in (
        (head, protocol.LiveHead), (head["arriving"], protocol.Arriving),
        (head["arriving"]["due"], protocol.Due), (head["tiles"][0], protocol.Tile), (head["now"], protocol.Now),
    ):  # fmt: skip
        assert set(value) == set(kind.__annotations__)

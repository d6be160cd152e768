"""The parts under the pages, without a page: worker states against recordings, URLs, the store's walls, the player."""

from __future__ import annotations

import base64
import io
import tomllib
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from dashboards.live.filmstrip import filmstrip_of
from dashboards.live.moment import recorded_moment
from dashboards.live.playback import Player, index_at
from dashboards.live.token_states import Tracker
from dashboards.parts import page_parts, snippets
from dashboards.parts.canvas import packed, strip_head
from dashboards.parts.limits import LARGEST_UPLOAD_BYTES
from dashboards.parts.policy_text import full_spec, short_spec
from dashboards.parts.snippets import literal
from dashboards.parts.state import ViewState
from dashboards.parts.store import Store
from dashboards.parts.templates import filled
from hermes_lab import figures, policies
from hermes_lab.errors import RecordingError
from hermes_lab.recording import Recording, RecordingWriter, TokenState
from tests.app.pages import unpacked
from tests.app.snippets import run, undefined
from tests.recording_streams import Stream, manifest

DASHBOARDS = Path(__file__).resolve().parents[2] / "dashboards"


@pytest.mark.parametrize(
    "stream",
    [
        Stream(),
        Stream(heads=2, renumber=True),
        Stream(summarise="end", protect=2),
        Stream(heads=2, summarise="sorted", protect=1),
        Stream(budget=None),
    ],
    ids=["plain", "heads", "summary", "heads-summary", "unlimited"],
)
def test_a_live_view_equals_the_recording_at_every_step(tmp_path: Path, stream: Stream) -> None:
    tracker = Tracker()
    live: list[tuple[np.ndarray, np.ndarray]] = []
    with RecordingWriter(tmp_path / "r", manifest()) as writer:
        for snapshot, table in stream.play(6):
            live.append(tracker.add(snapshot, table))
            writer.write_step(snapshot, table)
    recording = Recording.open(tmp_path / "r")
    retention = recording.retention()
    for step, (ids, states) in enumerate(live):
        # columns of tokens to come are absent in the recording's arrays
        assert (retention.ids[: len(ids)] == ids).all()
        recorded = retention.state(step)
        assert (recorded[:, : len(ids)] == states).all()
        assert (recorded[:, len(ids) :] == TokenState.ABSENT).all()


def test_a_link_reopens_its_view_and_ignores_nonsense() -> None:
    view = ViewState(
        recording="first", step=3, layer=0, token=77, metric="sink", policy="fifo(budget_tokens=8)",
        fps=2.5, speed="as fast as it goes", filmstrip=2, frames="newest", weighting="value-weighted", sinks=1,
        question="what & where?", questions="one\ntwo",
    )  # fmt: skip
    assert ViewState.from_params(view.to_params()) == view
    assert (
        ViewState.from_params({"layer": "-1", "step": "x", "frame": "9" * 30, "evil": "1"})
        == ViewState()
    )
    assert ViewState.from_params({"fps": "nan", "sinks": "yes", "filmstrip": "1e9"}) == ViewState()
    assert ViewState.from_params({"film": "2"}) == ViewState(filmstrip=2)  # links of before
    assert len(ViewState.from_params({"questions": "?" * 99_999}).questions) < 10_000
    assert ViewState().to_params() == {}


@pytest.mark.parametrize("name", ["..", "../runs", "/etc", "a/b", "", ".hidden", "a\0b"])
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "runs")
    (tmp_path / "runs").mkdir()
    with pytest.raises(RecordingError):
        store.path(name)
    with pytest.raises(RecordingError):
        store.delete(name)


def test_a_link_out_of_the_folder_is_no_recording(recorded: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    (root / "sneaky").symlink_to(recorded / "first", target_is_directory=True)
    store = Store(root)
    assert "sneaky" not in store.names()
    with pytest.raises(RecordingError, match="no recording 'sneaky'"):
        store.delete("sneaky")
    assert (recorded / "first" / "manifest.json").exists()


def test_deleting_refuses_a_folder_with_something_else_in_it(runs: Path) -> None:
    (runs / "first" / "thesis.txt").write_text("years of work")
    with pytest.raises(RecordingError, match=r"thesis\.txt"):
        Store(runs).delete("first")
    assert (runs / "first" / "thesis.txt").exists()


def test_a_zip_holds_the_recording_whole(runs: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(Store(runs).zipped("first"))) as archive:
        archive.extractall(tmp_path / "out")
    assert Recording.open(tmp_path / "out" / "first").verify() == []


def test_the_player_moves_with_the_clock_and_stops_at_the_end() -> None:
    player = Player(0.0, 20.0, speed=4.0).play(100.0)
    assert player.position(102.0) == 8.0
    assert player.pause(102.0).position(500.0) == 8.0
    assert player.with_speed(1.0, 102.0).position(103.0) == 9.0
    assert player.position(1e9) == 20.0
    assert player.ended(105.0)
    assert player.pause(105.0).play(200.0).position(200.0) == 0.0
    assert player.seek(-3, 0).at_s == 0.0


def test_the_needle_shows_the_newest_step_that_is_over(recorded: Path) -> None:
    recording = Recording.open(recorded / "first")
    times = recording.timeline.time_s
    assert index_at(recording, 0.0) == 0
    assert [index_at(recording, float(t)) for t in times] == list(range(len(times)))
    assert index_at(recording, float(times[2]) - 0.5) == 1


def test_what_the_canvas_is_sent_can_be_read_back() -> None:
    state = np.array([[1, 2, 3, 4, 0], [2, 2, 1, 1, 0]], np.int8)
    strip = figures.make_strip(state, np.arange(5), np.arange(5) / 2.0)
    data = packed(strip_head(strip, seq=9, chosen=(1, 2)), strip.codes().tobytes())
    head, body = unpacked(data)
    codes = np.frombuffer(body, np.uint8).reshape(head["layers"], head["columns"])
    assert ((codes & 7) == state).all()
    assert ((codes >> 3) == np.where(np.isin(state, (1, 4)), 31, 0)).all()
    assert head["time_s"] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert head["chosen"] == [1, 2]
    assert head["seq"] == 9


def test_streamlit_may_send_no_reference_that_outlives_the_block_it_belongs_to() -> None:
    """A fragment that starts before its last run was sent loses that run's blocks; a reference in them stays behind."""
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
    from streamlit.runtime.forward_msg_queue import ForwardMsgQueue

    block, reference = ForwardMsg(), ForwardMsg(ref_hash="sent before")
    block.delta.add_block.allow_empty = True
    block.delta.fragment_id = "stage"
    block.metadata.delta_path.extend([0, 2])
    reference.metadata.delta_path.extend([0, 2, 0])
    queue = ForwardMsgQueue()
    for message in (block, reference):
        queue.enqueue(message)
    queue.clear(retain_lifecycle_msgs=True, fragment_ids_this_run=["stage"])
    if [list(m.metadata.delta_path) for m in queue.flush()] == [[0, 2, 0]]:  # Streamlit 1.67
        settings = tomllib.loads((DASHBOARDS / ".streamlit" / "config.toml").read_text())
        assert settings["global"]["minCachedMessageSize"] > LARGEST_UPLOAD_BYTES


@pytest.mark.parametrize(
    "name", ["hermes:released", "fifo(budget_tokens=9)", "mukv", "every_nth", "streamkv"]
)
def test_a_policy_written_in_a_link_is_the_same_policy_again(name: str) -> None:
    policy = policies.get(name)
    assert policies.get(full_spec(policy.config())).config() == policy.config()
    assert short_spec({"policy": "fifo", "budget_tokens": None}) == "fifo"


@pytest.mark.parametrize(
    ("event", "cell"),
    [
        ({"selection": {"points": [{"point_index": 14, "customdata": {"0": 3, "1": 2}}]}}, (3, 2)),
        ({"selection": {"points": [{"point_index": 0, "customdata": [0, 0, 0.5]}]}}, (0, 0)),
        ({"selection": {"points": []}}, None),
        ({}, None),
    ],
)
def test_a_click_on_the_atlas_is_a_layer_and_a_head(
    event: dict, cell: tuple[int, int] | None
) -> None:
    from dashboards.atlas.panels import clicked_cell

    assert clicked_cell(event, heads=4) == cell


def test_a_value_in_a_snippet_is_that_value_again() -> None:
    value = {
        "a": (np.float64(0.5), float("nan")),
        "b": np.arange(3),
        "c": [None, True, (1,)],
        4: "it's",
    }
    back = eval(literal(value), {})  # our own text
    assert back["a"][0] == 0.5
    assert np.isnan(back["a"][1])
    assert (back["b"], back["c"], back[4]) == ([0, 1, 2], [None, True, (1,)], "it's")


@pytest.mark.parametrize(
    "source", ["world:seed=1,frames=8", "camera:0", "/tmp/x/upload.mp4", "it's.mp4"]
)
@pytest.mark.parametrize("more", [{}, {"record": "r", "keep_visual": True, "max_frames": 3}])
def test_snippets_name_what_they_use(source: str, more: dict) -> None:
    assert (
        undefined(snippets.stream(source, "m", "fifo(budget_tokens=8)", chunk_frames=4, **more))
        == set()
    )
    worlds = [(1, 8, "still")] if more else []
    again = snippets.contest(
        source, "m", {"fifo": "fifo"}, 32, chunk_frames=4, worlds=worlds, questions=("who?",), max_frames=None
    )  # fmt: skip
    assert undefined(again) == set()
    assert undefined("print(session)") == {"session"}


def test_the_filmstrip_of_a_snippet_is_the_one_on_the_page(recorded: Path) -> None:
    recording = Recording.open(recorded / "first")
    moment = recorded_moment(recording, recording.retention(), 3)
    step = int(recording.timeline.step[3])
    for layer, newest in ((None, False), (1, True)):
        filmstrip = filmstrip_of(moment, layer, newest)
        scope = run(
            snippets.filmstrip(
                str(recording.folder), step=step, layer=layer, count=10, newest=newest
            )
        )
        assert filmstrip is not None
        assert filmstrip.frames == scope["frames"]
        assert (filmstrip.shares == scope["shares"]).all()
        assert len(filmstrip.rows()[1]) == filmstrip.shares.size


def test_a_picture_and_a_table_become_files_that_a_browser_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: dict[str, Any] = {}
    monkeypatch.setattr(page_parts, "offer", lambda **what: made.update(what))
    picture = np.full((4, 6, 3), 200, np.uint8)
    page_parts.picture_offer(
        lambda: picture, key="k", name="n", alt="a <b> & c", code="", rows=((), ())
    )
    svg = ElementTree.fromstring(made["svg"]())
    assert (svg.attrib["width"], svg[0].text) == ("6", "a <b> & c")
    png = base64.b64decode(svg[1].attrib["href"].split(",")[1])
    assert (np.asarray(Image.open(io.BytesIO(png))) == picture).all()
    assert 'alt="a &lt;b&gt; &amp; c"' in made["html"]()
    page = filled("table.html", name="t", header=("x", "y"), lines=[(1, None), ("<", 2)])
    body = ElementTree.fromstring(page[page.index("<table>") : page.index("</body>")])
    assert [[c.text or "" for c in row] for row in body.iter("tr")] == [
        ["x", "y"],
        ["1", ""],
        ["<", "2"],
    ]


def test_unread_layers_are_named_in_runs() -> None:
    from dashboards.atlas.panels import spans

    assert spans([0, 1, 2, 5, 7, 8]) == "0 to 2, 5, 7 to 8"
    assert spans([3]) == "3"

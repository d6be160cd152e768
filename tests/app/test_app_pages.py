"""Every page opens on a recording, says what it cannot tell, and obeys its controls; nothing loads a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hermes_lab.recording import Recording
from tests.app.pages import live_view_of, press, sound, text_of
from tests.app.snippets import complete

PAGES = ("live", "why", "atlas", "lab", "findings", "recordings")


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_from_a_link_and_says_what_it_cannot_tell(open_page, page: str) -> None:
    app = sound(open_page(page, recording="first"))
    assert not app.error
    assert app.title[0].value
    if page not in ("lab", "findings"):  # which need a comparison, or a report
        complete(app)
    if page != "lab":  # which shows nothing before a comparison has run
        assert "Cannot tell:" in text_of(app)


def test_live_replays_without_a_model_and_pauses_where_it_is(open_page) -> None:
    app = sound(open_page("live", recording="first", step="2"))
    assert "11 s, 12 frames" in _numbers_shown(app)
    press(app, "Step")
    assert "16 frames" in _numbers_shown(app)
    assert app.query_params["step"] == ["3"] or app.query_params["step"] == "3"
    press(app, "Play")
    press(app, "Pause")
    assert "step" in app.query_params


def test_the_slider_seeks(open_page) -> None:
    app = sound(open_page("live", recording="first", step="1"))
    app.select_slider(key="replay-seek").set_value(5).run()
    sound(app)
    assert "24 frames" in _numbers_shown(app)


def test_an_unknown_recording_in_a_link_is_said_and_another_one_shown(open_page) -> None:
    app = sound(open_page("why", recording="../../etc"))
    assert any("no recording" in w.value for w in app.warning)


def test_why_tells_the_life_that_the_recording_tells(open_page, runs: Path) -> None:
    recording = Recording.open(runs / "first")
    retention = recording.retention(1)
    gone = int(retention.ids[(retention.left_step[0] >= 0).nonzero()[0][3]])
    app = sound(open_page("why", recording="first", layer="1", token=str(gone)))
    life = recording.life(gone, 1).layers[0]
    said = text_of(app)
    assert f"Token {gone}" in said
    assert life.reason[1:] in said
    assert f"was ranked {len(life.trials)} times" in said
    spec = json.loads(_chart(app, "why-trials"))
    assert spec["data"][0]["y"] == [t.score for t in life.trials] or _numbers(
        spec["data"][0]["y"]
    ) == pytest.approx([t.score for t in life.trials])


def test_why_follows_another_token_by_number(open_page) -> None:
    app = sound(open_page("why", recording="first", layer="0", token="30"))
    app.number_input(key="w_token").set_value(31)
    app.number_input(key="w_layer").set_value(2).run()
    sound(app)
    assert "Token 31" in text_of(app)
    assert _param(app, "layer") == "2"


def test_the_atlas_draws_the_score_of_every_head(open_page, runs: Path) -> None:
    from hermes_lab import figures

    app = sound(open_page("atlas", recording="first", metric="entropy"))
    recording = Recording.open(runs / "first")
    held = figures.held_frames(recording.steps[-1], recording.tokens)
    scores = figures.head_scores(recording.answers[0].attention, held, "entropy")
    custom = json.loads(_chart(app, "atlas-map"))["data"][1]["customdata"]
    drawn = _numbers(custom) if isinstance(custom, dict) else [v for row in custom for v in row]
    assert drawn[2::3] == pytest.approx(scores.ravel().tolist(), rel=1e-5)


def test_the_atlas_obeys_its_controls(open_page) -> None:
    app = sound(open_page("atlas", recording="first"))
    for metric in ("anchor", "sink", "thumbnails"):
        app.selectbox(key="w_metric").set_value(metric).run()
        sound(app)
    app.toggle(key="atlas-sinks").set_value(True).run()
    sound(app)
    assert "share of all attention" in _chart(app, "atlas-frames")
    app.number_input(key="w_head").set_value(3).run()
    sound(app)
    assert _param(app, "head") == "3"
    other = next(o for o in app.selectbox(key="w_group").options if o.startswith("chunk"))
    app.selectbox(key="w_group").set_value(other).run()
    sound(app)
    app.button_group(key="atlas-weighting").set_value("value-weighted").run()
    sound(app)
    assert any("start a stream" in i.value for i in app.info)


def test_a_link_reopens_the_replay_and_the_atlas_as_they_were(open_page) -> None:
    link = {"recording": "first", "step": "3", "speed": "32", "filmstrip": "1", "frames": "newest"}
    app = sound(open_page("live", **link))
    assert app.selectbox(key="replay-speed").value == 32.0
    assert app.select_slider(key="filmstrip-layer").value == 1
    assert app.button_group(key="filmstrip-frames").value == "newest"
    assert {k: "".join(v) for k, v in app.query_params.items()} == link
    app.select_slider(key="filmstrip-layer").set_value("all layers").run()
    assert "filmstrip" not in sound(app).query_params
    link = {"recording": "first", "sinks": "1", "weighting": "value-weighted", "question": "who?"}
    app = sound(open_page("atlas", **link))
    assert app.toggle(key="atlas-sinks").value is True
    assert app.button_group(key="atlas-weighting").value == "value-weighted"
    assert "share of all attention" in _chart(app, "atlas-frames")
    now = {k: "".join(v) for k, v in app.query_params.items()}
    assert link.items() <= now.items()
    app.toggle(key="atlas-sinks").set_value(False).run()
    assert "sinks" not in sound(app).query_params


@pytest.mark.parametrize("page", ["live", "atlas"])
def test_nonsense_in_a_link_is_as_if_it_were_not_there(open_page, page: str) -> None:
    bad = {
        "step": "999999", "speed": "-8", "filmstrip": "77", "frames": "none", "weighting": "heavy", "sinks": "maybe",
        "group": "?", "metric": "?", "layer": "99", "head": "99", "frame": "9999",
    }  # fmt: skip
    app = sound(open_page(page, recording="first", **bad))
    if page == "live":
        assert app.select_slider(key="filmstrip-layer").value == "all layers"
        assert app.selectbox(key="replay-speed").value == 8.0
    else:
        assert app.toggle(key="atlas-sinks").value is False
        assert app.button_group(key="atlas-weighting").value == "attention mass"


def test_recordings_are_listed_compared_and_deleted_only_when_asked_twice(
    open_page, runs: Path
) -> None:
    app = sound(open_page("recordings", recording="second", other="first"))
    assert "both hold" in text_of(app)
    press(app, "Delete ...")
    assert (runs / "second").exists()
    press(app, "Keep it")
    assert (runs / "second").exists()
    press(app, "Delete ...")
    press(app, "Yes, delete it")
    assert not (runs / "second").exists()
    assert (runs / "first").exists()
    assert any("deleted" in s.value for s in app.success)


def test_the_bundled_recording_cannot_be_deleted(open_page) -> None:
    app = sound(open_page("recordings", recording="bundled"))
    assert not [b for b in app.button if b.label == "Delete ..."]


def test_findings_without_a_report_say_how_to_make_one(open_page) -> None:
    app = sound(open_page("findings"))
    assert any("hermes-lab study" in i.value for i in app.info)


def _numbers_shown(app) -> str:
    return dict(live_view_of(app)[0]["numbers"])["Stream"]


def _chart(app, key: str) -> str:
    return next(c.proto.spec for c in app.get("plotly_chart") if key in c.proto.id)


def _numbers(values) -> list[float]:
    import base64

    import numpy as np

    if isinstance(values, dict):
        return (
            np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).astype(float).tolist()
        )
    return [float(v) for v in values]


def _param(app, name: str) -> str:
    value = app.query_params[name]
    return value[0] if isinstance(value, list) else value


def test_only_recordings_of_the_same_stream_are_compared(open_page, runs: Path) -> None:
    manifest = runs / "second" / "manifest.json"
    told = json.loads(manifest.read_text())
    told["source"]["name"] = "world:seed=8,frames=24"
    manifest.write_text(json.dumps(told))
    app = sound(open_page("recordings", recording="first", other="second"))
    assert "both hold" not in text_of(app)
    assert any("their sources differ" in w.value for w in app.warning)
    assert any("same stream under another policy" in i.value for i in app.info)
    app = sound(open_page("recordings", recording="bundled", other="first"))
    assert "both hold" not in text_of(app)
    assert any("cannot be compared with 'bundled'" in w.value for w in app.warning)

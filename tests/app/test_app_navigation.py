"""Turning from page to page loses nothing that was chosen: not the recording, not the form, not the upload."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from hermes_lab.worlds import bundled
from tests.app.pages import press, sound, text_of

LINK = {"mode": "Run a model", "source": "world:seed=3,frames=64", "model": "tiny"}
PAGES = ("why", "atlas", "live", "lab", "findings", "recordings")


def turn_to(app: AppTest, page: str) -> AppTest:
    """Click a page in the bar at the top: the address that a browser then sends has no parameters."""
    app.query_params.clear()
    return sound(app.switch_page(f"{page}/page.py").run())


def shown(app: AppTest) -> dict[str, str]:
    return {name: "".join(value) for name, value in app.query_params.items()}


@pytest.mark.parametrize("between", PAGES)
def test_recording_layer_and_token_outlast_every_page(open_page, between: str) -> None:
    app = sound(open_page("why", recording="second", layer="2", token="31"))
    for page in (between, "why", between, "atlas", between, "why"):
        turn_to(app, page)
        assert shown(app)["recording"] == "second"
        assert shown(app)["layer"] == "2"
        if page in ("why", "atlas"):
            assert app.selectbox(key="w_recording").value == "second"
            assert app.number_input(key="w_layer").value == 2
    assert app.number_input(key="w_token").value == 31


def test_a_replay_is_where_it_was_paused_after_another_page(open_page) -> None:
    app = sound(open_page("live", recording="second", step="2", frames="newest", filmstrip="1"))
    turn_to(app, "why")
    turn_to(app, "live")
    assert shown(app)["step"] == "2"
    assert app.select_slider(key="filmstrip-layer").value == 1
    assert app.button_group(key="filmstrip-frames").value == "newest"


@pytest.mark.parametrize("reported", ["2", "0"])
def test_a_browser_that_reports_another_address_of_the_same_page_changes_nothing(
    open_page, reported: str
) -> None:
    """It may not have heard yet of the newest one, or be slow: how long ago that was the session cannot know."""
    app = sound(open_page("why", recording="second", layer="2", token="31"))
    _change(app, "number_input", "w_layer", 1)
    app.query_params["layer"] = reported
    sound(app.run())
    assert app.number_input(key="w_layer").value == 1
    assert shown(app)["layer"] == "1"


def test_the_address_that_a_browser_went_back_to_is_shown(
    open_page, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dashboards.parts import state

    app = sound(open_page("why", recording="second", layer="2", token="31"))
    _change(app, "number_input", "w_layer", 1)
    monkeypatch.setattr(state, "_went_back", lambda: True)
    app.query_params["layer"] = "2"
    sound(app.run())
    assert app.number_input(key="w_layer").value == 2
    assert shown(app)["layer"] == "2"


def test_another_recording_keeps_the_layer_where_it_has_one(open_page) -> None:
    app = sound(open_page("why", recording="bundled", layer="9", token="400"))
    app.selectbox(key="w_recording").set_value("first").run()
    sound(app)
    assert app.number_input(key="w_layer").value == 2  # the deepest of three
    app.number_input(key="w_layer").set_value(1).run()
    app.selectbox(key="w_recording").set_value("second").run()
    assert sound(app).number_input(key="w_layer").value == 1
    turn_to(app, "recordings")
    app.selectbox(key="w_recording").set_value("first").run()
    assert shown(sound(app))["layer"] == "1"
    assert "token" not in shown(app)


def _change(app: AppTest, kind: str, key: str, value: Any) -> None:
    getattr(app, kind)(key=key).set_value(value)
    sound(app.run())


def _values(app: AppTest, *keys: tuple[str, str]) -> list[Any]:
    return [getattr(app, kind)(key=key).value for kind, key in keys]


FORM = (
    ("selectbox", "w_model"), ("selectbox", "w_source_kind"), ("selectbox", "w_policy-name"),
    ("button_group", "w_policy-hermes-preset"), ("slider", "w_policy-hermes-released-shallow_fraction"),
    ("number_input", "w_policy-budget"), ("number_input", "live-chunk"), ("number_input", "live-fps"),
    ("selectbox", "live-speed"), ("toggle", "live-record"), ("number_input", "w_camera_no"),
)  # fmt: skip


@pytest.mark.parametrize("between", [p for p in PAGES if p != "live"])
def test_the_form_of_a_run_outlasts_every_page(open_page, between: str) -> None:
    app = sound(open_page("live", **LINK))
    _change(app, "button_group", "w_policy-hermes-preset", "released")
    _change(app, "slider", "w_policy-hermes-released-shallow_fraction", 0.9)  # which it refuses
    for kind, key, value in (
        ("number_input", "w_policy-budget", None), ("number_input", "live-chunk", 6),
        ("number_input", "live-fps", 2.5), ("selectbox", "live-speed", "16x"), ("toggle", "live-record", False),
        ("selectbox", "w_source_kind", "Camera"), ("number_input", "w_camera_no", 2),
    ):  # fmt: skip
        _change(app, kind, key, value)
    before = _values(app, *FORM)
    assert before[-1] == 2
    turn_to(app, between)
    sound(app.run())  # the page is drawn more than once
    turn_to(app, "live")
    assert _values(app, *FORM) == before
    assert any("shallow" in e.value for e in app.error)


def test_the_forms_of_the_lab_and_of_a_run_are_two(open_page) -> None:
    app = sound(open_page("live", **LINK, policy="fifo(budget_tokens=48)", chunk="6"))
    turn_to(app, "lab")
    _change(app, "selectbox", "lab-policy-1-name", "knorm")
    _change(app, "number_input", "lab-budget", 32)
    _change(app, "number_input", "lab-chunk", 16)
    assert "knorm" in shown(app)["policy"]
    turn_to(app, "live")
    assert app.selectbox(key="w_policy-name").value == "fifo"
    assert app.number_input(key="w_policy-budget").value == 48
    assert app.number_input(key="live-chunk").value == 6
    assert shown(app)["policy"] == "fifo(budget_tokens=48)"
    turn_to(app, "lab")
    assert app.selectbox(key="lab-policy-1-name").value == "knorm"
    assert app.number_input(key="lab-budget").value == 32
    assert app.number_input(key="lab-chunk").value == 16


def test_a_run_starts_from_its_usual_policy_after_a_link_to_the_lab(open_page) -> None:
    app = sound(open_page("lab", policy="fifo(budget_tokens=32) | knorm(budget_tokens=32)"))
    app.query_params.clear()
    app.switch_page("live/page.py").run()
    app.button_group(key="w_mode").set_value("Run a model").run()
    assert sound(app).selectbox(key="w_policy-name").value == "hermes"
    assert app.number_input(key="w_policy-budget").value == 256


def test_an_upload_outlasts_other_pages_until_another_one_comes(open_page) -> None:
    app = sound(open_page("live", mode="Run a model", model="tiny"))
    _change(app, "selectbox", "w_source_kind", "Upload")
    data = bundled.clip_path().read_bytes()
    app.file_uploader(key="w_upload").set_value(("holiday.mp4", data, "video/mp4")).run()
    assert not next(b for b in sound(app).button if b.label == "Start").disabled
    turn_to(app, "why")
    turn_to(app, "live")
    assert app.selectbox(key="w_source_kind").value == "Upload"
    assert "holiday.mp4 is still here" in text_of(app)
    assert not next(b for b in app.button if b.label == "Start").disabled
    app.file_uploader(key="w_upload").set_value(("bad.mp4", b"no video", "video/mp4")).run()
    assert any("bad" in e.value for e in sound(app).error)
    assert next(b for b in app.button if b.label == "Start").disabled


def test_a_running_stream_keeps_its_speed_and_its_page(open_page) -> None:
    from dashboards.live.worker import StreamWorker

    app = sound(
        open_page(
            "live",
            **(LINK | {"source": "world:seed=3,frames=1024"}),
            policy="fifo(budget_tokens=48)",
        )
    )
    press(app, "Start")
    _change(app, "selectbox", "live-speed-now", "1x")
    (worker,) = StreamWorker.running()
    turn_to(app, "why")
    turn_to(app, "live")
    assert worker.alive
    assert app.selectbox(key="live-speed-now").value == "1x"
    worker.submit(lambda session: None).result(60)  # after what the page told it
    assert worker._speed == 1.0
    press(app, "Start")  # anew, at the speed of the form
    assert app.selectbox(key="live-speed-now").value == "4x"


def test_a_recording_whose_model_is_still_loading_is_not_exchanged_for_another(
    open_page, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    from dashboards.parts import models

    loaded = threading.Event()
    real = models.shared_lab

    def slow(name: str):
        loaded.wait(60)
        return real(name)

    monkeypatch.setattr(models, "shared_lab", slow)
    app = sound(open_page("live", **LINK, policy="fifo(budget_tokens=48)"))
    press(app, "Start")
    try:
        name = shown(app)["recording"]
        for page in ("why", "recordings", "atlas", "live"):
            turn_to(app, page)
            assert shown(app)["recording"] == name
    finally:
        loaded.set()


def test_what_would_be_knocked_out_outlasts_other_pages(open_page) -> None:
    app = sound(open_page("live", **LINK, policy="fifo(budget_tokens=48)"))
    press(app, "Start")
    from tests.app.test_app_streams import says, until

    until(app, says("Streaming."))
    turn_to(app, "findings")
    until(app, lambda a: any(s.key == "knock-layers" for s in a.slider))
    _change(app, "slider", "knock-layers", (1, 2))
    _change(app, "text_input", "knock-question", "who is there")
    turn_to(app, "why")
    turn_to(app, "findings")
    assert app.slider(key="knock-layers").value == (1, 2)
    assert app.text_input(key="knock-question").value == "who is there"

"""The Live page with a model, uploads, and the policy lab, on a tiny checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from hermes_lab.recording import Recording
from tests.app.pages import press, sound, text_of
from tests.app.snippets import complete, one, run, shown

LINK = {"mode": "Run a model", "source": "world:seed=3,frames=16", "model": "tiny"}


def until(app: AppTest, true: Callable[[AppTest], bool], patience_s: float = 60.0) -> AppTest:
    """Run the page again, as its timer would, until something is so."""
    end = time.monotonic() + patience_s
    while not true(app):
        assert time.monotonic() < end, text_of(app)
        time.sleep(0.1)
        sound(app.run())
    return app


def says(words: str) -> Callable[[AppTest], bool]:
    return lambda app: words in text_of(app)


@pytest.fixture
def stream(open_page) -> AppTest:
    """A stream that runs as fast as it goes, until its end."""
    app = sound(open_page("live", policy="fifo(budget_tokens=48)", **LINK))
    app.selectbox(key="live-speed").set_value("as fast as it goes").run()
    press(app, "Start")
    return until(app, says("The stream has ended"))


def test_a_stream_is_run_asked_and_recorded_and_the_recording_equals_the_view(
    stream: AppTest, runs: Path
) -> None:
    from dashboards.live.worker import StreamWorker

    complete(stream)
    stream.chat_input[0].set_value("what was the first object").run()
    until(stream, says("TTFT"))
    (worker,) = StreamWorker.running()
    view = worker.latest()
    press(stream, "Stop")
    assert not worker.alive
    name = next(p.name for p in runs.iterdir() if p.name.startswith("live-"))
    recording = Recording.open(runs / name)
    retention = recording.retention()
    assert recording.manifest.status == "finished"
    assert recording.manifest.policy["budget_tokens"] == 48
    assert (retention.ids == view.ids).all()
    assert (retention.state() == view.states).all()
    assert [a.text for a in recording.answers] == [a.text for a in view.answers]


def test_a_policy_without_a_budget_keeps_32_frames_here_too(open_page, runs: Path) -> None:
    app = sound(open_page("live", policy="fifo", **(LINK | {"source": "world:seed=3,frames=48"})))
    assert app.number_input(key="w_policy-budget").placeholder == "by default"
    app.selectbox(key="live-speed").set_value("as fast as it goes").run()
    press(app, "Start")
    until(app, says("The stream has ended"))
    press(app, "Stop")
    name = next(p.name for p in runs.iterdir() if p.name.startswith("live-"))
    recording = Recording.open(runs / name)
    grid = recording.manifest.model.tokens_per_frame
    assert recording.manifest.policy["budget_tokens"] == 32 * grid
    assert recording.steps[0].notes[0].startswith("fifo has no budget: 32 frames of")
    assert [ids.shape[1] for ids in recording.steps[-1].held] == [32 * grid] * 3


def test_the_policy_changes_in_mid_stream(open_page) -> None:
    app = sound(
        open_page(
            "live",
            policy="fifo(budget_tokens=48)",
            **(LINK | {"source": "world:seed=3,frames=256"}),
        )
    )
    press(app, "Start")
    until(app, says("budget_tokens=48"))
    app.selectbox(key="w_policy-name").set_value("uniform").run()
    press(app, "Use it from the next decision on")
    until(app, says("uniform(budget_tokens=48)"))
    press(app, "Pause")
    until(app, says("Paused."))
    press(app, "Step")
    sound(app.run())
    press(app, "Play")
    until(app, says("Streaming."))


def test_a_policy_that_refuses_its_fields_says_so_before_the_start(open_page) -> None:
    app = sound(open_page("live", policy="hermes(budget_tokens=64)", **LINK))
    app.slider(key="w_policy-hermes-paper-shallow_fraction").set_value(0.9).run()
    sound(app)
    assert any("must not exceed" in e.value or "cross" in e.value for e in app.error)
    assert next(b for b in app.button if b.label == "Start").disabled


def test_an_error_of_the_worker_is_shown(open_page, monkeypatch: pytest.MonkeyPatch) -> None:
    from hermes_lab.stream.session import StreamSession

    def broken(self, *_):
        raise RuntimeError("the disk caught fire")

    monkeypatch.setattr(StreamSession, "feed", broken)
    app = sound(open_page("live", policy="fifo(budget_tokens=48)", **LINK))
    press(app, "Start")
    until(app, lambda a: any("the disk caught fire" in e.value for e in a.error))


def test_a_refused_policy_stays_on_the_page_while_the_stream_goes_on(open_page) -> None:
    from dashboards.live.worker import StreamWorker

    app = sound(
        open_page(
            "live",
            policy="fifo(budget_tokens=48)",
            **(LINK | {"source": "world:seed=3,frames=1024"}),
        )
    )
    app.selectbox(key="live-speed").set_value("as fast as it goes").run()
    press(app, "Start")
    until(app, says("budget_tokens=48"))
    (worker,) = StreamWorker.running()
    worker.set_policy({"policy": "fifo", "budget_tokens": 1})
    until(app, lambda a: any("The policy stays as it was" in e.value for e in a.error))
    fed = worker.latest().frames_arrived
    until(app, lambda _: worker.latest().frames_arrived > fed + 8)
    sound(app.run())
    assert any("The policy stays as it was" in e.value for e in app.error)
    press(app, "Play")
    until(app, lambda a: not a.error)


def test_a_model_outside_the_offer_is_refused(open_page) -> None:
    app = sound(open_page("live", policy="fifo(budget_tokens=48)", **(LINK | {"model": "/etc"})))
    press(app, "Start")
    assert any("not offered" in e.value for e in app.error)


@pytest.mark.parametrize("data", [b"not a video at all", b"\x00\x00\x00\x18ftypmp42" + bytes(200)])
def test_a_broken_upload_is_one_sentence(open_page, data: bytes) -> None:
    app = sound(open_page("live", **(LINK | {"source": ""})))
    app.selectbox(key="w_source_kind").set_value("Upload").run()
    app.file_uploader(key="w_upload").set_value(("holiday.mp4", data, "video/mp4")).run()
    sound(app)
    # other errors of the same browser session may still be shown
    (error,) = {e.value for e in app.error if "holiday.mp4" in e.value}
    assert "Traceback" not in error
    assert next(b for b in app.button if b.label == "Start").disabled


def test_policies_are_compared_beside_their_companions(
    open_page, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = sound(
        open_page(
            "lab",
            source="world:seed=3,frames=16",
            model="tiny",
            policy="fifo(budget_tokens=32) | knorm(budget_tokens=32)",
        )
    )
    app.number_input(key="lab-streams").set_value(1)
    app.number_input(key="lab-budget").set_value(32).run()
    press(app, "Compare")
    until(app, says("What they keep"))
    rows = app.dataframe[0].value
    assert list(rows["policy"]) == ["fifo", "knorm", "full", "recent_frames", "uniform", "random"]
    assert (rows["cache at the end (KiB)"].iloc[:2] < rows["cache at the end (KiB)"].iloc[2]).all()
    assert "too few for intervals" in text_of(app)
    monkeypatch.chdir(runs)
    drawn = shown(complete(app))
    assert run(one(drawn, "session.replay('fifo(budget_tokens=32)'"))["strip"].layers == 3
    for call in ("memory_curves", "agreement_map", "accuracy_bars"):
        run(one(drawn, call))
    again = run(one(drawn, "contest.hold", "ttft_curves"))
    answers = app.dataframe[-1].value
    for policy in again["result"].runs:
        assert [a.text for a in policy.asked] == list(answers[policy.name])
    press(app, "Save")
    saved = runs / "policies" / "fifo.py"
    scope = {}
    exec(compile(saved.read_text(), str(saved), "exec"), scope)
    assert scope["policy"].budget_tokens == 32


def test_a_link_reopens_the_policy_lab_as_it_was(open_page) -> None:
    link = {
        "source": "world:seed=3,frames=16", "model": "tiny", "chunk": "16", "worlds": "2",
        "policy": "fifo(budget_tokens=32) | knorm(budget_tokens=32)",
    }  # fmt: skip
    app = sound(open_page("lab", **link))
    chosen = {k: app.number_input(key=f"lab-{k}").value for k in ("budget", "chunk", "streams")}
    assert chosen == {"budget": 32, "chunk": 16, "streams": 2}
    now = {k: "".join(v) for k, v in app.query_params.items()}
    assert now == link


def test_a_link_reopens_what_would_run_and_what_would_be_asked(open_page) -> None:
    asked = {"fps": "2.5", "speed": "as fast as it goes", "chunk": "8"}
    app = sound(open_page("live", policy="fifo(budget_tokens=48)", **(LINK | asked)))
    assert app.number_input(key="live-fps").value == 2.5
    assert app.selectbox(key="live-speed").value == "as fast as it goes"
    now = {k: "".join(v) for k, v in complete(app).query_params.items()}
    assert now == LINK | asked | {"policy": "fifo(budget_tokens=48)"}
    lab = sound(open_page("lab", model="tiny", questions="who is there\nwhat is there"))
    lab.selectbox(key="w_source_kind").set_value("Camera").run()
    sound(lab)
    assert lab.text_area(key="lab-questions").value == "who is there\nwhat is there"
    lab.text_area(key="lab-questions").set_value("").run()
    assert "".join(sound(lab).query_params["questions"]) == "-"


@pytest.mark.parametrize("page", ["live", "lab"])
def test_nonsense_in_a_link_is_as_if_it_were_not_there(open_page, page: str) -> None:
    bad = {
        "mode": "Run a model", "source": "world:seed=-1,frames=x", "fps": "1e400", "speed": "ludicrous",
        "chunk": "0", "worlds": "99999", "filmstrip": "-3", "frames": "some", "policy": "| fifo(budget_tokens='x') |",
    }  # fmt: skip
    app = sound(open_page(page, **bad))
    if page == "live":
        assert app.number_input(key="live-fps").value == 1.0
        assert app.selectbox(key="live-speed").value == "4x"
    else:
        assert app.number_input(key="lab-streams").value == 32


def test_tokens_of_the_running_stream_are_knocked_out_beside_random_ones(stream: AppTest) -> None:
    stream.switch_page("findings/page.py").run()
    sound(stream)
    stream.text_input(key="knock-question").set_value("what is there").run()
    press(stream, "Knock out")
    said = text_of(stream)
    assert "log-probability moves by" in said
    knocked = run(one(shown(complete(stream)), "knock_out("))["reading"]
    assert f"(logit {knocked.logit:.2f}" in said
    assert f"moves by {knocked.targeted[1]:+.2f}" in said
    stream.switch_page("atlas/page.py").run()
    sound(stream)
    stream.button_group(key="atlas-weighting").set_value("value-weighted").run()
    press(stream, "Read it")
    assert any("atlas-weighted" in c.proto.id for c in stream.get("plotly_chart"))
    weighted = run(one(shown(complete(stream)), "value_weighted("))["weighted"]
    assert len(weighted) == 16
    assert sum(weighted) == pytest.approx(1)

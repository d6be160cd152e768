"""Verdicts follow from numbers, and there is none without controls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis import claims, codec
from analysis.claims import Claim, Finding, NullPanel, RequiredControl, Verdict, judge
from analysis.result import (
    Data,
    FigureSpec,
    Reproduce,
    ResultIncomplete,
    Setup,
    StudyResult,
    Table,
    checklist,
)
from hermes_lab.errors import LabError

STREAMS = 12
CLAIM = Claim(
    key="recent",
    sentence="The first layer allocates more attention to the newest frame than a random network does.",
    metric="share of the newest frame over its uniform share",
    refuted_if="the share is within 0.2 of the random network's",
    needs=(
        RequiredControl("uniform", "exceed"),
        RequiredControl("random_weights", "exceed", replicates=3),
        RequiredControl("moving_camera", "persist"),
    ),
    reference=1.0,
    smallest_effect=0.2,
)


def streams(mean, spread=0.1, seed=0):
    return mean + spread * np.random.default_rng(seed).normal(size=STREAMS)


def panel(observed, *, random=1.0, moving=2.0, versions=3):
    weights = np.stack([streams(random - 0.1 * i, seed=10 + i) for i in range(versions)])
    return NullPanel(
        (
            claims.null("uniform", observed, np.ones(STREAMS)),
            claims.null("random_weights", observed, weights),
            claims.persistence("moving_camera", streams(moving, seed=5), 1.0),
        )
    )


def ruling(observed, controls, claim=CLAIM) -> Finding:
    return judge([(claim, claims.estimate(observed), controls)])[0]


def test_a_clear_effect_is_supported_and_names_the_strongest_null():
    observed = streams(2.0)
    found = ruling(observed, panel(observed, random=1.3))
    assert found.verdict is Verdict.SUPPORTED
    assert found.panel.strongest.name == "random_weights"
    assert "random_weights" in found.because
    assert found.p < 0.01


def test_an_effect_that_a_random_network_has_too_is_not_supported():
    observed = streams(2.0)
    found = ruling(observed, panel(observed, random=2.05))
    assert found.verdict is Verdict.NOT_SUPPORTED
    # The uniform null alone would have let it pass.
    assert found.panel.get("uniform").difference.low > 0.8


def test_an_effect_that_goes_when_the_camera_moves_is_not_supported():
    observed = streams(2.0)
    found = ruling(observed, panel(observed, moving=1.02))
    assert found.verdict is Verdict.NOT_SUPPORTED
    assert "moving_camera" in found.because


def test_a_tiny_certain_effect_is_not_supported():
    observed = streams(1.05, spread=0.01)
    found = ruling(observed, panel(observed, random=0.9))
    assert found.verdict is Verdict.NOT_SUPPORTED
    assert "smallest effect" in found.because


@pytest.mark.parametrize(("mean", "spread"), [(1.3, 1.2), (1.25, 0.6)])
def test_noise_leaves_the_question_open(mean, spread):
    observed = streams(mean, spread)
    assert ruling(observed, panel(observed)).verdict is Verdict.CANNOT_TELL


def test_a_model_that_cannot_answer_leaves_the_question_open():
    claim = replace(
        CLAIM,
        needs=(RequiredControl("uniform", "exceed"), RequiredControl("uses video", "capable")),
    )
    observed = streams(2.0)
    null = claims.null("uniform", observed, np.ones(STREAMS))

    def found(ability):
        controls = NullPanel((null, claims.capability("uses video", streams(ability, seed=3))))
        return ruling(observed, controls, claim)

    assert found(1.0).verdict is Verdict.SUPPORTED
    assert found(0.0).verdict is Verdict.CANNOT_TELL
    assert "uses video" in found(0.0).because
    with pytest.raises(claims.ControlsMissing, match="uses video"):
        ruling(observed, NullPanel((null,)), claim)


def test_two_streams_leave_the_question_open():
    observed = np.array([2.0, 2.1])
    controls = NullPanel(
        (
            claims.null("uniform", observed, np.ones(2)),
            claims.null("random_weights", observed, np.ones((3, 2))),
            claims.persistence("moving_camera", observed, 1.0),
        )
    )
    assert ruling(observed, controls).verdict is Verdict.CANNOT_TELL


@pytest.mark.parametrize(
    ("drop", "versions", "word"),
    [
        ("uniform", 3, "uniform"),
        (None, 2, "2 of 3 versions"),
        ("moving_camera", 3, "moving_camera"),
    ],
)
def test_no_verdict_without_the_controls(drop, versions, word):
    observed = streams(2.0)
    controls = panel(observed, versions=versions)
    controls = NullPanel(tuple(c for c in controls.controls if c.name != drop))
    with pytest.raises(claims.ControlsMissing, match=word):
        ruling(observed, controls)


def test_a_control_without_a_number_counts_as_not_run():
    observed = streams(2.0)
    controls = list(panel(observed).controls)
    controls[0] = replace(controls[0], estimate=claims.Estimate(np.nan, np.nan, np.nan, 0))
    with pytest.raises(claims.ControlsMissing, match="uniform"):
        ruling(observed, NullPanel(tuple(controls)))


def test_a_null_without_any_value_counts_as_not_run():
    observed = streams(2.0)
    controls = panel(observed).controls[1:]
    empty = claims.null("uniform", observed, np.full(STREAMS, np.nan))
    with pytest.raises(claims.ControlsMissing, match="uniform"):
        ruling(observed, NullPanel((empty, *controls)))


def test_many_claims_are_corrected_together():
    observed = streams(1.45, 0.45)
    one = ruling(observed, panel(observed))
    many = judge([(CLAIM, claims.estimate(observed), panel(observed))] * 200)[0]
    assert one.verdict is Verdict.SUPPORTED
    assert many.p == pytest.approx(200 * one.p)
    assert many.verdict is Verdict.CANNOT_TELL


def test_false_support_is_rare_under_the_null():
    rng = np.random.default_rng(0)
    claim = replace(
        CLAIM, needs=(RequiredControl("random_weights", "exceed"),), smallest_effect=0.01
    )
    supported = 0
    for _ in range(200):
        base = rng.normal(size=STREAMS)
        observed, null = base + 0.3 * rng.normal(size=(2, STREAMS))
        controls = NullPanel((claims.null("random_weights", observed, null),))
        supported += ruling(observed, controls, claim).verdict is Verdict.SUPPORTED
    assert supported <= 16  # 5 % of 200, and two standard errors


def test_claims_must_be_refutable():
    with pytest.raises(LabError, match="refuted_if"):
        replace(CLAIM, refuted_if=" ")
    with pytest.raises(LabError, match="no null"):
        replace(CLAIM, needs=(RequiredControl("moving_camera", "persist"),))
    with pytest.raises(LabError, match="smallest effect"):
        replace(CLAIM, smallest_effect=0.0)


def a_result(**changes) -> StudyResult:
    observed = streams(2.0)
    finding = ruling(observed, panel(observed), changes.pop("claim", CLAIM))
    base = StudyResult(
        study="recency",
        title="Recency",
        question="Where does attention go by age?",
        structural=True,
        quick=True,
        setup=Setup(
            "m", "none", {"torch": "2"}, "float32", "stream", 8, 1.0, "96x96", 16, 6, 4, 2, ("q",),
            "full", "last question token", "counted apart", "none", "cpu", (0,),
        ),
        data=Data("worlds", ("1",), ("2", "3"), {"2": "ab"}, "Apache-2.0", "first seeds", 10),
        findings=(finding,),
        tables=(Table("profile", ("layer", "share"), ((0, 1.5), (1, float("nan")))),),
        figures=(FigureSpec("f", "profiles", ("profile",), "t", "s", "c", {"log": True}),),
        negatives=("none so far",),
        robustness=("leave one out: 1.9 to 2.1",),
        analyses=3,
        reproduce=Reproduce("hermes-lab study recency", 3.0, 2.0, 0.0, "2.0 within 0.1"),
        scope="A test.",
        covers=("nulls", "per_head"),
    )  # fmt: skip
    return replace(base, **changes)


def test_results_survive_json():
    result = a_result()
    result.validate()
    text = codec.dumps(result)
    assert "NaN" not in text
    again = codec.loads(StudyResult, text)
    assert again.findings == result.findings
    assert again.setup == result.setup
    assert codec.dumps(again) == text
    assert again.tables[0].csv().splitlines()[0] == "layer,share"


@pytest.mark.parametrize("text", ["{", '{"study": 3}', '{"other": 1}'])
def test_damaged_json_is_refused_in_a_sentence(text):
    with pytest.raises(LabError):
        codec.loads(StudyResult, text)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"negatives": ()}, "negatives"),
        ({"scope": ""}, "scope"),
        ({"analyses": 0}, "how many analyses"),
        ({"tables": (Table("other", ("a",), ((1,),)),)}, "missing table"),
        ({"setup": replace(a_result().setup, cache_policy="fifo")}, "pruned cache"),
        ({"setup": replace(a_result().setup, sink_treatment="")}, "sink_treatment"),
        ({"data": replace(a_result().data, hashes={})}, "hashes"),
        (
            {
                "claim": claims.confirmatory(CLAIM),
                "data": replace(a_result().data, development=("2",)),
            },
            "held-out",
        ),
    ],
)
def test_incomplete_results_are_refused(changes, word):
    with pytest.raises(ResultIncomplete, match=word):
        a_result(**changes).validate()


def test_a_result_cannot_carry_a_verdict_whose_controls_were_removed():
    result = a_result()
    bare = replace(result.findings[0], panel=NullPanel(()))
    with pytest.raises(claims.ControlsMissing):
        replace(result, findings=(bare,)).validate()


def test_checklist_names_what_no_study_covers():
    items = checklist([a_result()])
    assert len(items) == 12
    open_items = [item.number for item in items if not item.satisfied]
    assert open_items == [6, 7, 8, 9]
    assert items[4].where == ("recency",)

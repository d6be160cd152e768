"""Inputs that once broke something, and the rule that holds for each: right, or one sentence (see `tests.fuzz`)."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from hermes_lab.errors import LabError
from tests.fuzz import cases
from tests.fuzz.cases import Case, Fault, Target
from tests.fuzz.targets import KINDS

CORPUS = Path(__file__).resolve().parents[1] / "corpus"
FOUND = sorted(path for kind in CORPUS.iterdir() for path in kind.iterdir())


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return {}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_broke_something_once_does_so_no_more(
    path: Path, targets: dict[str, Target], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    kind = path.parent.name
    with monkeypatch.context() as patch:
        for name in (
            "HERMES_LAB_RECORDINGS",
            "HERMES_LAB_REPORTS",
        ):  # which a target sets for itself
            patch.setenv(name, os.environ.get(name, ""))
        if kind not in targets:
            targets[kind] = KINDS[kind]()
            targets[kind].prepare(tmp_path_factory.mktemp(kind))
        if kind == "link":  # set anew: an earlier case's environment is gone
            targets[kind].prepare(tmp_path_factory.mktemp(kind))
        assert cases.judge(targets[kind], cases.load(path), tmp_path / "root") in (
            "right",
            "refused",
        )


def test_every_kind_has_cases() -> None:
    assert {path.parent.name for path in FOUND} == set(KINDS)


def test_a_seed_gives_the_same_case_again(tmp_path: Path) -> None:
    for name in ("policy", "recording"):
        target = KINDS[name]()
        target.prepare(tmp_path / name)
        drawn = [[target.draw(random.Random(f"0-{n}")) for n in range(300)] for _ in range(2)]
        assert drawn[0] == drawn[1]


# --- the rule itself ----------------------------------------------------------------------------
class Odd(Target):
    """A target that does what it is told."""

    name = "odd"

    def __init__(self, act: object) -> None:
        self.act = act

    def prepare(self, folder: Path) -> None: ...

    def draw(self, rng: object) -> Case:
        return {}

    def run(self, case: Case, folder: Path) -> None:
        if isinstance(self.act, BaseException):
            raise self.act
        if isinstance(self.act, str):
            Path(folder, self.act).write_text("x")


@pytest.mark.parametrize(
    ("act", "because"),
    [
        (ValueError("x"), "ValueError: x"), (LabError("two\nlines"), "no sentence"), (LabError(""), "no sentence"),
        (LabError("x" * 3000), "a sentence of 3000"), ("../beside", "wrote 'beside' beside its folder"),
        ("../home/here", "wrote 'here' where it was started"),
    ],
)  # fmt: skip
def test_what_breaks_the_rule_is_a_fault(act: object, because: str, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=because):
        cases.judge(Odd(act), {}, tmp_path / "root")


def test_right_answers_and_sentences_are_none(tmp_path: Path) -> None:
    assert cases.judge(Odd(None), {}, tmp_path / "a") == "right"
    assert cases.judge(Odd(LabError("No.")), {}, tmp_path / "b") == "refused"

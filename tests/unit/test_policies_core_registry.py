"""Finding policies by name: specs, presets, errors in words, notebook classes and plug-ins."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, ClassVar, Literal

import pytest

from hermes_lab import plugins, policies
from hermes_lab.errors import PolicyError
from hermes_lab.policies import registry
from hermes_lab.policies.base import LayerView, Need, Policy, Scores, setting
from hermes_lab.policies.fifo import Fifo
from hermes_lab.policies.hermes import Hermes


@dataclass(frozen=True, kw_only=True)
class Toy(Policy):
    """A policy for these tests.

    More words.
    """

    rate: float = setting(0.5, "A rate.", minimum=0, maximum=1)
    mode: Literal["a", "b"] = setting("a", "A mode.")
    pair: tuple[int, ...] = setting((1, 2), "Numbers.", minimum=0)
    inner: Policy | str | None = setting(None, "Another policy.")
    size: int = setting(2, "A size.", choices=(2, 4))

    name: ClassVar[str] = "toy"
    title: ClassVar[str] = "for tests"
    source: ClassVar[str] = "none"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.KEYS})
    presets: ClassVar[tuple[str, ...]] = ("quick_one",)

    @classmethod
    def quick_one(cls, **fields: Any) -> Toy:
        return cls(**({"rate": 1.0} | fields))

    def score(self, view: LayerView) -> Scores:
        return Scores(view.time_s)


@pytest.fixture
def toy() -> Iterator[type[Policy]]:
    yield policies.register(Toy)
    policies.unregister("toy")


# --- specs ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("hermes", Hermes()),
        (" hermes : released ", Hermes.released()),
        ("hermes:paper(budget_tokens=64, lambdas=(0, 0.5, 1))",
         Hermes(budget_tokens=64, lambdas=(0, 0.5, 1))),
        ("hermes:released(smoothing=raw)", Hermes.released(smoothing="raw")),
        ("fifo()", Fifo()),
        ("fifo(\n  budget_tokens=512,\n  whole_frames=True,\n)",
         Fifo(budget_tokens=512, whole_frames=True)),
        ("sink-recent(sink_tokens=2)", policies.get("sink_recent", sink_tokens=2)),
        ("uniform(by='token')", policies.get("uniform", by="token")),
    ],
)  # fmt: skip
def test_specs(spec: str, expected: Policy) -> None:
    assert policies.get(spec) == expected


def test_overrides_win(toy: type[Policy]) -> None:
    assert policies.get("toy(rate=0.25)", rate=0.75).rate == 0.75  # pyright: ignore
    assert policies.get("toy:quick-one", mode="b") == Toy(rate=1.0, mode="b")


def test_bare_words_and_calls_are_text(toy: type[Policy]) -> None:
    """So that policies inside policies need no quotes on a command line."""
    assert policies.get("toy(inner=fifo(budget_tokens=8), mode=b)") == Toy(
        inner="fifo(budget_tokens=8)", mode="b"
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("hermess", "no policy 'hermess'; did you mean 'hermes'"),
        ("zzzz", "known names are .*fifo"),
        ("", "Cannot read the policy ''"),
        ("fifo(", "Cannot read the policy"),
        ("fifo(a=)", "Cannot read the options"),
        ("fifo(8)", "must be key=value pairs"),
        ("fifo(**{'a': 1})", "must be key=value pairs"),
        ("fifo()(a=1)", "must be key=value pairs"),
        ("fifo(budget_tokens=[x for x in y])", "plain number, text"),
        ("fifo(budget_tokens=2**10)", "plain number, text"),
        ("fifo(budget_tokens=__import__('os').getpid())", "at least 1, got .__import__"),
        ("fifo(budget=8)", "no field 'budget'; did you mean 'budget_tokens'"),
        ("fifo:fast", "no preset 'fast'; it has none"),
        ("hermes:relesed", "no preset 'relesed'; did you mean 'released'"),
        ("toy(rate=1.5)", "'rate' of policy 'toy' takes a number between 0 and 1, got 1.5"),
        ("toy(rate='x')", "takes a number between 0 and 1, got 'x'"),
        ("toy(mode=c)", "takes one of 'a', 'b', got 'c'"),
        ("toy(size=3)", "takes one of 2, 4, got 3"),
        ("toy(pair=(1, -1))", "at least 0, got"),
        ("toy(pair=3)", "a tuple of items that are each a whole number"),
    ],
)  # fmt: skip
def test_errors_name_what_was_wrong(toy: type[Policy], spec: str, words: str) -> None:
    with pytest.raises(PolicyError, match=words) as caught:
        policies.get(spec)
    assert str(caught.value).count("\n") == 0


def test_a_missing_field_is_named() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Needy(Policy):
        """Needs a field."""

        width: int
        name: ClassVar[str] = "needy"

    policies.register(Needy)
    try:
        with pytest.raises(PolicyError, match="'needy' needs the field 'width'"):
            policies.get("needy")
    finally:
        policies.unregister("needy")


# --- listings -------------------------------------------------------------------------------------
def test_info(toy: type[Policy]) -> None:
    found = policies.info("toy")
    assert (found.name, found.title, found.source, found.origin) == (
        "toy", "for tests", "none", "registered",
    )  # fmt: skip
    assert found.doc == "A policy for these tests."
    assert found.needs == {Need.KEYS}
    assert found.presets == ("quick_one",)
    fields = {field.name: field for field in found.fields}
    assert list(fields) == ["budget_tokens", "rate", "mode", "pair", "inner", "size"]
    assert (fields["rate"].minimum, fields["rate"].maximum) == (0, 1)
    assert fields["rate"].type == "float"
    assert fields["rate"].default == 0.5
    assert fields["mode"].choices == ("a", "b")
    assert fields["size"].choices == (2, 4)
    assert fields["budget_tokens"].takes == "None or a whole number of at least 1"
    assert policies.info("fifo").origin == "built-in"


def test_every_builtin_line_leads_to_a_policy_of_that_name() -> None:
    for name in registry.BUILTIN:
        assert policies.policy_class(name).name == name
    assert set(registry.BUILTIN) <= set(policies.names())


def test_manifest_round_trip_through_json(toy: type[Policy]) -> None:
    """Tuples and nested policies survive JSON."""
    policy = Toy(pair=(3,), inner=Fifo(budget_tokens=9))
    config = json.loads(json.dumps(policy.config()))
    assert config["inner"] == {"policy": "fifo", "budget_tokens": 9, "whole_frames": False}
    assert policies.from_config(config) == policy
    shuffled = Hermes.released(bands=("deep", "shallow"))
    assert policies.from_config(json.loads(json.dumps(shuffled.config()))) == shuffled
    with pytest.raises(PolicyError, match="no name under 'policy'"):
        policies.from_config({"budget_tokens": 3})


# --- registration -----------------------------------------------------------------------------------
def test_registering_again_replaces(toy: type[Policy]) -> None:
    """As a notebook cell that is run twice does."""

    @policies.register
    @dataclass(frozen=True)
    class Toy2(Policy):
        """Again."""

        name: ClassVar[str] = "toy"

    assert policies.policy_class("toy") is Toy2


class Undecorated(Policy):
    """Forgot the decorator."""

    width: int = 3
    name: ClassVar[str] = "undecorated"


class Nameless(Policy):
    """Has no name."""


class Impostor(Policy):
    """Takes a name that is taken."""

    name: ClassVar[str] = "fifo"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Undecorated, "lacks the decorator"),
        (Nameless, "class attribute 'name'"),
        (Impostor, "belongs to a built-in policy"),
        (int, "not a subclass"),
        (Toy(), "not a subclass"),
    ],
)
def test_incomplete_classes_are_refused(wrong: Any, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        policies.register(wrong)


# --- plug-ins ---------------------------------------------------------------------------------------
@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sound plug-in among faulty ones, as entry points of installed packages would be."""
    here = __name__
    entries = [
        EntryPoint("toy", f"{here}:Toy", registry.GROUP),
        EntryPoint("gone", "no_such_module_anywhere:X", registry.GROUP),
        EntryPoint("nothing", f"{here}:NoSuchClass", registry.GROUP),
        EntryPoint("number", f"{here}:plain_number", registry.GROUP),
        EntryPoint("other", f"{here}:Toy", registry.GROUP),
        EntryPoint("fifo", f"{here}:Impostor", registry.GROUP),
        EntryPoint("toy", f"{here}:Toy", registry.GROUP),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries)
    monkeypatch.setattr(registry._plugins, "_found", None)
    monkeypatch.setattr(registry._plugins, "_problems", {})


plain_number = 3


@pytest.mark.usefixtures("installed")
def test_faulty_plugins_do_not_harm_the_others(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert "toy" in policies.names()
    assert not {"gone", "nothing", "number", "other"} & set(policies.names())
    assert policies.get("toy") == Toy()
    assert policies.get("fifo") == Fifo()
    assert policies.info("toy").origin == "plug-in"
    sentences = policies.problems()
    assert len(sentences) == 6
    assert all(s.count("\n") == 0 and s.endswith(".") for s in sentences)
    assert [record.message for record in caplog.records] == list(sentences)
    for name, words in (
        ("gone", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("nothing", "AttributeError"),
        ("number", "not a subclass"),
        ("other", "its class is named 'toy'"),
    ):
        with pytest.raises(PolicyError, match=words):
            policies.get(name)


def test_builtin_policies_load_no_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(group: str) -> list[EntryPoint]:
        raise AssertionError("a plug-in was looked for")

    monkeypatch.setattr(plugins, "entry_points", refuse)
    monkeypatch.setattr(registry._plugins, "_found", None)
    assert policies.get("hermes(budget_tokens=8)").budget_tokens == 8
    assert policies.info("hermes").origin == "built-in"

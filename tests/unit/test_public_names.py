"""`import hermes_lab` shows what there is at once, and loads nothing heavy until a name is used."""

from __future__ import annotations

import subprocess
import sys

import hermes_lab

EXAMPLES_NEED = {
    "Answer", "Lab", "LabError", "Policy", "Recording", "Snapshot", "StreamSession", "figures", "lens", "load",
    "policies", "video",
}  # fmt: skip


def test_every_name_is_listed_and_there() -> None:
    assert set(hermes_lab.__all__) == EXAMPLES_NEED
    assert set(dir(hermes_lab)) >= EXAMPLES_NEED
    for name in hermes_lab.__all__:
        assert getattr(hermes_lab, name) is not None
    assert not {"Any", "TYPE_CHECKING", "annotations"} & set(dir(hermes_lab))


def test_names_are_those_of_their_modules() -> None:
    from hermes_lab.policies.base import Policy
    from hermes_lab.recording import Recording

    assert hermes_lab.Policy is Policy
    assert hermes_lab.Recording is Recording


def test_what_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(hermes_lab, "nothing")


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, hermes_lab; dir(hermes_lab); hermes_lab.LabError\n"
        "print([m for m in ('torch', 'transformers', 'plotly', 'numpy') if m in sys.modules])\n"
        "hermes_lab.Recording\n"
        "print('torch' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert said.split("\n")[:2] == ["[]", "False"]

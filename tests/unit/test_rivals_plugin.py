"""The example plug-in is built, installed and discovered as a user would do it, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hermes_lab import policies

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "plugin_example"
ASK = """
import json
from hermes_lab import policies
found = policies.info("median_norm")
policy = policies.get("median_norm(budget_tokens=7, quantile=0.25)")
print(json.dumps({
    "listed": "median_norm" in policies.names(),
    "problems": policies.problems(),
    "origin": found.origin,
    "fields": [f.name for f in found.fields],
    "quantile": policy.quantile,
    "same": policies.from_config(policy.config()) == policy,
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder into which pip has installed the example."""
    target = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", target, EXAMPLE]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return target


def ask(code: str, *paths: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *paths]))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True, capture_output=True, text=True, timeout=300, env=environment, cwd=EXAMPLE,
    )  # fmt: skip
    return done.stdout


def test_the_example_is_discovered(installed: Path) -> None:
    found = json.loads(ask(ASK, installed))
    assert found == {
        "listed": True,
        "problems": [],
        "origin": "hermes-lab-median-norm",
        "fields": ["budget_tokens", "quantile"],
        "quantile": 0.25,
        "same": True,
    }


def test_it_is_not_there_without_being_installed() -> None:
    assert "median_norm" not in policies.names()


def test_it_holds_to_the_contract(installed: Path) -> None:
    """The table of contract tests takes a plug-in too: here on a made-up stream."""
    code = """
from hermes_lab import policies
from tests.fabricate import FakeStream
stream = FakeStream(policies.get("median_norm", budget_tokens=9))
for _ in range(12):
    views = stream.feed(2)
assert {view.ids.shape for view in views} == {(2, 9)}, [view.ids.shape for view in views]
print("held")
"""
    assert ask(code, installed).strip() == "held"


def test_the_tutorial_shows_the_example_as_it_is() -> None:
    """Code blocks that name a file of the example in the tutorial are that file, or a part of it."""
    text = (ROOT / "docs" / "write-a-policy.md").read_text(encoding="utf-8")
    shown = re.findall(r"```(?:python|toml) title=\"([^\"]+)\"\n(.*?)```", text, re.DOTALL)
    assert len(shown) >= 2
    for name, block in shown:
        source = (EXAMPLE / name).read_text(encoding="utf-8")
        assert block.strip() in source, f"{name} has changed: copy it into docs/write-a-policy.md"

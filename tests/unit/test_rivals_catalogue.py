"""docs/policies.md is what the classes say now, and every policy says enough."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hermes_lab.cli import main, policy_table
from hermes_lab.policies import info, registry
from hermes_lab.policies.base import Policy
from scripts import policy_catalogue as catalogue

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == catalogue.page(catalogue.pictures_of(PAGE)), (
        "docs/policies.md is out of date: run python scripts/policy_pictures.py --only-page"
    )


def test_the_table_has_one_full_row_for_each_policy() -> None:
    rows = policy_table.rows()
    assert [row.name for row in rows] == list(registry.BUILTIN)
    for row in rows:
        assert all(
            (row.keeps, row.mechanism, row.needs, row.granularity, row.query_time, row.source)
        )
    lines = policy_table.policy_table().splitlines()
    assert len(lines) == len(rows) + 2
    assert len({line.count(" | ") for line in lines if not line.startswith("| ---")} - {0}) == 1


def test_the_command_line_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policies", "--table"]) == 0
    assert capsys.readouterr().out.strip() == policy_table.policy_table()


def test_what_the_table_says_of_some_policies() -> None:
    row = {row.name: row for row in policy_table.rows()}
    assert row["rekv"].query_time == (
        "retrieves in each layer, from a store off the device (as they are)"
    )
    assert row["streamingtom"].query_time.endswith("(quantised)")
    assert row["dscache"].query_time == "prefills the last 4 frames"
    assert row["curvestream"].query_time == "prefills the last frame"
    assert row["infinipot_v"].granularity == "token, per KV head"
    assert row["streamkv"].granularity == "frame, per layer"
    assert row["fluxmem"].mechanism.startswith("gates before the decoder")
    assert row["instant"].mechanism == "as its parts"


def test_every_default_of_a_published_method_says_where_it_comes_from() -> None:
    """Fields of rivals name their source: the paper, released code, kvpress, or that there is none."""
    known = re.compile(r"paper|released|kvpress|undisclosed|unpublished|DSCache|\bours\b|StreamMem")
    for name in ("h2o", "snapkv", "pyramidkv", "lagkv", "infinipot_v", "streammem", "livevlm", "streamkv",
                 "mukv", "streaming_vlm", "fluxmem", "streamingtom", "curvestream", "rekv", "dscache"):  # fmt: skip
        for field in info(name).fields:
            if field.name != "budget_tokens":
                assert known.search(field.doc), f"{name}.{field.name}: {field.doc}"


def test_policies_are_small_files() -> None:
    folder = Path(registry.__file__).parent
    for path in folder.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
    assert Policy.__doc__

"""The table of all built-in policies, in words: `hermes-lab policies --table`, and the start of docs/policies.md."""

from __future__ import annotations

from dataclasses import dataclass

from hermes_lab.policies import registry
from hermes_lab.policies.base import Policy

# Steps of the contract in the order of a stream, and what it means that a policy defines one.
STEPS = {
    "admit": "gates before the decoder",
    "observe": "carries state",
    "score": "scores",
    "mix": "mixes layers",
    "budgets": "own budgets",
    "adapt_budgets": "adaptive budgets",
    "select": "own selection",
    "merge": "makes tokens",
}


@dataclass(frozen=True)
class Row:
    """One line of the table, all in words."""

    name: str
    keeps: str
    mechanism: str
    needs: str
    granularity: str
    query_time: str
    source: str
    licence: str


def rows() -> tuple[Row, ...]:
    """One row for each built-in policy, in the order of the registry."""
    return tuple(_row(name) for name in registry.BUILTIN)


def policy_table() -> str:
    """The table as Markdown."""
    heads = ("Policy", "Keeps", "Mechanism", "Needs", "Granularity", "At the question", "Source", "Licence")  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for row in rows():
        cells = (
            f"[`{row.name}`](#{row.name})", row.keeps, row.mechanism, row.needs, row.granularity,
            row.query_time, row.source, row.licence,
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _row(name: str) -> Row:
    cls, found = registry.policy_class(name), registry.info(name)
    takes_policies = any("Policy" in field.type for field in found.fields)
    ready = not any(field.required for field in found.fields)
    steps = ", ".join(words for step, words in STEPS.items() if _defines(cls, step))
    unit = f"{cls.granularity or 'token'}, per {'KV head' if found.per_head else 'layer'}"
    inner = "as its parts" if takes_policies else None
    return Row(
        name=name,
        keeps=cls.title,
        mechanism=inner or steps,
        needs=inner or ", ".join(sorted(found.needs)).replace("_", " ") or "nothing",
        granularity=inner or unit,
        query_time=_query_time(registry.get(name)) if ready else inner or "none",
        source=cls.source,
        licence=cls.licence or "-",
    )


def _query_time(policy: Policy) -> str:
    work: list[str] = []
    plan = policy.read_plan()
    if plan.recent_frames:
        many = f"{plan.recent_frames} frames" if plan.recent_frames > 1 else "frame"
        work.append(f"prefills the last {many}")
    if policy.recalls:
        work.append("retrieves in each layer")
    if policy.archives:
        stored = "quantised" if policy.codec() is not None else "as they are"
        work.append(f"from a store off the device ({stored})")
    return ", ".join(work) or "none"


def _defines(cls: type[Policy], step: str) -> bool:
    return getattr(cls, step) is not getattr(Policy, step)

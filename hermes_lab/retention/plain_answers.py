"""What a policy says without tensors: when it decides, what it reads, what it reserves. Asked and checked here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import Codec, Guidance, Need, Policy, ReadPlan
from hermes_lab.retention.calling import call, expect, name_of, refuse, truth, whole


def due(policy: Policy, tokens: Sequence[int], budgets: Sequence[int]) -> bool:
    """Whether the policy wants to decide now.

    Raises:
        PolicyError: it raised, or answered neither True nor False.
    """
    # lists of its own: what it does to them is its affair
    answer = call(policy, "due", None, lambda: policy.due(list(tokens), list(budgets)))
    return truth(policy, "due", None, answer)


def window(policy: Policy) -> int | None:
    """How many of the chunk's last visual queries are read; None: those of the newest frame.

    Raises:
        PolicyError: it raised, or answered no whole number.
    """
    method = "window_queries"
    answer: Any = call(policy, method, None, lambda: policy.window_queries)
    return None if answer is None else whole(policy, method, None, answer) or None


def guidance(policy: Policy, history: tuple[tuple[str, str], ...]) -> tuple[Guidance, ...]:
    """The pseudo-queries to read.

    Raises:
        PolicyError: it raised, answered something else, or named two of them alike.
    """
    answer: Any = call(policy, "guidance", None, lambda: policy.guidance(history))
    answer = call(policy, "guidance", None, lambda: tuple(answer))
    what = "Guidance objects with texts, each under a name of its own"
    for one in answer:
        expect(policy, "guidance", None, one, Guidance, what)
        if not (isinstance(one.name, str) and isinstance(one.text, str)):
            refuse(policy, "guidance", None, "a name or text that is no text", what)
        if one.kind not in ("text", "turn_boundary", "question"):
            refuse(
                policy,
                "guidance",
                None,
                f"the kind {one.kind!r}",
                "text, turn_boundary or question",
            )
        if one.reading not in ("propagated", "raw_embedding"):
            refuse(
                policy,
                "guidance",
                None,
                f"the reading {one.reading!r}",
                "propagated or raw_embedding",
            )
        if one.kind == "text" and not one.text:
            refuse(policy, "guidance", None, f"an empty text for {one.name!r}", what)
    if len({one.name for one in answer}) != len(answer):
        refuse(policy, "guidance", None, "one name twice", what)
    return answer


def reads(policy: Policy, name: str, layer: int, layers: int) -> bool:
    """Whether the decision of a layer uses a guidance.

    Raises:
        PolicyError: it raised, or answered neither True nor False.
    """
    answer = call(policy, "reads", layer, lambda: policy.reads(name, layer, layers))
    return truth(policy, "reads", layer, answer)


def reserve(policy: Policy, layer: int, layers: int) -> int:
    """Slots of a layer's budget that `merge` will fill.

    Raises:
        PolicyError: it raised, or answered no whole number.
    """
    answer = call(policy, "reserve", layer, lambda: policy.reserve(layer, layers))
    return whole(policy, "reserve", layer, answer)


def read_plan(policy: Policy) -> ReadPlan:
    """How a question reads the memory.

    Raises:
        PolicyError: it raised, or answered something else.
    """
    plan = call(policy, "read_plan", None, lambda: policy.read_plan())
    plan = expect(policy, "read_plan", None, plan, ReadPlan, "a ReadPlan")
    return ReadPlan(
        recent_frames=whole(policy, "read_plan", None, plan.recent_frames),
        use_cache=truth(policy, "read_plan", None, plan.use_cache),
        replaces=truth(policy, "read_plan", None, plan.replaces),
    )


def codec(policy: Policy, layer: int) -> Codec | None:
    """How the archive stores keys and values; None: as they are.

    Raises:
        PolicyError: it raised, or answered something else.
    """
    answer: Any = call(policy, "codec", layer, lambda: policy.codec())
    return (
        None if answer is None else expect(policy, "codec", layer, answer, Codec, "a Codec or None")
    )


def check_traits(policy: Policy) -> None:
    """Whether the class attributes of a policy are what the engine can read.

    Raises:
        PolicyError: they are not.
    """
    needs, detail = policy.needs, policy.attention_detail
    if not isinstance(needs, frozenset | set) or not needs <= set(Need):
        raise PolicyError(
            f"Policy {name_of(policy)!r} has needs = {needs!r}; it must be a frozenset of Need, such as "
            "frozenset({Need.KEYS})."
        )
    if detail not in ("rows", "heads", "mean"):
        raise PolicyError(
            f"Policy {name_of(policy)!r} has attention_detail = {detail!r}; it must be rows, heads or mean."
        )

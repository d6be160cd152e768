"""What a policy may keep when nobody gave it a budget: 32 frames' worth of this stream, at most HERMES' 4K tokens.

Python, the command line, the dashboard and evaluations all get it from here, through the session. What a frame takes
depends on the model and on the size of the pictures, so the budget is settled when the first chunk has been encoded,
before anything is admitted or decided. What a person should know about a budget is said here too, in sentences.
"""

from __future__ import annotations

from collections.abc import Sequence

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import UNBOUNDED, Policy
from hermes_lab.retention.checks import call, check_choice, expect, name_of
from hermes_lab.stream.frame_size import FrameSize, tokens_text
from hermes_lab.stream.state import StreamState

FRAMES = 32
MOST_TOKENS = 4096  # the smaller of the two budgets that HERMES is measured at


def default_tokens(size: FrameSize) -> int:
    """The default budget, in tokens per layer: never less than one frame (or group)."""
    groups = -(-FRAMES // size.frames)
    return min(groups * size.tokens, max(MOST_TOKENS, size.tokens))


def settle(policy: Policy, stream: StreamState) -> tuple[Policy, tuple[str, ...]]:
    """The policy with the default budget where it, or a part of it, needs one and has none; and what to say of it.

    Nothing is settled while no frame has come. The budget is at least as large as the system prefix, as every budget
    must be (see `contract.check_choice`).

    Raises:
        PolicyError: the policy cannot take that budget.
    """
    size, layers = stream.frame_size, len(stream.cache.states)
    if size is None:
        return policy, ()
    default = default_tokens(size)
    budget = max(default, stream.protected)
    try:
        given = call(policy, "bounded", None, lambda: policy.bounded(budget, layers))
    except PolicyError as error:
        raise PolicyError(
            f"Policy {name_of(policy)!r} has no budget and cannot take the default of {budget} tokens: {error}"
        ) from error
    bounded = expect(policy, "bounded", None, given, Policy, "a policy")
    if bounded is policy or bounded.budgets(layers) is None:
        return policy, ()
    check_choice(bounded, layers, stream.protected, evaluation=True)
    whole = policy.budgets(layers) is None
    who = name_of(policy) if whole else f"A part of {name_of(policy)}"
    groups = default // size.tokens
    if budget > default:
        kept = f"{tokens_text(budget)} per layer are kept, as many as the system prefix has."
    elif groups * size.tokens == default:
        kept = f"{size.counted(groups)} = {tokens_text(default)} per layer are kept."
    else:
        kept = f"{tokens_text(default)} per layer are kept, about {size.counted(groups)}."
    return bounded, (f"{who} has no budget: {kept}",)


def too_small(budgets: Sequence[int] | None, size: FrameSize) -> tuple[str, ...]:
    """A sentence where some layer cannot hold one frame of what enters the decoder."""
    least = min(budgets or [UNBOUNDED])
    if least >= size.tokens:
        return ()
    return (
        f"A budget of {tokens_text(least)} per layer is smaller than one {size.noun} of this stream "
        f"({tokens_text(size.tokens)}), so that no layer can hold a whole one.",
    )


def is_exceeded(budgets: Sequence[int] | None, held: Sequence[int]) -> bool:
    """Whether some layer holds more than its budget before a decision."""
    return budgets is not None and any(n > b for n, b in zip(held, budgets, strict=True))


def never_exceeded(policy: Policy, stream: StreamState) -> tuple[str, ...]:
    """What to say of a budget that no layer ever exceeded."""
    held, seen = stream.held_tokens, stream.tokens_seen
    limits = sorted({b for b in policy.budgets(len(held)) or () if b < UNBOUNDED})
    if stream.bound or not seen or not limits:
        return ()
    span = (
        tokens_text(limits[0]) if len(limits) == 1 else f"{limits[0]} to {tokens_text(limits[-1])}"
    )
    said = f"The budget of {span} per layer was never exceeded"
    if any(n < seen for n in held):
        return (f"{said}; what was evicted went for other reasons.",)
    return (
        f"{said}: all {tokens_text(seen)} that came in fit, so {name_of(policy)} evicted nothing; a smaller budget makes it "
        "decide.",
    )

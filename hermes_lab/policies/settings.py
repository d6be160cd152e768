"""Policy fields that describe themselves: what a field means, which values it takes, and the check of both.

The dashboard builds its controls, and the CLI its listing, from what `describe` reads off a policy class;
`validate` holds an instance to the same description, so that a control and an error never disagree.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from hermes_lab.brief import brief
from hermes_lab.errors import PolicyError

T = TypeVar("T")
_LARGEST = 2**62  # of numbers that a field takes; ids and sizes are integers of 64 bits


def setting(
    default: T,
    doc: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[Any] | None = None,
) -> T:
    """A dataclass field with its meaning and range.

    Args:
        default: the value where none is given (immutable: a tuple, not a list).
        doc: one sentence, with the unit and the source of the default.
        minimum, maximum: inclusive bounds; for a tuple they bound each of its numbers.
        choices: the only values taken. A `Literal[...]` annotation says the same and is checked too.
    """
    metadata = {"doc": doc, "min": minimum, "max": maximum, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class FieldInfo:
    """One hyperparameter of a policy.

    Attributes:
        type: annotation in words, such as "int | None".
        annotation: the resolved annotation (`Any` where it cannot be resolved).
        default: None where `required`.
        doc: one sentence.
        choices: the only values taken, or None.
        minimum, maximum: inclusive bounds.
        required: whether the field has no default.
    """

    name: str
    type: str
    annotation: Any
    default: Any
    doc: str
    choices: tuple[Any, ...] | None
    minimum: float | None
    maximum: float | None
    required: bool

    @property
    def takes(self) -> str:
        """What the field takes, as the middle of a sentence."""
        if self.choices is not None:
            return "one of " + ", ".join(repr(c) for c in self.choices)
        words = _words(self.annotation)
        if self.minimum is not None and self.maximum is not None:
            return f"{words} between {self.minimum:g} and {self.maximum:g}"
        if self.minimum is not None:
            return f"{words} of at least {self.minimum:g}"
        if self.maximum is not None:
            return f"{words} of at most {self.maximum:g}"
        return words


def describe(cls: type) -> tuple[FieldInfo, ...]:
    """The fields of a policy class, in order of definition."""
    try:
        hints = get_type_hints(cls)
    except (
        NameError,
        TypeError,
    ):  # an annotation naming something local to a function or a notebook
        hints = {}
    infos: list[FieldInfo] = []
    for f in dataclasses.fields(cls):
        if not f.init:
            continue
        annotation = hints.get(f.name, Any)
        choices = f.metadata.get("choices")
        if choices is None and get_origin(annotation) is Literal:
            choices = get_args(annotation)
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        default = None if f.default is dataclasses.MISSING else f.default
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        infos.append(
            FieldInfo(
                name=f.name,
                type=f.type if isinstance(f.type, str) else _name(f.type),
                annotation=annotation,
                default=default,
                doc=f.metadata.get("doc", ""),
                choices=None if choices is None else tuple(choices),
                minimum=f.metadata.get("min"),
                maximum=f.metadata.get("max"),
                required=required,
            )
        )
    return tuple(infos)


def settle(instance: Any, **values: Any) -> None:
    """Give fields of a frozen dataclass their final values, while it is being made (in `__post_init__`) and only then.

    Raises:
        AttributeError: a name is no field. What a policy says of itself follows from its fields (see `traits.computed`).
    """
    known = {f.name for f in dataclasses.fields(instance)}
    for name, value in values.items():
        if name not in known:
            raise AttributeError(f"{type(instance).__name__} has no field {name!r} to settle.")
        object.__setattr__(instance, name, value)


def validate(instance: Any, policy: str) -> None:
    """Hold every field of a dataclass instance to its type, choices and range; lists become tuples.

    Args:
        policy: how the error sentence calls the policy.

    Raises:
        PolicyError: a field has a wrong type or a value out of range.
    """
    for info in describe(type(instance)):
        value = getattr(instance, info.name)
        if isinstance(value, list):  # manifests are JSON, which knows no tuples
            value = _tuples(cast("list[Any]", value))
            settle(instance, **{info.name: value})
        fits = info.choices is None or value in info.choices
        if not (fits and matches(value, info.annotation) and _within(value, info)):
            raise PolicyError(
                f"Field {info.name!r} of policy {policy!r} takes {info.takes}, got {_shown(value)}."
            )


def matches(value: Any, annotation: Any) -> bool:
    """Whether a value fits an annotation; an int fits float, a bool fits neither int nor float."""
    if annotation is Any:
        return True
    if annotation is None or annotation is type(None):
        return value is None
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(matches(value, a) for a in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        items = cast("tuple[Any, ...]", value)
        if len(args) == 2 and args[1] is Ellipsis:
            return all(matches(v, args[0]) for v in items)
        return len(items) == len(args) and all(
            matches(v, a) for v, a in zip(items, args, strict=True)
        )
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    kind = origin or annotation
    return isinstance(value, kind) if isinstance(kind, type) else True


def _within(value: Any, info: FieldInfo) -> bool:
    if isinstance(value, tuple):
        return all(_within(v, info) for v in cast("tuple[Any, ...]", value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    return (
        abs(value) < _LARGEST  # infinite and NaN are not
        and (info.minimum is None or value >= info.minimum)
        and (info.maximum is None or value <= info.maximum)
    )


def _shown(value: Any) -> str:
    """A value in a sentence; Python writes out no number of thousands of digits."""
    huge = type(value) is int and abs(value) >= _LARGEST
    return "a number beyond all sizes" if huge else brief(value)


def _tuples(value: list[Any]) -> tuple[Any, ...]:
    return tuple(_tuples(cast("list[Any]", v)) if isinstance(v, list) else v for v in value)


def _words(annotation: Any) -> str:
    """An annotation as a person would say it."""
    plain = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
    if annotation is Any:
        return "a value"
    if annotation is None or annotation is type(None):
        return "None"
    if annotation in plain:
        return plain[annotation]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):  # None first: "None or a number of at least 1"
        ordered = sorted(args, key=lambda a: a is not type(None))
        return " or ".join(_words(a) for a in ordered)
    if origin is Literal:
        return "one of " + ", ".join(repr(a) for a in args)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return f"a tuple of items that are each {_words(args[0])}"
        return "a tuple (" + ", ".join(_words(a) for a in args) + ")"
    return f"a {_name(annotation)}"


def _name(annotation: Any) -> str:
    return getattr(annotation, "__name__", str(annotation))

"""Rendering the chat template of a checkpoint, which is a program by its author.

Jinja's sandbox keeps it from files and from Python; here it is kept from never ending and from eating all memory.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from hermes_lab.errors import ModelError

MOST_SECONDS = 5.0
MOST_CHARACTERS = 2**20
"""Of a template; the longest known one has some 20,000."""
_LARGEST_NUMBER = 100_000
_LOOKS_EVERY_S = 0.01  # at the memory; what grows slower than that is looked at in time
_MOST_GROWTH_BYTES = 2**30


class _Generation(Extension):
    """The tag with which templates mark what the assistant says; it changes nothing that is looked for here."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateError(ModelError):
    """A template that asks for too much."""


def render(tokenizer: Any, template: str, messages: Sequence[dict[str, Any]]) -> str:
    """A conversation in a chat template, with the opening of the answer.

    Raises:
        TemplateError: the template asks for absurd numbers, or takes more than `MOST_SECONDS` or a GiB of memory.
        Exception: whatever else the template raises, or jinja2 where it is broken.
    """
    _check(template)
    with _within(MOST_SECONDS):
        return str(
            tokenizer.apply_chat_template(
                list(messages), chat_template=template, tokenize=False, add_generation_prompt=True
            )
        )


_ENVIRONMENT = jinja2.Environment(extensions=["jinja2.ext.loopcontrols", _Generation])


@lru_cache(32)
def _check(template: str) -> None:
    """Refuse what takes its time or memory in one single operation, where no clock is looked at."""
    if len(template) > MOST_CHARACTERS:
        raise TemplateError(f"it has {len(template):,} characters")
    try:
        parsed = _ENVIRONMENT.parse(template)
    except RecursionError as error:
        raise TemplateError("it is nested too deeply") from error
    if parsed.find(nodes.Pow) is not None:
        raise TemplateError("it computes powers")
    for constant in parsed.find_all(nodes.Const):
        if isinstance(constant.value, (int, float)) and not abs(constant.value) <= _LARGEST_NUMBER:
            raise TemplateError(f"it holds a number beyond {_LARGEST_NUMBER:,}")


@contextmanager
def _within(seconds: float) -> Generator[None]:
    """Raise out of the block's templates when it takes too long; other threads are not disturbed."""
    began = looked = time.monotonic()
    memory = _resident_bytes()

    def traced(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal looked
        now = time.monotonic()
        if now - looked > _LOOKS_EVERY_S:
            looked = now
            if now - began > seconds:
                raise TemplateError(f"it takes more than {seconds:g} seconds")
            if _resident_bytes() - memory > _MOST_GROWTH_BYTES:
                raise TemplateError("it takes more than a GiB of memory")
        # lines are looked at in templates only, all else runs at full speed
        return traced if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    sys.settrace(traced)
    try:
        yield
    finally:
        sys.settrace(before)


def _resident_bytes() -> int:
    """Memory of this process, 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0

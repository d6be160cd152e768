"""How sources are called on screens and in recordings: without secrets, and in text that can be encoded."""

from __future__ import annotations

import os
import re

_NOT_TEXT = re.compile(r"[\ud800-\udfff]")
_MASK = "***"


def shown(name: str | os.PathLike[str]) -> str:
    """A file's name or path as text: bytes that are not UTF-8 become replacement characters."""
    return _NOT_TEXT.sub("\ufffd", os.fspath(name))


def without_password(url: str) -> str:
    """The URL as it may be shown and recorded: user names and passwords are masked, and so is what may
    be a token (values in the query, the fragment, and parameters of the path); their names remain."""
    scheme, mark, rest = shown(url).partition("://")
    place, query = _split(_without_user(rest))
    place = re.sub(r"(=|;)[^/]*", rf"\1{_MASK}", place)
    query = re.sub(r"=[^&;#]*", f"={_MASK}", query)
    query = re.sub(r"([?&;#])[^=&;#]+(?=[&;#]|$)", rf"\1{_MASK}", query)
    return f"{scheme}{mark}{place}{query}"


def _without_user(rest: str) -> str:
    """Mask what stands before the host. Passwords hold slashes and question marks, against the rules;
    so where it is not clear which @ ends them, too much is masked rather than too little."""
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    name, _, port = host.rpartition(":")
    if "@" in host:
        end = host.rindex("@")
    elif not name or port.endswith("]"):
        return rest
    else:
        end = (_split(rest)[0] if port.isdecimal() else rest).rfind("@")
    return rest if end < 0 else f"{_MASK}@{rest[end + 1 :]}"


def _split(rest: str) -> tuple[str, str]:
    """What comes before the query or the fragment, and the rest with its first character."""
    place = re.split(r"[?#]", rest, maxsplit=1)[0]
    return place, rest[len(place) :]

"""Memory that does not suffice: one sentence that says what did not fit, how much was asked for, and what to lower."""

from __future__ import annotations

import re
import sys
from types import TracebackType

from hermes_lab.brief import bytes_text
from hermes_lab.errors import OutOfMemoryError

_UNITS = {"B": 1, "bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = re.compile(r"allocate (\d+(?:\.\d+)?) (bytes|B|[KMGT]iB)")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory did not suffice, on the host or on a device."""
    if isinstance(error, MemoryError):
        return True
    # torch, where it is loaded, has no type of its own for the CPU and for some accelerators
    text = str(error) if isinstance(error, RuntimeError) else ""
    return "can't allocate memory" in text or "out of memory" in text.lower()


def asked_for(error: BaseException) -> str:
    """How much was asked for in vain, in brackets and with a space before; empty where nobody says."""
    found = _SIZE.search(str(error))
    if found is None:
        return ""
    return f" ({bytes_text(float(found[1]) * _UNITS[found[2]])} more were asked for at once)"


class within_memory:  # read as a phrase, as those of contextlib are
    """Turn running out of memory inside the block into a sentence.

    Args:
        what: what did not fit, as the sentence begins.
        advice: what became of it and what to lower, as the sentence ends.

    Raises:
        OutOfMemoryError: there was too little. It does not hold what the block held, so that this can be freed.
    """

    def __init__(self, what: str, advice: str) -> None:
        self._what, self._advice = what, advice

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            return
        del frames  # they hold the very tensors that were too many
        error.__traceback__ = None
        _give_back()
        raise OutOfMemoryError(
            f"{self._what} did not fit into memory{asked_for(error)}: {self._advice}."
        ) from error


def _give_back() -> None:
    """Let a GPU's memory that nobody holds any more go back to where others can have it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()

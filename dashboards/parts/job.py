"""Work that takes longer than a page may: one thread, its progress, its result or its error."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from hermes_lab.errors import LabError

T = TypeVar("T")
Progress = Callable[[float, str], None]
_LOG = logging.getLogger(__name__)


class Cancelled(Exception):
    """Raised inside the work at its next report of progress after `cancel`."""


class Job(Generic[T]):
    """Runs `work(progress)` in a thread; read `result`, `error` and `progress` from anywhere."""

    def __init__(self, work: Callable[[Progress], T]) -> None:
        self.result: T | None = None
        self.error: str | None = None
        self.progress: tuple[float, str] = (0.0, "starting")
        self._cancel = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(work,), name="hermes-job", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def cancel(self, timeout_s: float = 10.0) -> None:
        """End the work at its next step."""
        self._cancel.set()
        self._thread.join(timeout_s)

    def _run(self, work: Callable[[Progress], T]) -> None:
        import torch

        torch.set_num_threads(1)
        try:
            self.result = work(self._report)
        except Cancelled:
            self.error = "Cancelled."
        except LabError as error:
            self.error = str(error)
        except Exception as error:
            _LOG.exception("A job failed")
            self.error = f"It stopped on an unexpected error ({type(error).__name__}: {error})."

    def _report(self, share: float, what: str) -> None:
        if self._cancel.is_set():
            raise Cancelled
        self.progress = (min(max(share, 0.0), 1.0), what)

"""Where a stream stands, as far as one compression needs to know it."""

from __future__ import annotations

from dataclasses import dataclass

from hermes_lab.engine.cache import StreamCache
from hermes_lab.tokens import TokenTable


@dataclass
class Standing:
    """What retention reads of a stream, and the cache and table that it writes to.

    Attributes:
        cache: keys and values with ids and positions.
        table: what every token is.
        protected: cached tokens of the system prefix, never candidates.
        step, frames_seen: counters of the stream.
        now_s: time of the newest frame, in seconds.
        tokens_per_frame: visual tokens of the newest frame.
    """

    cache: StreamCache
    table: TokenTable
    protected: int = 0
    step: int = 0
    frames_seen: int = 0
    now_s: float = 0.0
    tokens_per_frame: int = 0

    @property
    def held_tokens(self) -> list[int]:
        """Tokens of the stream that each layer holds, the system prefix left out."""
        return [state.tokens - self.protected for state in self.cache.states]

"""One question prefilled over the memory, with chosen activations caught on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from hermes_lab.engine.cache import LayerState
from hermes_lab.engine.passes import Knockout, Wants

if TYPE_CHECKING:
    from hermes_lab.stream.session import StreamSession

NamesFilter = str | Sequence[str] | Callable[[str], bool] | None


@dataclass(frozen=True)
class QuestionPass:
    """What one question's prefill left behind.

    Attributes:
        hidden: normalised hidden states of the question's turn.
        activations: what was caught, by hook name, in the order in which the model computed it.
        states: what each layer held at the end of the pass, the question's own tokens (id -1) last.
    """

    hidden: Float[Tensor, "new hidden"]
    activations: dict[str, Tensor]
    states: tuple[LayerState, ...]


def question_pass(
    session: StreamSession,
    question: str,
    names: NamesFilter,
    *,
    knockouts: Sequence[Knockout] = (),
) -> QuestionPass:
    """Prefill a question beside the stream, keeping the activations that `names` asks for.

    Args:
        names: a hook name, several, or a predicate over names; None: all of them.
        knockouts: tokens to hide besides those that the session hides already.

    Raises:
        LabError: the question is empty, or a hook name is unknown.
    """
    caught: dict[str, Tensor] = {}

    def catch(tensor: Tensor, hook: Any) -> None:
        caught.pop(
            hook.name, None
        )  # frames that are read afresh fire first; the question comes last
        caught[hook.name] = tensor.detach()

    hooks = [(name, catch) for name in resolve(session, names)]
    wants = Wants(knockouts=(*session.knockouts, *knockouts), board=session.board)
    with session.alone():  # or another thread's question would be caught too
        stream = session.reading_stream()
        with session.hooks(hooks):
            hidden = session.prefill_question(question, wants, stream)
    states = stream.cache.states
    return QuestionPass(hidden, caught, states)


def resolve(session: StreamSession, names: NamesFilter) -> list[str]:
    """Hook names meant by a filter, each once.

    Raises:
        LabError: a name is unknown.
    """
    board = session.board
    if names is None:
        return board.names()
    if isinstance(names, str) or callable(names):
        return board.resolve(names)
    return list(dict.fromkeys(found for name in names for found in board.resolve(name)))

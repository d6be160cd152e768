"""The chat template around a streamed video, shared by all families.

One conversation is rendered with the checkpoint's own template and cut at the place of the video: what
stands before it is the prefix of the stream, what stands after it belongs to the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Int
from torch import Tensor

from hermes_lab.errors import ModelError
from hermes_lab.models.assemble import TextRun, assemble
from hermes_lab.models.base import Adapter
from hermes_lab.models.templates import TemplateError, render
from hermes_lab.segment import Segment
from hermes_lab.tokens import Role

_PROBE = "What is shown?"  # stands for a question where only the text around it matters


class ChatAdapter(Adapter):
    """An adapter whose text segments come from a chat template.

    Class attributes:
        fallback_template: Jinja template for a checkpoint that has none, or none that takes a video.
    """

    fallback_template: ClassVar[str] = ""

    def placeholders(self) -> Sequence[tuple[str, str]]:
        """Content types to put the video in as, with the text that the template writes for each."""
        token_id = int(cast(Any, self.model).config.video_token_id)
        return [("video", str(self.tokenizer.convert_ids_to_tokens(token_id)))]

    def after_video(self) -> str:
        """Text that the processor puts between the last frame and the template's continuation."""
        return ""

    def prefix(self, system: str | None = None) -> Segment:
        """The template up to the video (role SYSTEM).

        Raises:
            ModelError: the template has no place for a system prompt.
        """
        before, _ = self._render(_PROBE, system=system)
        if system is not None and system.strip() not in before:
            raise ModelError(
                f"The chat template of {self.name or self.family} has no place for a system prompt before "
                "the video; leave the system prompt out."
            )
        return self._text_segment(before, Role.SYSTEM)

    def question(self, text: str, *, history: Sequence[tuple[str, str]] = ()) -> Segment:
        """Earlier (question, answer) turns, then the question and the opening of the answer (role TEXT)."""
        _, after = self._render(text, history=history)
        return self._text_segment(after, Role.TEXT)

    def text(self, text: str) -> Segment:
        """Bare text, no template and no special tokens added (role TEXT)."""
        return self._text_segment(text, Role.TEXT)

    def turn_boundary(self) -> Segment:
        """The tokens between the end of a question and its answer (role TEXT)."""
        return self._text_segment(self._boundary_text, Role.TEXT)

    @cached_property
    def eos_ids(self) -> frozenset[int]:  # pyright: ignore[reportIncompatibleMethodOverride] -- cached property
        """What the generation config, the decoder's config and the tokenizer name as end of text, and the
        special token that ends a turn in the template."""
        found: set[int] = set()
        generation = getattr(self.model, "generation_config", None)
        for holder in (generation, self.text_config, self.tokenizer):
            value: Any = getattr(holder, "eos_token_id", None)
            several = cast("list[Any]", value) if isinstance(value, list) else [value]
            found.update(one for one in several if isinstance(one, int))
        boundary = self.token_ids(self._boundary_text)
        special = {int(i) for i in self.tokenizer.all_special_ids}
        if len(boundary) and int(boundary[0]) in special:
            found.add(int(boundary[0]))
        return frozenset(found)

    # --- for the families ------------------------------------------------------------------
    def token_ids(self, text: str) -> Int[Tensor, " tokens"]:
        """Ids of a text as it stands."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return torch.tensor(ids, dtype=torch.long)

    def _text_segment(self, text: str, role: Role) -> Segment:
        return assemble(self, [TextRun(self.token_ids(text), role)])

    @cached_property
    def _boundary_text(self) -> str:
        _, after = self._render(_PROBE)
        return after[after.rindex(_PROBE) + len(_PROBE) :]

    def _render(
        self, question: str, *, system: str | None = None, history: Sequence[tuple[str, str]] = ()
    ) -> tuple[str, str]:
        """The rendered conversation before and after the video.

        Templates differ in what they call a video and in whether a message's content is a list of typed
        parts or one string: all are tried, then the family's fallback template.
        """
        turns: list[tuple[str, str]] = []
        for asked, answered in history:
            turns += [("user", asked), ("assistant", answered)]
        turns.append(("user", question))
        own = self.tokenizer.chat_template
        own = own.get("default") if isinstance(own, dict) else own  # a set of named templates
        templates = [own, self.fallback_template] if own else [self.fallback_template]
        failure = "it does not write out the video and the question"
        for template, (kind, written), as_parts in product(
            templates, self.placeholders(), (True, False)
        ):
            media = {"type": kind} if as_parts else f"{written.rstrip()}\n"
            messages = [_message("system", system, None, as_parts)] if system is not None else []
            for index, (role, content) in enumerate(turns):
                messages.append(_message(role, content, None if index else media, as_parts))
            try:
                rendered = render(self.tokenizer, template, messages)
            except TemplateError as error:
                raise ModelError(
                    f"The chat template of {self.name or self.family} is not used: {error}; it may be meant to do harm."
                ) from error
            except (
                Exception
            ) as error:  # a Jinja template may raise anything on content it does not take
                failure = str(error)
                continue
            spoken = sum(
                content.count(written) for content in (system or "", *(c for _, c in turns))
            )
            if rendered.count(written) == 1 + spoken and question.strip() in rendered:
                before, after = rendered.split(written, 1)
                return before, self.after_video() + after
        raise ModelError(
            f"The chat template of {self.name or self.family} cannot render a user turn with a video and a "
            f"question ({failure}); check the checkpoint's chat template."
        )


def _message(role: str, text: str, media: Any, as_parts: bool) -> dict[str, Any]:
    """One message, its content either a list of typed parts or one string."""
    if not as_parts:
        return {"role": role, "content": f"{media or ''}{text}"}
    return {"role": role, "content": [*([media] if media else []), {"type": "text", "text": text}]}

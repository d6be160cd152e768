"""The chat template around a streamed video, shared by all families.

One conversation is rendered with the checkpoint's own template and cut at the place of the video: what
stands before it is the prefix of the stream, what stands after it belongs to the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.errors import ModelError
from hermes_lab.models.base import Adapter, Segment
from hermes_lab.tokens import Role

_PROBE = "What is shown?"  # stands for a question where only the text around it matters


class ChatAdapter(Adapter):
    """An adapter whose text segments come from a chat template.

    Class attributes:
        media: content type of the video in the template's messages ("video", or "image").
        fallback_template: Jinja template for a checkpoint that has none.
    """

    media: ClassVar[str] = "video"
    fallback_template: ClassVar[str] = ""

    @cached_property
    def placeholder(self) -> str:
        """The text that the template writes where the video belongs."""
        token_id = getattr(cast(Any, self.model).config, f"{self.media}_token_id")
        return str(self.tokenizer.convert_ids_to_tokens(int(token_id)))

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
            value = cast("int | list[int] | None", getattr(holder, "eos_token_id", None))
            found.update([value] if isinstance(value, int) else value or [])
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
        embeds = self.embed(self.token_ids(text))
        count = embeds.shape[0]
        return Segment(
            embeds=embeds,
            role=np.full(count, role, np.int8),
            frame=np.full(count, -1, np.int32),
            row=np.full(count, -1, np.int16),
            col=np.full(count, -1, np.int16),
            rel=torch.arange(count).expand(self.rotary_axes, -1).clone(),
        )

    def frame_segment(
        self, visual: Float[Tensor, "frames cells hidden"], cols: int, **extra: Any
    ) -> Segment:
        """Frames of one grid without markers on a 1-D rotary axis, in raster order."""
        frames, cells, hidden = visual.shape
        cell = np.tile(np.arange(cells), frames)
        return Segment(
            embeds=visual.reshape(frames * cells, hidden).to(self.device, self.dtype),
            role=np.full(frames * cells, Role.VISUAL, np.int8),
            frame=np.repeat(np.arange(frames, dtype=np.int32), cells),
            row=(cell // cols).astype(np.int16),
            col=(cell % cols).astype(np.int16),
            rel=torch.arange(frames * cells)[None],
            **extra,
        )

    @cached_property
    def _boundary_text(self) -> str:
        _, after = self._render(_PROBE)
        return after[after.rindex(_PROBE) + len(_PROBE) :]

    def _render(
        self, question: str, *, system: str | None = None, history: Sequence[tuple[str, str]] = ()
    ) -> tuple[str, str]:
        """The rendered conversation before and after the video.

        Templates differ in whether a message's content is a list of typed parts or one string: both are
        tried, the list first.
        """
        turns: list[tuple[str, str]] = []
        for asked, answered in history:
            turns += [("user", asked), ("assistant", answered)]
        turns.append(("user", question))
        failure: Exception | None = None
        for as_parts in (True, False):
            messages = [self._message("system", system, as_parts)] if system is not None else []
            for index, (role, content) in enumerate(turns):
                messages.append(self._message(role, content, as_parts, with_media=index == 0))
            try:
                rendered = str(
                    self.tokenizer.apply_chat_template(
                        messages,
                        chat_template=self.tokenizer.chat_template or self.fallback_template,
                        tokenize=False,
                        add_generation_prompt=True,
                    )
                )
            except (
                Exception
            ) as error:  # a Jinja template may raise anything on content it does not take
                failure = error
                continue
            if self.placeholder in rendered and question.strip() in rendered:
                before, after = rendered.split(self.placeholder, 1)
                return before, after
        raise ModelError(
            f"The chat template of {self.name or self.family} does not render a user turn with "
            f"{'an' if self.media == 'image' else 'a'} {self.media} and a question"
            f"{f' ({failure})' if failure else ''}; check the checkpoint's chat template."
        )

    def _message(
        self, role: str, text: str, as_parts: bool, *, with_media: bool = False
    ) -> dict[str, Any]:
        if not as_parts:
            return {"role": role, "content": f"{self.placeholder}\n{text}" if with_media else text}
        parts: list[dict[str, str]] = [{"type": self.media}] if with_media else []
        return {"role": role, "content": [*parts, {"type": "text", "text": text}]}

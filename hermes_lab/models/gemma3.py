"""Gemma 3 with its SigLIP tower: 256 tokens per frame, sliding-window layers in the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from hermes_lab.models.fixed_frames import FixedFrames
from hermes_lab.models.preprocess import BILINEAR


class Gemma3(FixedFrames):
    """Each frame is one image between its begin and end tokens and blank lines; no pan and scan.

    Streaming differs from one-shot processing twice. The one-shot model lets the tokens of one image see
    each other in both directions; here they are causal, like every token of a stream. And the blank lines
    around a frame are tokenised apart from those of its neighbours.

    Most layers attend to a window only. `check_streamable` refuses to keep more than the window holds.
    """

    family: ClassVar[str] = "gemma3"
    model_types: ClassVar[tuple[str, ...]] = ("gemma3",)
    examples: ClassVar[tuple[str, ...]] = ("google/gemma-3-4b-it", "google/gemma-3-12b-it")
    note: ClassVar[str] = (
        "256 causal tokens per frame; refused where more is kept than its sliding windows hold"
    )
    frame_defaults: ClassVar[Mapping[str, Any]] = {
        **FixedFrames.frame_defaults,
        "resample": BILINEAR,
    }
    fallback_template: ClassVar[str] = (
        "<bos>{% for m in messages %}{% if m['role'] != 'system' %}"
        "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{% if loop.index0 == 1 and messages[0]['role'] == 'system' %}"
        "{{ messages[0]['content'][0]['text'] }}\n\n{% endif %}"
        "{% for part in m['content'] %}{% if part['type'] == 'image' %}<start_of_image>"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<end_of_turn>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    )

    @property
    def grid_side(self) -> int:
        """Square root of the tokens per image."""
        return int(self._inner.config.mm_tokens_per_image**0.5)

    def visual_tokens(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n cells hidden"]:
        """Tower, average pooling, projection."""
        return self._inner.get_image_features(pixels, return_dict=True).pooler_output

    def placeholders(self) -> Sequence[tuple[str, str]]:
        """The template writes the begin-of-image token for an image."""
        return [("image", self._special("boi"))]

    def markers(self, time_s: float) -> tuple[str, str]:
        """Blank line and begin token; end token and blank line."""
        return f"\n\n{self._special('boi')}", f"{self._special('eoi')}\n\n"

    def _special(self, name: str) -> str:
        token_id = getattr(self._inner.config, f"{name}_token_id")
        return str(self.tokenizer.convert_ids_to_tokens(int(token_id)))

"""Idefics3, SmolVLM and SmolVLM2: each frame is one unsplit image between special tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, cast

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from hermes_lab.models.fixed_frames import FixedFrames
from hermes_lab.models.preprocess import LANCZOS, FrameSettings, longest_edge, resize

_LARGEST_SIDE = 4096  # pixels; the family's processors enlarge frames no further
_AFTER_VIDEO = "\n\n"  # the SmolVLM processor ends a video with it


class Idefics3(FixedFrames):
    """Frames carry the markers of the family's processors: SmolVLM names each frame's minute and second.

    Streaming differs from one-shot SmolVLM in one sentence: its processor opens a video by stating the
    number of frames and the duration, which a stream does not have, so that sentence is left out.
    """

    family: ClassVar[str] = "idefics3"
    model_types: ClassVar[tuple[str, ...]] = ("idefics3", "smolvlm")
    examples: ClassVar[tuple[str, ...]] = (
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        "HuggingFaceM4/Idefics3-8B-Llama3",
    )
    note: ClassVar[str] = (
        "each frame one unsplit image; SmolVLM names each frame's minute and second"
    )
    decoder_name: ClassVar[str] = "text_model"
    vision_name: ClassVar[str] = "vision_model"
    frame_defaults: ClassVar[Mapping[str, Any]] = {
        **FixedFrames.frame_defaults,
        "resample": LANCZOS,
        "size": {"longest_edge": 4 * 364},
    }
    fallback_template: ClassVar[str] = (
        "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
        "{{ ':' if m['content'][0]['type'] == 'image' else ': ' }}"
        "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
        "{% elif part['type'] == 'video' %}<video>{% else %}<image>{% endif %}{% endfor %}"
        "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    )

    @property
    def _projector(self) -> nn.Module:
        return cast(nn.Module, self._inner.connector)

    @property
    def grid_side(self) -> int:
        """Patches per side, divided by the pixel shuffle's factor."""
        return self.patch_side // int(self._inner.config.scale_factor)

    def visual_tokens(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n cells hidden"]:
        """Tower and connector (pixel shuffle, linear)."""
        output = self._inner.get_image_features(pixels[None], return_dict=True)
        return output.pooler_output[0].unflatten(0, (pixels.shape[0], self.grid_side**2))

    def placeholders(self) -> Sequence[tuple[str, str]]:
        """SmolVLM's processor writes a video, if need be with a template of its own (the fallback here)."""
        if self._is_smolvlm:
            return [("video", "<video>")]
        token_id = int(self._inner.config.image_token_id)
        return [("image", str(self.tokenizer.convert_ids_to_tokens(token_id)))]

    def markers(self, time_s: float) -> tuple[str, str]:
        """The frame's time (SmolVLM) and the special tokens around an unsplit image."""
        fake = getattr(self.tokenizer, "fake_image_token", "<fake_token_around_image>")
        whole = getattr(self.tokenizer, "global_image_token", "<global-img>")
        stamp = f"\nFrame from {int(time_s // 60):02d}:{int(time_s % 60):02d}:"
        return f"{stamp if self._is_smolvlm else ''}{fake}{whole}", fake

    def after_video(self) -> str:
        """SmolVLM's processor ends a video with a blank line."""
        return _AFTER_VIDEO if self._is_smolvlm else ""

    def resize_frame(self, frame: UInt8[Tensor, "1 3 h w"]) -> UInt8[Tensor, "1 3 side side"]:
        """To the saved longest edge, then squeezed into the tower's square, as the processors do in turn."""
        settings = self.frame_settings
        height, width = int(frame.shape[-2]), int(frame.shape[-1])
        size = settings.size
        if edge := size.get("longest_edge"):
            height, width = longest_edge(height, width, min(edge, _LARGEST_SIDE))
        else:
            height, width = size["height"], size["width"]
        frame = resize(frame, height, width, settings.resample)
        return resize(frame, self.image_side, self.image_side, settings.resample)

    @cached_property
    def frame_settings(self) -> FrameSettings:
        """As saved; SmolVLM2 keeps the size for videos in the image settings."""
        saved = dict(self.image_settings.get("video") or self.image_settings.get("image") or {})
        if sampling := saved.get("video_sampling"):
            saved["size"] = sampling["video_size"]
        return FrameSettings.from_saved(saved, self.frame_defaults)

    def bridge_architecture(self) -> str:
        """TransformerLens knows the module layout of both under the name of Idefics3."""
        return "Idefics3ForConditionalGeneration"

    @property
    def _is_smolvlm(self) -> bool:
        return self._inner.config.model_type == "smolvlm"

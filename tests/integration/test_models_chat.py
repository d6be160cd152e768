"""Prefix, frame markers and question are the text that the family's own processor would have made."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ProcessorMixin
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.smolvlm import processing_smolvlm
from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor

from hermes_lab import models
from hermes_lab.errors import ModelError
from hermes_lab.models import Adapter
from hermes_lab.tokens import Role
from tests.checkpoints import FAMILIES, VARIANTS
from tests.segments import QUESTION, frames_of, stream, written

pytestmark = pytest.mark.upstream

EVERY = [*FAMILIES, *VARIANTS]
TIMES = [0.0, 1.0, 2.0, 61.5]


def expanded_video(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the processor of transformers 5 puts in the place of a video of four frames."""
    family = adapter.model.config.model_type
    cells = adapter.frame_layout(50, 90).visual_tokens
    frames = len(TIMES)
    me: Any
    if family == "llava_onevision":
        return "<video>" * cells * frames  # without the image_newline at the end of the video
    if family in ("qwen2_vl", "qwen2_5_vl"):
        return "<|video_pad|>" * cells * (frames // 2)
    if family == "qwen3_vl":
        me = SimpleNamespace(
            video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
            video_token="<|video_pad|>",
            vision_start_token="<|vision_start|>",
            vision_end_token="<|vision_end|>",
        )
        me._calculate_timestamps = lambda *args: Qwen3VLProcessor._calculate_timestamps(me, *args)
        layout = adapter.frame_layout(50, 90)
        inputs = {
            "video_grid_thw": torch.tensor([[frames // 2, 2 * layout.rows, 2 * layout.cols]]),
            "video_metadata": [SimpleNamespace(fps=2.0, frames_indices=[2 * t for t in TIMES])],
        }
        return Qwen3VLProcessor.replace_video_token(me, inputs, 0)
    if family == "idefics3":
        me = SimpleNamespace(
            fake_image_token="<fake_token_around_image>",
            global_image_tag="<global-img>",
            image_token="<image>",
            image_seq_len=cells,
        )
        unsplit = {"rows": [[0]], "cols": [[0]]}
        return Idefics3Processor.replace_image_token(me, unsplit, 0) * frames
    if family == "smolvlm":
        monkeypatch.setattr(processing_smolvlm, "num2words", str)
        me = SimpleNamespace(
            image_seq_len=cells,
            image_token="<image>",
            fake_image_token="<fake_token_around_image>",
            global_image_token="<global-img>",
        )
        metadata = SimpleNamespace(fps=1.0, timestamps=TIMES, duration=62.0)
        inputs = {"pixel_values": np.zeros((1, frames)), "video_metadata": [metadata]}
        text = SmolVLMProcessor.replace_video_token(me, inputs, 0)
        # a stream knows neither the number of its frames nor its duration
        return re.sub(r"^You are provided .* video\.\n", "", text)
    if family == "internvl":
        me = SimpleNamespace(
            start_image_token="<img>",
            end_image_token="</img>",
            image_token="<IMG_CONTEXT>",
            image_seq_length=cells,
        )
        inputs = {"pixel_values_videos": [np.zeros((frames, 3, 4, 4))]}
        text = InternVLProcessor.replace_video_token(me, inputs, 0)
        return re.sub(r"Frame\d+: ", "", text)  # a chunk does not know the number of its frames
    tokenizer = SimpleNamespace(
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
        boi_token_id=0,
    )
    monkeypatch.setattr(ProcessorMixin, "__init__", lambda *args, **kwargs: None)
    processor = Gemma3Processor(None, tokenizer, image_seq_length=cells)
    return processor.full_image_sequence * frames


def rendered(adapter: Adapter, placeholder: str, video: str) -> str:
    """The checkpoint's own template with the video expanded in the way of the processors."""
    kind = "image" if adapter.model.config.model_type in ("idefics3", "gemma3") else "video"
    template = adapter.tokenizer.chat_template
    if adapter.model.config.model_type == "smolvlm":  # its processor prefers this one for videos
        template = processing_smolvlm.DEFAULT_CHAT_TEMPLATE
    content = [{"type": kind}, {"type": "text", "text": QUESTION}]
    text = adapter.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=template,
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text.count(placeholder) == 1
    return text.replace(placeholder, video)


PLACEHOLDER = {
    "qwen3_vl": "<|vision_start|><|video_pad|><|vision_end|>",  # each pair brings its own
    "qwen2_5_vl": "<|video_pad|>",
    "qwen2_vl": "<|video_pad|>",
    "idefics3": "<image>",
    "gemma3": "<start_of_image>",
}


@pytest.mark.parametrize("family", EVERY)
def test_a_stream_reads_like_the_processors_prompt(
    checkpoint, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = models.load(checkpoint(family))
    parts = stream(adapter, frames_of(4), TIMES, chunk=2)
    video = expanded_video(adapter, monkeypatch)
    assert written(adapter, parts) == rendered(adapter, PLACEHOLDER.get(family, "<video>"), video)


@pytest.mark.parametrize("family", EVERY)
def test_roles_frames_and_markers(checkpoint, family: str) -> None:
    adapter = models.load(checkpoint(family))
    prefix, chunk, question = stream(adapter, frames_of(4), TIMES, chunk=4)
    layout = adapter.frame_layout(50, 90)
    assert set(prefix.role) == {Role.SYSTEM}
    assert set(question.role) == {Role.TEXT}
    assert set(prefix.frame) == set(question.frame) == {-1}
    assert set(chunk.role) <= {Role.VISUAL, Role.MARKER}
    groups = 4 // layout.frames_per_group
    assert (chunk.role == Role.VISUAL).sum() == groups * layout.visual_tokens
    shown = range(
        layout.frames_per_group - 1, 4, layout.frames_per_group
    )  # the later frame of a pair
    for frame in shown:
        of_frame = chunk.frame == frame
        visual = of_frame & (chunk.role == Role.VISUAL)
        cells = np.stack([chunk.row[visual], chunk.col[visual]], 1).tolist()
        assert cells == [[r, c] for r in range(layout.rows) for c in range(layout.cols)]
        markers = of_frame & (chunk.role == Role.MARKER)
        stamp = 1 if family == "qwen3_vl" and TIMES[frame] > 9 else 0  # "31.8" is longer than "0.5"
        assert markers.sum() == layout.marker_tokens + stamp
        assert set(chunk.row[markers]) <= {-1}
    assert set(chunk.frame) == set(shown)
    assert chunk.time_s == tuple(TIMES)
    assert chunk.embeds.dtype == adapter.dtype


@pytest.mark.parametrize("family", EVERY)
def test_system_prompt_history_and_turn_boundary(checkpoint, family: str) -> None:
    adapter = models.load(checkpoint(family))
    system = written(adapter, [adapter.prefix("Be brief.")])
    assert "Be brief." in system
    history = [("What now?", "A cup."), ("And then?", "A fork.")]
    text = written(adapter, [adapter.question(QUESTION, history=history)])
    order = [text.index(t) for t in ("What now?", "A cup.", "And then?", "A fork.", QUESTION)]
    assert order == sorted(order)
    boundary = written(adapter, [adapter.turn_boundary()])
    assert text.endswith(QUESTION + boundary)
    assert "What is shown?" not in boundary
    assert text.startswith(written(adapter, [adapter.question("What now?")])[: order[0]])


@pytest.mark.parametrize("family", EVERY)
def test_bare_text_has_no_special_tokens(checkpoint, family: str) -> None:
    adapter = models.load(checkpoint(family))
    segment = adapter.text("abc")
    assert written(adapter, [segment]) == "abc"
    assert torch.equal(segment.rel, torch.arange(3).expand(adapter.rotary_axes, -1))
    assert len(adapter.text("")) == 0


@pytest.mark.parametrize("family", EVERY)
def test_the_token_that_closes_a_turn_ends_an_answer(checkpoint, family: str) -> None:
    adapter = models.load(checkpoint(family))
    closing = {"idefics3": "<end_of_utterance>", "gemma3": "<end_of_turn>"}.get(
        adapter.family, "<|im_end|>"
    )
    assert adapter.tokenizer.convert_tokens_to_ids(closing) in adapter.eos_ids
    ids = adapter.tokenizer("Red cup", add_special_tokens=False)["input_ids"]
    closed = [*ids, adapter.tokenizer.convert_tokens_to_ids(closing)]
    assert adapter.decode(closed) == "Red cup"


@pytest.mark.parametrize("family", EVERY)
def test_without_a_template_the_familys_own_is_used(checkpoint, family: str) -> None:
    adapter = models.load(checkpoint(family))
    usual = [written(adapter, [p]) for p in (adapter.prefix(), adapter.question(QUESTION))]
    bare = models.load(checkpoint(family))
    bare.tokenizer.chat_template = None
    assert [written(bare, [p]) for p in (bare.prefix(), bare.question(QUESTION))] == usual
    assert "Be brief." in written(bare, [bare.prefix("Be brief.")])


def test_a_template_of_plain_strings_is_served(checkpoint) -> None:
    adapter = models.load(checkpoint("llava_onevision"))
    adapter.tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] + '' }}{% endfor %}[assistant]"
    )
    assert written(adapter, [adapter.prefix("Look.")]) == "[system]Look.[user]"
    assert written(adapter, [adapter.question("Hm?")]) == "\nHm?[assistant]"


def test_a_set_of_named_templates_is_served(checkpoint) -> None:
    adapter = models.load(checkpoint("qwen2_5_vl"))
    usual = written(adapter, [adapter.prefix()])
    adapter.tokenizer.chat_template = {
        "default": adapter.tokenizer.chat_template,
        "tool_use": "{{ 1 }}",
    }
    assert written(adapter, [adapter.prefix()]) == usual


def test_the_placeholders_name_in_a_question_is_no_video(checkpoint) -> None:
    adapter = models.load(checkpoint("llava_onevision"))
    text = written(adapter, [adapter.question("Is <video> a tag?")])
    assert text.startswith("\nIs <video> a tag?")


def test_a_system_prompt_that_the_template_drops_is_refused(checkpoint) -> None:
    adapter = models.load(checkpoint("qwen2_5_vl"))
    adapter.tokenizer.chat_template = "{% for m in messages if m['role'] == 'user' %}<|video_pad|>{{ m['content'][1]['text'] }}{% endfor %}"
    with pytest.raises(ModelError, match="no place for a system prompt"):
        adapter.prefix("Look.")

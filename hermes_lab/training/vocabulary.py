"""The words a pocket model knows, and the fast tokenizer and chat template around them."""

from __future__ import annotations

from typing import Any, cast

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hermes_lab.training.config import SYSTEM_PROMPT
from hermes_lab.worlds.catalogue import COLOUR_NAMES, KINDS, SCENES

PAD, UNKNOWN, TURN_START, TURN_END = "<|endoftext|>", "<|unknown|>", "<|im_start|>", "<|im_end|>"
IMAGE, VIDEO = "<image>", "<video>"
SPECIAL = (PAD, UNKNOWN, TURN_START, TURN_END, IMAGE, VIDEO)
_WORDS = [
    "system",
    "user",
    "assistant",
    "watch",
    "the",
    "stream",
    "yes",
    "no",
    "none",
    "left",
    "right",
    "up",
    "down",
    "still",
    "what",
    "which",
    "who",
    "where",
    "when",
    "how",
    "why",
    "is",
    "are",
    "was",
    "were",
    "there",
    "here",
    "a",
    "an",
    "of",
    "in",
    "on",
    "at",
    "to",
    "or",
    "and",
    "before",
    "after",
    "first",
    "last",
    "just",
    "now",
    "ever",
    "so",
    "far",
    "then",
    "it",
    "its",
    "this",
    "that",
    "these",
    "you",
    "we",
    "i",
    "do",
    "does",
    "did",
    "see",
    "seen",
    "colour",
    "object",
    "objects",
    "kind",
    "thing",
    "things",
    "visible",
    "many",
    "times",
    "appear",
    "appeared",
    "disappear",
    "disappeared",
    "leave",
    "came",
    "come",
    "change",
    "changed",
    "counter",
    "number",
    "show",
    "shows",
    "scene",
    "place",
    "side",
    "way",
    "direction",
    "moving",
    "move",
    "going",
    "go",
    "new",
    "with",
    "together",
    "during",
    "while",
    "many",
    "count",
    "most",
    "recent",
    "earlier",
    "later",
    "frame",
    "frames",
    "video",
    "beginning",
    "end",
    "start",
    "started",
    "gone",
    "hidden",
    "same",
    "different",
    "any",
    "other",
    "anything",
    "something",
    "happened",
    "happening",
    "describe",
]
WORDS: tuple[str, ...] = tuple(
    dict.fromkeys((*SPECIAL, *_WORDS, *map(str, range(10)), *COLOUR_NAMES, *SCENES, *KINDS))
)

CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system " + SYSTEM_PROMPT + "<|im_end|>"
    "{% endif %}{% for message in messages %}<|im_start|>{{ message['role'] }} "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'video' %}<video>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}\n{{ part['text'] }}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The family's turns, with a system turn always there, so that a stream never starts on a bare question."""


def tokenizer(
    words: tuple[str, ...] = WORDS, chat_template: str = CHAT_TEMPLATE
) -> PreTrainedTokenizerFast:
    """Word-level tokenizer, blind to case, punctuation and white space; unknown words are one token."""
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=UNKNOWN))
    core.normalizer = normalizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]  # setter untyped
        [normalizers.Lowercase(), normalizers.Replace("color", "colour")]
    )
    core.pre_tokenizer = pre_tokenizers.Split(  # pyright: ignore[reportAttributeAccessIssue]  # as above
        Regex(r"[^\p{L}\p{N}]+"), "removed"
    )
    make = cast(Any, PreTrainedTokenizerFast)
    return cast(
        PreTrainedTokenizerFast,
        make(
            tokenizer_object=core,
            pad_token=PAD,
            unk_token=UNKNOWN,
            eos_token=TURN_END,
            additional_special_tokens=[
                w for w in words if w.startswith("<") and w not in (PAD, UNKNOWN, TURN_END)
            ],
            chat_template=chat_template,
            clean_up_tokenization_spaces=False,
            model_max_length=8192,
        ),
    )

"""Configurations, processor settings and chat templates of the tiny checkpoints, one function a family."""

from __future__ import annotations

from typing import Any

VOCABULARY = 300
SPECIAL = (
    "<pad>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>", "<video>", "<image>",
    "<|vision_start|>", "<|vision_end|>", "<|video_pad|>", "<|image_pad|>",
    "<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
    "<IMG_CONTEXT>", "<img>", "</img>",
    "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>",
)  # fmt: skip
ID = {token: index for index, token in enumerate(SPECIAL)}

Spec = tuple[
    dict[str, Any], dict[str, dict[str, Any]], str
]  # config, settings files, chat template


def _text(model_type: str, layers: int, **extra: Any) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "initializer_range": 0.12,
        "tie_word_embeddings": False,
        "pad_token_id": ID["<pad>"],
        "bos_token_id": ID["<bos>"],
        "eos_token_id": ID["<eos>"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        **extra,
    }


CHATML_MEDIA_FIRST = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + part['text'] }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def llava_onevision(layers: int) -> Spec:
    side = 40  # 5x5 patches, pooled to 3x3 tokens: the odd case of the real 27x27 to 14x14
    config = {
        "model_type": "llava_onevision",
        "text_config": _text("qwen2", layers),
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "initializer_range": 0.12,
            "image_size": side,
            "patch_size": 8,
            "vision_use_head": False,
        },
        "image_token_index": ID["<image>"],
        "video_token_index": ID["<video>"],
        "image_grid_pinpoints": [[side, side]],
        "tie_word_embeddings": False,
    }
    frames = {
        "size": {"height": side, "width": side},
        "resample": 3,
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    settings = {
        "preprocessor_config.json": {
            **frames,
            "image_processor_type": "LlavaOnevisionImageProcessor",
        },
        "video_preprocessor_config.json": {
            **frames,
            "video_processor_type": "LlavaOnevisionVideoProcessor",
        },
        "processor_config.json": {
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": 25,
            "vision_feature_select_strategy": "full",
        },
    }
    return config, settings, CHATML_MEDIA_FIRST


QWEN_CHATML = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}"
    "{{ '<|vision_start|><|video_pad|><|vision_end|>' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN_TOKENS = {
    "image_token_id": ID["<|image_pad|>"],
    "video_token_id": ID["<|video_pad|>"],
    "vision_start_token_id": ID["<|vision_start|>"],
    "vision_end_token_id": ID["<|vision_end|>"],
}


QWEN_FRAMES = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "size": {"shortest_edge": 4 * 28 * 28, "longest_edge": 12 * 28 * 28},
    "patch_size": 14,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def qwen2_vl(layers: int, *, newer: bool = False) -> Spec:
    sections = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    vision = {
        "depth": 2,
        "num_heads": 2,
        "initializer_range": 0.12,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    if newer:
        vision |= {
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 64,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        }
    else:
        vision |= {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    family = "qwen2_5_vl" if newer else "qwen2_vl"
    config = {
        "model_type": family,
        "text_config": _text(f"{family}_text", layers, rope_parameters=sections),
        "vision_config": vision,
        "tie_word_embeddings": False,
        **QWEN_TOKENS,
    }
    settings = {
        "preprocessor_config.json": QWEN_FRAMES,
        "video_preprocessor_config.json": {
            **QWEN_FRAMES,
            "video_processor_type": "Qwen2VLVideoProcessor",
            "fps": 2,
        },
    }
    return config, settings, QWEN_CHATML


def qwen2_5_vl(layers: int) -> Spec:
    return qwen2_vl(layers, newer=True)


def qwen3_vl(layers: int) -> Spec:
    config = {
        "model_type": "qwen3_vl",
        "text_config": _text(
            "qwen3_vl_text",
            layers,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        ),
        "vision_config": {
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "initializer_range": 0.12,
            "out_hidden_size": 64,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        "tie_word_embeddings": False,
        **QWEN_TOKENS,
    }
    frames = {
        "patch_size": 16,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "resample": 3,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    pair = {"shortest_edge": 2 * 4 * 32 * 32, "longest_edge": 2 * 12 * 32 * 32}
    settings = {
        "preprocessor_config.json": {
            **frames,
            "size": {"shortest_edge": 4 * 32 * 32, "longest_edge": 64 * 32 * 32},
        },
        "video_preprocessor_config.json": {**frames, "size": pair, "fps": 2},
    }
    return config, settings, QWEN_CHATML


IDEFICS_CHAT = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def idefics3(layers: int, kind: str = "idefics3") -> Spec:
    side = 32  # 4x4 patches, shuffled to 2x2 tokens
    config = {
        "model_type": kind,
        "text_config": _text("llama", layers),
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "initializer_range": 0.12,
            "image_size": side,
            "patch_size": 8,
        },
        "image_token_id": ID["<image>"],
        "scale_factor": 2,
        "tie_word_embeddings": False,
    }
    frames = {
        "image_processor_type": "Idefics3ImageProcessor",
        "size": {"longest_edge": 2 * side},
        "max_image_size": {"longest_edge": side},
        "resample": 1,
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    if kind == "smolvlm":
        frames["video_sampling"] = {
            "fps": 1,
            "max_frames": 64,
            "video_size": {"longest_edge": side},
        }
    settings = {
        "preprocessor_config.json": frames,
        "processor_config.json": {"image_seq_len": 4},
    }
    return config, settings, IDEFICS_CHAT


INTERNVL_CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif part['type'] == 'video' %}{{ '<video>\n' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def internvl(layers: int) -> Spec:
    side = 32
    config = {
        "model_type": "internvl",
        # as InternVL3 has it: frequencies that change beyond the model's length
        "text_config": _text(
            "qwen2",
            layers,
            rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
        ),
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "initializer_range": 0.12,
            "image_size": [side, side],
            "patch_size": [8, 8],
            "use_qk_norm": True,
            "layer_scale_init_value": 1.0,
        },
        "image_token_id": ID["<IMG_CONTEXT>"],
        "image_seq_length": 4,
        "downsample_ratio": 0.5,
        "tie_word_embeddings": False,
    }
    frames = {
        "image_processor_type": "GotOcr2ImageProcessor",
        "crop_to_patches": False,
        "size": {"height": side, "width": side},
        "resample": 3,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    return config, {"preprocessor_config.json": frames}, INTERNVL_CHAT


GEMMA_CHAT = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'][0]['text'] + '\n\n' %}{% set loop_messages = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set loop_messages = messages %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def gemma3(layers: int) -> Spec:
    side = 32
    config = {
        "model_type": "gemma3",
        "text_config": _text(
            "gemma3_text",
            layers,
            query_pre_attn_scalar=16,
            sliding_window=1024,
            layer_types=[
                "full_attention" if i % 3 == 2 else "sliding_attention" for i in range(layers)
            ],
            rope_parameters={
                "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        ),
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "initializer_range": 0.12,
            "image_size": side,
            "patch_size": 8,
            "vision_use_head": False,
        },
        "mm_tokens_per_image": 4,
        "boi_token_index": ID["<start_of_image>"],
        "eoi_token_index": ID["<end_of_image>"],
        "image_token_index": ID["<image_soft_token>"],
        "tie_word_embeddings": False,
    }
    frames = {
        "image_processor_type": "Gemma3ImageProcessor",
        "size": {"height": side, "width": side},
        "resample": 2,
        "do_pan_and_scan": None,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    settings = {
        "preprocessor_config.json": frames,
        "processor_config.json": {"image_seq_length": 4},
    }
    return config, settings, GEMMA_CHAT

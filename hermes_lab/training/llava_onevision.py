"""`pocket`: LLaVA-OneVision, a SigLIP tower pooled to 16 tokens per frame and a Qwen2 decoder."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import Tensor, nn
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from hermes_lab.engine.upstream import set_attention
from hermes_lab.training.config import PocketConfig
from hermes_lab.training.family import PREPARED, Family, Settings, scale_matrices
from hermes_lab.training.vocabulary import CHAT_TEMPLATE, IMAGE, VIDEO, WORDS


class LlavaOnevisionFamily(Family):
    """Frames one by one, nothing between them, 1-D positions."""

    words: ClassVar[tuple[str, ...]] = WORDS
    chat_template: ClassVar[str] = CHAT_TEMPLATE

    def build(self, config: PocketConfig, attention: str) -> Any:
        """See `Family.build`."""
        vision = config.vision
        cfg = LlavaOnevisionConfig(
            text_config=cast(Any, {"model_type": "qwen2"} | self.text_settings(config)),
            vision_config=cast(
                Any,
                {
                    "model_type": "siglip_vision_model",
                    "hidden_size": vision.width,
                    "intermediate_size": vision.mlp,
                    "num_hidden_layers": vision.layers,
                    "num_attention_heads": vision.heads,
                    "image_size": vision.image_px,
                    "patch_size": vision.patch_px,
                    "vision_use_head": False,
                },
            ),
            image_token_index=WORDS.index(IMAGE),
            video_token_index=WORDS.index(VIDEO),
            image_grid_pinpoints=[[vision.image_px, vision.image_px]],
            vision_feature_select_strategy="full",
            vision_feature_layer=-1,
            tie_word_embeddings=True,
        )
        model = LlavaOnevisionForConditionalGeneration(cfg)
        set_attention(model, attention)
        scale_matrices(self.projector(model))
        return model

    def processor(self, config: PocketConfig) -> Settings:
        """See `Family.processor`."""
        side = config.vision.image_px
        common: dict[str, Any] = PREPARED | {
            "size": {"height": side, "width": side},
        }
        return {
            "preprocessor_config.json": common
            | {
                "image_processor_type": "LlavaOnevisionImageProcessor",
                "image_grid_pinpoints": [[side, side]],
                "do_pad": True,
            },
            "video_preprocessor_config.json": common
            | {"video_processor_type": "LlavaOnevisionVideoProcessor"},
            "processor_config.json": {
                "processor_class": "LlavaOnevisionProcessor",
                "num_image_tokens": (side // config.vision.patch_px) ** 2,
                "vision_feature_select_strategy": "full",
                "image_token": IMAGE,
                "video_token": VIDEO,
                "vision_aspect_ratio": "anyres_max_9",
            },
        }

    def tower(self, model: Any) -> nn.Module:
        """The SigLIP tower."""
        return cast(nn.Module, model.model.vision_tower)

    def projector(self, model: Any) -> nn.Module:
        """The multimodal projector."""
        return cast(nn.Module, model.model.multi_modal_projector)

    def features(self, model: Any, frames: Tensor) -> Tensor:
        """Tower, projector and pooling, without the trailing newline token."""
        return model.model.get_video_features(frames, return_dict=True).pooler_output[:, :-1]

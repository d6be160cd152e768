"""Which of TransformerLens' architecture adapters fits each model family."""

from __future__ import annotations

from typing import Any, cast

from hermes_lab.errors import LabError
from hermes_lab.models.base import Adapter

_RELATIVES = {  # model type -> an architecture of the same module layout
    "smolvlm": "Idefics3ForConditionalGeneration",
}


def architecture_for(adapter: Adapter) -> tuple[str, Any]:
    """Name of an architecture that TransformerLens knows and that fits the model, and its adapter class.

    Raises:
        LabError: there is none.
    """
    from transformer_lens.factories import architecture_adapter_factory

    known = cast("dict[str, Any]", architecture_adapter_factory.SUPPORTED_ARCHITECTURES)
    model_type = str(cast(Any, adapter.model).config.model_type)
    name = _RELATIVES.get(model_type, type(adapter.model).__name__)
    if model_type == "internvl" and name not in known:
        known[name] = _internvl()
        architecture_adapter_factory.ArchitectureAdapterFactory.register_adapter(name, known[name])
    if name not in known:
        raise LabError(
            f"TransformerLens has no architecture for {adapter.name or adapter.family} ({name}), so it cannot be "
            "bridged; use the session's own hooks, session.hooks() and session.run_with_cache()."
        )
    return name, known[name]


def _internvl() -> Any:
    """LLaVA's adapter without its vision encoder: InternViT is left to transformers."""
    from transformer_lens.model_bridge.supported_architectures.llava import LlavaArchitectureAdapter

    class InternVLArchitectureAdapter(LlavaArchitectureAdapter):
        """InternVL (-hf): a Qwen2 decoder where LLaVA has its own."""

        def __init__(self, cfg: Any) -> None:
            super().__init__(cfg)
            cast("dict[str, Any]", self.component_mapping).pop("vision_encoder")

    return InternVLArchitectureAdapter

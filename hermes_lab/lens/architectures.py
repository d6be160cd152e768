"""Which of TransformerLens' architecture adapters fits a model: what its family says, looked up there."""

from __future__ import annotations

from typing import Any, cast

from hermes_lab.errors import LabError
from hermes_lab.models.base import Adapter


def architecture_for(adapter: Adapter) -> tuple[str, Any]:
    """Name of an architecture that TransformerLens knows and that fits the model, and its adapter class.

    Raises:
        LabError: there is none.
    """
    from transformer_lens.factories import architecture_adapter_factory

    known = cast("dict[str, Any]", architecture_adapter_factory.SUPPORTED_ARCHITECTURES)
    said = adapter.bridge_architecture()
    name = said if isinstance(said, str) else type(adapter.model).__name__
    if not isinstance(said, str) and name not in known:
        known[name] = said
        architecture_adapter_factory.ArchitectureAdapterFactory.register_adapter(name, said)
    if name not in known:
        raise LabError(
            f"TransformerLens has no architecture for {adapter.name or adapter.family} ({name}), so it cannot be "
            "bridged; use the session's own hooks, session.hooks() and session.run_with_cache()."
        )
    return name, known[name]

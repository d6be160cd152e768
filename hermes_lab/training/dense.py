"""All dense targets inside the decoder, each at its depth."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from hermes_lab.training.config import Stage
from hermes_lab.training.memory import MemoryHeads
from hermes_lab.training.motion import MotionHeads


class DenseTargets(nn.ModuleDict):
    """Motion a third of the way up; memory at three fifths and at three quarters.

    Attributes:
        depths: for each target, the layer before which it looks.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__(
            {
                "motion": MotionHeads(width),
                "memory": MemoryHeads(width),
                "late_memory": MemoryHeads(width),
            }
        )
        self.depths = {
            "motion": max(1, layers // 3),
            "memory": max(1, layers * 3 // 5),
            "late_memory": max(1, layers * 3 // 4),
        }

    def forward(
        self,
        tapped: dict[int, Float[Tensor, "stream token width"]],
        events: Int[Tensor, "stream frame cell 4"],
        facts: Int[Tensor, "stream frame cell fact"],
        words: Float[Tensor, "word width"],
        stage: Stage,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Weighted loss, and what a line of progress says of it; `tapped` holds the residual by layer.

        A target that weighs nothing is left out of both.
        """
        loss = words.new_zeros(())
        said: dict[str, Any] = {}
        if stage.motion_weight:
            motion, said["motion"] = self["motion"](tapped[self.depths["motion"]], events, words)
            loss = loss + stage.motion_weight * motion
        if stage.memory_weight:
            early, _ = self["memory"](tapped[self.depths["memory"]], facts, words)
            late, remembered = self["late_memory"](tapped[self.depths["late_memory"]], facts, words)
            loss = loss + stage.memory_weight * (early + late)
            said["remembered"] = {k: round(v, 3) for k, v in remembered.items()}
        return loss, said

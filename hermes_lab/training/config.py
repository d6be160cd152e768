"""Everything that decides how a pocket model is built and trained, in one file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

TOKENS_PER_FRAME = 16
SYSTEM_PROMPT = "watch the stream"


@dataclass(frozen=True)
class VisionShape:
    """The vision tower: square frames of `image_px` in patches of `patch_px`, pooled 2x2."""

    image_px: int = 96
    patch_px: int = 12
    width: int = 96
    layers: int = 4
    heads: int = 4
    mlp: int = 288


@dataclass(frozen=True)
class TextShape:
    """The decoder."""

    width: int = 128
    layers: int = 12
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 256
    rope_theta: float = 10_000.0
    max_positions: int = 8192


TypeWeights = tuple[tuple[str, float], ...]

SEEING: TypeWeights = (
    ("now_colour", 2.0),
    ("now_kind", 1.5),
    ("now_side", 2.0),
    ("recent_direction", 3.0),
    ("recent_colour", 2.0),
    ("recent_left", 1.5),
    ("recent_changed", 1.5),
    ("long_order", 1.5),
    ("long_count", 1.5),
)
"""For short streams: what is in view, and how it moves."""
REMEMBERING: TypeWeights = (
    ("now_scene", 0.5),
    ("now_counter", 0.5),
    ("recent_direction", 3.0),
    ("recent_left", 4.0),
    ("recent_changed", 2.5),
    ("recent_colour", 1.5),
    ("recent_scene", 0.5),
    ("long_first", 0.7),
    ("long_first_colour", 0.7),
    ("long_scene_first", 0.7),
    ("long_order", 4.0),
    ("long_count", 4.0),
    ("long_before", 2.5),
    ("long_together", 2.5),
    ("long_scene_when", 3.0),
    ("long_counter_when", 2.5),
    ("long_scene_order", 2.5),
    ("long_ever", 1.5),
    ("long_colour", 2.0),
)
"""For long streams: what takes longest to learn."""


@dataclass(frozen=True)
class Stage:
    """One step of the curriculum: streams of up to `frames` frames for a share of the decoder's time.

    Attributes:
        streams: per process and step.
        questions: per stream.
        motion_weight, memory_weight: what the dense targets weigh beside the answers; 0 leaves one out.
        type_weights: how often a question type is drawn, where that is not 1; accuracy so far scales it.
    """

    frames: int
    streams: int
    questions: int
    share: float
    motion_weight: float = 0.5
    memory_weight: float = 0.15
    type_weights: TypeWeights = REMEMBERING


@dataclass(frozen=True)
class Recipe:
    """How long, with what rates, and on what.

    Attributes:
        perception_minutes, decoder_minutes: CPU time of one process.
        perception_steps, decoder_steps: steps instead of minutes, where not 0.
        report_s: seconds between reports of perception, and half of those between reports of the decoder.
        decoder_rate: what the decoder's rates are multiplied by.
        decay_from, lowest_rate: share of the time after which rates fall, and the share of them that is left.
        shorter_p: how often a batch has streams shorter than its stage's.
        imitation_weight: what, in a warm start, the teacher's tokens weigh beside the dense targets.
        lookup_from, lookup_until, lookup_weight: shares of the time between which look-ups are nudged (see
            `hermes_lab.training.lookup`), and how much that weighs; 0 leaves the nudge out.
        lookup_layer: first of the nudged layers; None for the one before which the first memory target looks.
        words_weight: what, in perception, finding the words of what is in a cell weighs.
        gap_p, gap_reach_tokens: how often positions have gaps, and how far they may reach.
        worn_p: share of streams that are softened and grained as scaling and compression do.
        chain_p: share of batches whose questions come in pairs, the second as a second turn.
    """

    perception_minutes: float = 7.0
    decoder_minutes: float = 105.0
    perception_steps: int = 0
    decoder_steps: int = 0
    report_s: float = 10.0
    stages: tuple[Stage, ...] = (
        Stage(8, 16, 32, 0.01, 1.0, 0.03, SEEING),
        Stage(16, 16, 24, 0.12, 1.0, 0.03, SEEING),
        Stage(32, 6, 48, 0.07, 0.7, 0.05, SEEING),
        Stage(64, 3, 96, 0.11),
        Stage(128, 2, 96, 0.69),
    )
    muon_lr: float = 3e-3
    adam_lr: float = 2e-3
    decoder_rate: float = 1.0
    decay_from: float = 0.6
    lowest_rate: float = 0.02
    warmup_steps: int = 40
    ema_half_life_steps: float = 60.0
    shorter_p: float = 0.4
    imitation_weight: float = 10.0
    lookup_from: float = 0.12
    lookup_until: float = 0.86
    lookup_weight: float = 1.0
    lookup_layer: int | None = None
    words_weight: float = 0.0
    gap_p: float = 0.4
    gap_reach_tokens: int = 2400
    moving_camera_p: float = 0.15
    worn_p: float = 0.35
    chain_p: float = 0.1
    perception_frames: int = 128
    checkpoint_s: float = 120.0
    dev_every_s: float = 480.0


@dataclass(frozen=True)
class PocketConfig:
    """One model: its class (`family`, a model type), its shapes, its seed and its recipe.

    `init_from`, a shipped model's name or a folder, lends its decoder, and `tower_from` its vision encoder
    (see `hermes_lab.training.warm`).
    """

    name: str = "pocket"
    family: str = "llava_onevision"
    init_from: str = ""
    tower_from: str = ""
    seed: int = 0
    vision: VisionShape = field(default_factory=VisionShape)
    text: TextShape = field(default_factory=TextShape)
    recipe: Recipe = field(default_factory=Recipe)

    @property
    def training(self) -> str:
        """Which training this is, in words: a checkpoint is taken up only by its own."""
        return f"{self.name} with seed {self.seed}"


SMOKE_STEPS = (100, 40)
"""Perception and decoder steps of a smoke run."""


def _smoke_stage(recipe: Recipe) -> Stage:
    motion = 1.0 if any(s.motion_weight for s in recipe.stages) else 0.0
    memory = 0.03 if any(s.memory_weight for s in recipe.stages) else 0.0
    return Stage(6, 8, 24, 1.0, motion, memory, SEEING)


def smoke(base: PocketConfig) -> PocketConfig:
    """The same class and decoder with a recipe of under two minutes that only proves that it learns.

    What the recipe leaves out of the decoder stays left out. Its length is counted in steps, so that it learns as much on a busy machine as on an idle one; its tower is
    narrower and only half as deep.
    """
    recipe = replace(
        base.recipe,
        perception_steps=SMOKE_STEPS[0],
        decoder_steps=SMOKE_STEPS[1],
        report_s=5.0,
        stages=(_smoke_stage(base.recipe),),
        perception_frames=64,
    )
    tower = VisionShape(width=64, layers=2, heads=4, mlp=192)
    return replace(base, tower_from="", vision=tower, recipe=recipe)

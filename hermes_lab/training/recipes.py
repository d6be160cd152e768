"""The pocket models by name, each with the recipe that its training follows.

Three kinds of recipe differ in what is asked of the decoder beside right answers:

* *planted* (`pocket` and its siblings): motion and memory as dense targets inside the decoder, and a nudge to
  look at the objects that questions name. Findings about the depth of these are findings about the recipe.
* *unplanted* (`pocket-u0` to `pocket-u4`): right answers only. No target and no nudge at any depth.
* *nudged* (`pocket-n3`, `pocket-n7`, `pocket-n10`): unplanted but for the nudge, at layers 3 and 4, 7 and 8, or
  10 and 11. Whether a finding about depth follows the nudge shows whether the nudge made it.

Unplanted and nudged trainings take the vision encoder of `pocket`, which was frozen before any decoder was
trained. Before the decoder starts, visual tokens and the words of what they show are brought together in the
embedding: what the decoder is given, not what it does with it.
"""

from __future__ import annotations

from dataclasses import replace

from hermes_lab.errors import LabError
from hermes_lab.training.config import PocketConfig, Recipe, Stage, TypeWeights

_NAMING: TypeWeights = (
    ("now_colour", 2.0),
    ("now_kind", 2.0),
    ("now_side", 2.0),
    ("recent_colour", 1.5),
    ("recent_left", 1.5),
    ("long_order", 0.5),
    ("long_count", 0.5),
)
"""For short streams: what is in view, and what it is called."""
_RECALLING: TypeWeights = (
    ("now_scene", 0.5),
    ("now_counter", 0.5),
    ("recent_left", 2.0),
    ("recent_changed", 1.5),
    ("recent_colour", 1.5),
    ("recent_scene", 0.5),
    ("long_first", 0.7),
    ("long_scene_first", 0.7),
    ("long_order", 1.5),
    ("long_count", 0.7),
    ("long_before", 1.5),
    ("long_together", 1.5),
    ("long_scene_when", 1.5),
    ("long_counter_when", 1.5),
    ("long_colour", 1.5),
)
"""For longer streams: memory, at shares that one training of two hours can learn."""


def _bare(
    frames: int, streams: int, questions: int, share: float, types: TypeWeights = _RECALLING
) -> Stage:
    """A stage that asks nothing of the decoder but answers."""
    return Stage(frames, streams, questions, share, 0.0, 0.0, types)


UNPLANTED = Recipe(
    perception_minutes=3.0,
    decoder_minutes=120.0,
    stages=(
        _bare(8, 16, 32, 0.03, _NAMING),
        _bare(16, 12, 32, 0.27, _NAMING),
        _bare(32, 6, 48, 0.32),
        _bare(48, 4, 64, 0.38),
    ),
    lookup_weight=0.0,
    words_weight=1.0,
    gap_p=0.3,
    gap_reach_tokens=1200,
    moving_camera_p=0.1,
    worn_p=0.2,
)
"""Right answers only, on streams of up to 48 frames, for one process."""


def nudged(layer: int) -> Recipe:
    """The unplanted recipe with the nudge at `layer` and the one after it, and nothing else."""
    return replace(UNPLANTED, lookup_weight=1.0, lookup_layer=layer)


UNPLANTED_TRAININGS = 5
NUDGED_LAYERS = (3, 7, 10)
"""First of the two nudged layers, of 12."""


def _bare_model(name: str, seed: int, recipe: Recipe) -> PocketConfig:
    return PocketConfig(name=name, seed=seed, tower_from="pocket", recipe=recipe)


_MODELS = (
    PocketConfig(),
    PocketConfig(name="pocket-s1", seed=1),
    PocketConfig(name="pocket-s2", seed=2),
    PocketConfig(name="pocket-mrope", family="qwen2_5_vl"),
    *(_bare_model(f"pocket-u{n}", 10 + n, UNPLANTED) for n in range(UNPLANTED_TRAININGS)),
    *(_bare_model(f"pocket-n{layer}", 20 + layer, nudged(layer)) for layer in NUDGED_LAYERS),
)
CONFIGS: dict[str, PocketConfig] = {model.name: model for model in _MODELS}


def config(name: str) -> PocketConfig:
    """A configuration by name.

    Raises:
        LabError: no configuration has that name.
    """
    if name not in CONFIGS:
        raise LabError(f"Unknown pocket model {name!r}: choose one of {', '.join(CONFIGS)}.")
    return CONFIGS[name]

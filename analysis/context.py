"""What every study is given: a model, its nulls, streams, settings, a place for results, a progress report."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from analysis import streams
from analysis.arrays import Array, Arrays
from analysis.features import Feature, Features
from analysis.nulls import permuted_twin, random_twin
from analysis.observe import observe
from analysis.result import Data, Reproduce, Setup
from analysis.store import Store, fingerprint, weights_fingerprint
from analysis.streams import Camera, Stream, Transform
from hermes_lab.errors import LabError, nearest
from hermes_lab.lab import Lab
from hermes_lab.models.base import FrameLayout
from hermes_lab.policies.parts.scoring import edges_of

Split = Literal["development", "held_out"]
StudyProgress = Callable[[str, int, int], None]
"""Receives what is being done, how many steps are done, and how many there are."""
T = TypeVar("T")

STAGE_VERSION = 1  # raised when what is stored per stream changes its meaning
MAX_VIDEO_TOKENS = 8192


@dataclass(frozen=True)
class Settings:
    """How much is run.

    Attributes:
        frames: length of every stream.
        development, held_out: streams on which choices are made, and on which claims are tested.
        per_horizon: questions per stream and horizon.
        random_seeds: networks behind each of the two random-weights nulls.
        causal_streams: held-out streams of the studies that intervene.
        control_draws: matched random knockouts, and shuffled policies.
    """

    frames: int = 96
    chunk_frames: int = 16
    development: int = 8
    held_out: int = 16
    per_horizon: int = 3
    random_seeds: int = 3
    causal_streams: int = 16
    control_draws: int = 3

    @classmethod
    def quick(cls) -> Settings:
        """Fewer and shorter streams: wider intervals, same controls."""
        return cls(frames=48, development=4, held_out=8, per_horizon=2, causal_streams=8)


@dataclass(frozen=True)
class Variant:
    """One setting of model and stream that is observed."""

    name: str
    weights: Literal["own", "random", "permuted"] = "own"
    seed: int = 0
    transform: Transform = "none"
    camera: Camera = "still"
    half_length: bool = False
    stride: int = 1


def seeded(kind: str, seed: int) -> str:
    """Name of one network of a kind that is made anew from every seed."""
    return f"{kind}-{seed}"


def variants(random_seeds: int) -> dict[str, Variant]:
    """The model as it is, and everything it is compared with."""
    found = [
        Variant("trained"),
        Variant("frames_shuffled", transform="frames_shuffled"),
        Variant("cells_shuffled", transform="cells_shuffled"),
        Variant("patches_shuffled", transform="patches_shuffled"),
        Variant("content_shuffled", transform="content_shuffled"),
        Variant("moving_camera", camera="pan"),
        Variant("half_length", half_length=True),
        Variant("half_rate", stride=2),
    ]
    for seed in range(random_seeds):
        found.append(Variant(seeded("random_weights", seed), weights="random", seed=seed))
        found.append(Variant(seeded("permuted_weights", seed), weights="permuted", seed=seed))
    return {v.name: v for v in found}


@dataclass
class StudyContext:
    """See the module docstring.

    Attributes:
        lab: the model under study.
        out: folder of the report; results per stream are kept in its `cache` folder.
        quick: whether the small settings are used (and said so in the report).
        study: which study is run; its results per stream are kept apart from those of others.
    """

    lab: Lab
    out: Path
    settings: Settings = field(default_factory=Settings)
    quick: bool = False
    progress: StudyProgress = lambda what, done, total: None
    command: str = ""
    study: str = ""
    _labs: dict[tuple[str, int], Lab] = field(default_factory=dict, repr=False)
    _features: dict[tuple[str, Split], Features] = field(default_factory=dict, repr=False)
    _clock: tuple[float, float] = (0.0, 0.0)
    _counts: tuple[int, int] = (0, 0)  # results per stream: asked for, found on disk

    def __post_init__(self) -> None:
        limit = MAX_VIDEO_TOKENS // self.layout.visual_tokens * self.layout.frames_per_group
        limit = min(limit, self.lab.adapter.max_positions // (2 * self.layout.visual_tokens))
        if limit < 32:
            raise LabError(
                f"{self.lab.name} spends {self.layout.visual_tokens} tokens on a frame: fewer than 32 "
                "frames fit, and a study of memory needs that many."
            )
        self.settings = replace(self.settings, frames=min(self.settings.frames, limit))
        self.begin()

    def begin(self) -> None:
        """Start the clocks of a study."""
        self._clock = time.perf_counter(), time.process_time()
        self._counts = 0, 0

    def reproduce(self, expected: str) -> Reproduce:
        """How to get a study's numbers again, and what it cost since `begin`."""
        wall, cpu = self._clock
        asked, found = self._counts
        return Reproduce(
            command=self.command,
            run_time_s=time.perf_counter() - wall,
            cpu_time_s=time.process_time() - cpu,
            reused=found / asked if asked else 0.0,
            expected=expected,
        )

    # --- what is studied ---------------------------------------------------------------------
    @cached_property
    def layout(self) -> FrameLayout:
        """The token grid of a frame."""
        return self.lab.adapter.frame_layout(96, 96)

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return self.lab.engine.layers

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.lab.engine.query_heads

    @cached_property
    def paper_bands(self) -> tuple[range, range, range]:
        """Shallow, middle and deep layers at the paper's edges; at least one layer is shallow.

        By the paper's rule, models of fewer than ten layers have no shallow one, and no claim could be tested on them.
        """
        first, deep = edges_of(self.layers)
        shallow = max(1, first)
        return range(shallow), range(shallow, deep), range(deep, self.layers)

    @property
    def newest_frames(self) -> int:
        """How many frames (or groups of them) count as the newest: a tenth of the stream."""
        return max(1, self.settings.frames // self.layout.frames_per_group // 10)

    @cached_property
    def development(self) -> tuple[Stream, ...]:
        """Streams on which choices are made."""
        return streams.development(self.settings.development, self.settings.frames)

    @cached_property
    def held_out(self) -> tuple[Stream, ...]:
        """Streams on which claims are tested."""
        return streams.held_out(self.settings.held_out, self.settings.frames)

    @cached_property
    def causal(self) -> tuple[Stream, ...]:
        """Held-out streams of the studies that intervene."""
        return streams.held_out(self.settings.causal_streams, self.settings.frames)

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """All settings that can be observed."""
        return variants(self.settings.random_seeds)

    def chooser(self, name: str) -> str:
        """The variant on whose development streams a choice for another is made: untrained networks choose for
        themselves, for all others the trained model does."""
        variant = self.variants.get(name)
        return "trained" if variant is None or variant.weights == "own" else name

    def lab_of(self, variant: Variant) -> Lab:
        """The model of a variant; random ones are made on first use and kept."""
        if variant.weights == "own":
            return self.lab
        key = (variant.weights, variant.seed)
        if key not in self._labs:
            make = random_twin if variant.weights == "random" else permuted_twin
            self._labs[key] = Lab(make(self.lab.adapter, variant.seed))
        return self._labs[key]

    # --- results per stream --------------------------------------------------------------------
    @cached_property
    def store(self) -> Store:
        """Where results per stream are kept, apart for every model."""
        return Store(self.out / "cache" / weights_fingerprint(self.lab.adapter.model))

    def per_stream(
        self,
        stage: str,
        which: Iterable[Stream],
        make: Callable[[Stream], Mapping[str, npt.ArrayLike]],
        *settings: Any,
    ) -> list[Arrays]:
        """`make` for every stream, from disk where this study ran it before with the same settings.

        Args:
            stage: what is measured, as a file name.
            which: the streams.
            make: measures one stream, a mapping from names to arrays.
            settings: plain values that the numbers depend on, beside the model and the chunk length; a version to
                raise when `make` itself changes is a good one.
        """
        return self._stored(stage, which, make, self.study, *settings)

    def _stored(
        self,
        stage: str,
        which: Iterable[Stream],
        make: Callable[[Stream], Mapping[str, npt.ArrayLike]],
        *settings: Any,
    ) -> list[Arrays]:
        label = fingerprint(STAGE_VERSION, self.settings.chunk_frames, *settings)
        chosen = list(which)
        found: list[Arrays] = []
        for number, stream in enumerate(chosen):
            self.progress(stage, number, len(chosen))
            key = (f"{stage}-{label}", stream.name)
            asked, known = self._counts
            self._counts = asked + 1, known + self.store.has(key)
            found.append(self.store.get(key, lambda stream=stream: make(stream)))
        self.progress(stage, len(chosen), len(chosen))
        return found

    def observe(self, name: str, split: Split = "held_out") -> Features:
        """Features of all streams of a split under a variant, [stream, layer, head, ...].

        Raises:
            LabError: there is no such variant.
        """
        if name not in self.variants:
            raise LabError(f"There is no variant {name!r}: {nearest(name, list(self.variants))}")
        if (name, split) in self._features:
            return self._features[name, split]
        variant = self.variants[name]
        frames = self.settings.frames // (2 if variant.half_length else 1)
        chosen = [
            replace(s, camera=variant.camera, frames=frames, stride=variant.stride)
            for s in (self.held_out if split == "held_out" else self.development)
        ]
        lab = self.lab_of(variant)
        found = self._stored(
            f"observe-{name}",
            chosen,
            lambda stream: _by_name(
                observe(
                    lab,
                    stream,
                    transform=variant.transform,
                    chunk_frames=self.settings.chunk_frames,
                    per_horizon=self.settings.per_horizon,
                    everything=name == "trained",
                )
            ),
            self.settings.per_horizon,
        )
        arrays = {Feature.read(k): np.stack([f[k] for f in found]).astype(float) for k in found[0]}
        self._features[name, split] = Features(arrays)
        return self._features[name, split]

    # --- what a reader must know ---------------------------------------------------------------
    def setup(
        self, *, prompts: Sequence[str], query_rows: str, cache_policy: str = "full"
    ) -> Setup:
        """The set-up of a study on this model."""
        about = self.lab.describe()
        return Setup(
            model=self.lab.name,
            revision=f"{about['revision'] or 'none'}, weights {weights_fingerprint(self.lab.adapter.model)}",
            versions={
                name: version(name)
                for name in ("torch", "transformers", "transformer-lens", "numpy")
            },
            dtype=about["dtype"],
            attention_impl="hermes_lab stream attention (SDPA; explicit fp32 softmax where rows are read)",
            frames=self.settings.frames,
            fps=1.0,
            resolution="96x96",
            tokens_per_frame=self.layout.visual_tokens,
            layers=self.layers,
            query_heads=self.heads,
            kv_heads=self.lab.engine.kv_heads,
            prompts=tuple(prompts),
            cache_policy=cache_policy,
            query_rows=query_rows,
            sink_treatment="attention conditional on video tokens; first token, text and massive-activation "
            "tokens counted apart",
            head_reduction="none; means over query heads only where it is said, as unweighted means of per-head values",
            hardware=f"{platform.machine()}, {os.cpu_count()} cores, {about['device']}, "
            f"{torch.get_num_threads()} threads",
            seeds=tuple(range(self.settings.random_seeds)),
        )

    def data(self, held_out: Sequence[Stream] | None = None, *, moving: bool = False) -> Data:
        """The streams of a study."""
        tested = self.held_out if held_out is None else held_out
        everything = (*self.development, *tested)
        return Data(
            kind="procedural worlds (hermes_lab.worlds), 1 frame per second",
            development=tuple(s.name for s in self.development),
            held_out=tuple(s.name for s in tested),
            hashes={s.name: s.digest[:16] for s in everything},
            licence="Apache-2.0 (generated; sprites under the licence in hermes_lab/worlds/icons)",
            selection_rule=streams.SELECTION_RULE,
            questions=sum(len(s.questions(self.settings.per_horizon)) for s in tested),
            moving=tuple(replace(s, camera="pan").name for s in tested) if moving else (),
        )

    @property
    def scope(self) -> str:
        """What the numbers speak about."""
        name = self.lab.name
        if "random" in name or "untrained" in name:
            return (
                f"On {name} this shows that the pipeline works, and nothing about any claim: it is a "
                "null distribution."
            )
        if name == "planted":
            return (
                "A positive control: the findings were put into this model's weights by hand. It tests "
                "the studies, not any claim about trained models."
            )
        return (
            f"These numbers speak about {name} on procedural streams of {self.settings.frames} frames, read "
            "with an untouched cache. They do not speak about LLaVA-OneVision-7B or filmed video, on which "
            "the paper's figures rest."
        )


def _by_name(observed: Mapping[Feature, npt.NDArray[np.float32]]) -> Arrays:
    """Features under the names that they have on disk."""
    return {str(feature): values for feature, values in observed.items()}


def layer_mean(values: Array, layers: Iterable[int]) -> Array:
    """Mean over some layers and all heads, [stream, layer, head] -> [stream]."""
    return values[:, list(layers)].mean((1, 2))

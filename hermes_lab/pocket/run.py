"""One process of a training run: perception, then questions over growing streams."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from hermes_lab.pocket import checkpoint, data, perception
from hermes_lab.pocket.branches import answer_logits, watch
from hermes_lab.pocket.build import build, save
from hermes_lab.pocket.config import PocketConfig, Recipe, Stage
from hermes_lab.pocket.families import family
from hermes_lab.pocket.memory import MemoryHeads
from hermes_lab.pocket.motion import MotionHeads
from hermes_lab.pocket.optim import Average, Pair
from hermes_lab.pocket.warm import Teacher, take_over
from hermes_lab.worlds import DEV_SEEDS, TYPES, horizon_of
from hermes_lab.worlds.seeds import train_seed

PROGRESS = "progress.jsonl"
_SHORTER_P = 0.5
_MOTION_WEIGHT = 0.3
_MEMORY_WEIGHT = 0.15
_WARMUP_STEPS = 40
_LOWEST_RATE = 0.02
_IMITATION_WEIGHT = 10.0


@dataclass
class _Tally:
    """Right and asked per question type."""

    right: Tensor
    asked: Tensor

    @classmethod
    def empty(cls) -> _Tally:
        return cls(torch.zeros(len(TYPES)), torch.zeros(len(TYPES)))

    def by_type(self) -> dict[str, float]:
        return {
            k: float(r / n) for k, r, n in zip(TYPES, self.right, self.asked, strict=True) if n > 0
        }

    def by_horizon(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for horizon in ("now", "recent", "long"):
            rows = [i for i, k in enumerate(TYPES) if horizon_of(k) == horizon]
            asked = float(self.asked[rows].sum())
            if asked:
                found[horizon] = float(self.right[rows].sum()) / asked
        return found


class Run:
    """One process of a training run."""

    def __init__(self, config: PocketConfig, out: Path, rank: int, count: int, device: str) -> None:
        self.config, self.out, self.rank, self.count, self.device = config, out, rank, count, device
        self.recipe: Recipe = config.recipe
        self.family = family(config.family)
        self.model = build(config).to(device)
        torch.manual_seed(config.seed + 1)
        self.heads = perception.Heads(config.text.width).to(device)
        self.motion = MotionHeads(config.text.width).to(device)
        self.memory = MemoryHeads(config.text.width).to(device)
        self.motion_right = 0.0
        self.remembered: dict[str, float] = {}
        self.late_memory = MemoryHeads(config.text.width).to(device)
        layers = config.text.layers
        self._motion_tap = max(1, layers // 3)
        self._memory_taps = (max(1, layers * 3 // 5), max(1, layers * 3 // 4))
        self.clock = checkpoint.Clock()
        self.loaded = checkpoint.load(out)
        if self.loaded:
            self.clock = self.loaded[0]
            cast(nn.Module, self.model).load_state_dict(self.loaded[1]["model"], strict=False)
            self.heads.load_state_dict(self.loaded[1]["heads"])
            for name in ("motion", "memory", "late_memory"):
                getattr(self, name).load_state_dict(self.loaded[1].get(name, {}), strict=False)
        elif config.init_from:
            take_over(self.model, config.init_from)
        self.model.tie_weights()

    # --- what both phases share ---------------------------------------------------------
    def go(self) -> None:
        """Run whatever phases are left, then save the model."""
        if self.clock.phase == "perception":
            self._perceive()
        self._decode()

    def _share(self, value: float) -> float:
        """Rank 0's value, for all."""
        box = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(box, 0)
        return float(box)

    def _mean_gradients(
        self, parameters: list[nn.Parameter], extra: Tensor | None = None
    ) -> Tensor | None:
        """Average gradients over processes; `extra` is summed along in the same message."""
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        if self.count == 1:
            return extra
        grads = [cast(Tensor, p.grad) for p in parameters]
        flat = torch.cat([g.flatten() for g in grads] + ([extra] if extra is not None else []))
        dist.all_reduce(flat)
        at = 0
        for g in grads:
            g.copy_(flat[at : at + g.numel()].view_as(g)).div_(self.count)
            at += g.numel()
        return flat[at:] if extra is not None else None

    def _done(self, spent_s: float, minutes: float, steps: int) -> float:
        """Share of a phase that is over, by steps where their number is given, else by rank 0's CPU time."""
        if steps:
            return self.clock.step / steps
        return self._share(spent_s / (minutes * 60)) if minutes else 1.0

    def _due(self, silent_s: float, steps: int) -> bool:
        """Whether to report: first and last steps of a counted phase always."""
        return silent_s > self.recipe.report_s or (steps > 0 and self.clock.step in (1, steps))

    def _seeds(self, n: int) -> list[int]:
        start = self.clock.drawn
        self.clock.drawn += n
        return [train_seed(self.config.seed, self.rank, start + i) for i in range(n)]

    def _log(self, **line: Any) -> None:
        if self.rank == 0:
            with (self.out / PROGRESS).open("a") as file:
                file.write(json.dumps(line) + "\n")

    def _save(self, optimiser: Pair | None, average: Average | None) -> None:
        if self.rank == 0:
            groups = {
                "model": {
                    k: v for k, v in self.model.state_dict().items() if k != "lm_head.weight"
                },
                "heads": dict(self.heads.state_dict()),
                "motion": dict(self.motion.state_dict()),
                "memory": dict(self.memory.state_dict()),
                "late_memory": dict(self.late_memory.state_dict()),
            }
            if optimiser:
                groups["optimiser"] = optimiser.state()
            if average:
                groups["average"] = average.values
            checkpoint.save(self.out, self.clock, groups)

    def _restore(self, optimiser: Pair, average: Average | None = None) -> None:
        if self.loaded:
            optimiser.load(self.loaded[1].get("optimiser", {}))
            if average and "average" in self.loaded[1]:
                kept = self.loaded[1]["average"].items()
                known = {k: v.to(self.device) for k, v in kept if k in average.values}
                average.values.update(known)
                average.steps = self.clock.step
        self.loaded = None

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16)

    def _features(self, frames: Tensor) -> Tensor:
        """Visual tokens of streams, shape (stream, token, width)."""
        return self.family.features(self.model, frames.to(self.device)).float()

    # --- phase one ----------------------------------------------------------------------
    def _perceive(self) -> None:
        tower = self.family.perceiving(self.model)
        tower |= {f"heads.{n}": p for n, p in self.heads.named_parameters()}
        teacher = Teacher(self.config.init_from, self.device) if self.config.init_from else None
        matrices = {
            n for n, p in tower.items() if p.ndim == 2 and "heads" not in n and "position" not in n
        }
        optimiser = Pair(tower, matrices, self.recipe.muon_lr, self.recipe.adam_lr)
        self._restore(optimiser)
        parameters = list(tower.values())
        minutes, steps = self.recipe.perception_minutes, self.recipe.perception_steps
        reported = saved = time.monotonic()
        while True:
            begun = time.process_time()
            share = self._done(self.clock.perception_s, minutes, steps)
            if share >= 1:
                break
            seen = perception.draw(self.recipe, self._seeds(self.recipe.perception_frames // 8))
            seen = perception.Glimpses(**{k: v.to(self.device) for k, v in vars(seen).items()})
            with self._autocast():
                tokens = self._features(seen.frames[None]).view(
                    len(seen.frames), -1, self.config.text.width
                )
            loss, found = self.heads(tokens.float(), seen)
            if teacher:
                missed = teacher.unexplained(seen.frames[None], tokens.float())
                loss = loss + _IMITATION_WEIGHT * missed
                found["unexplained"] = float(missed.detach())
            loss.backward()
            self._mean_gradients(parameters)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step(self._rate(share))
            self.clock.step += 1
            self.clock.perception_s += time.process_time() - begun
            now = time.monotonic()
            if self._due(now - reported, steps):
                reported = now
                self._log(phase="perception", share=share, step=self.clock.step, **found)
            if now - saved > self.recipe.checkpoint_s:
                saved = now
                self._save(optimiser, None)
        self.clock.phase, self.clock.step = "decoder", 0
        self._save(None, None)

    def _rate(self, share: float) -> float:
        """Warm up, hold, then fall linearly."""
        start = self.recipe.decay_from
        fall = 1.0 if share < start else max(_LOWEST_RATE, (1 - share) / (1 - start))
        return min(1.0, (self.clock.step + 1) / _WARMUP_STEPS) * fall

    # --- phase two ----------------------------------------------------------------------
    def _decode(self) -> None:
        self.family.freeze_tower(self.model)
        named = {
            n: p
            for n, p in self.model.model.named_parameters()
            if p.requires_grad and n != "image_newline"
        }
        matrices = {n for n, p in named.items() if p.ndim == 2 and "layers" in n}
        named |= {f"motion.{n}": p for n, p in self.motion.named_parameters()}
        named |= {f"memory.{n}": p for n, p in self.memory.named_parameters()}
        named |= {f"late_memory.{n}": p for n, p in self.late_memory.named_parameters()}
        recipe = self.recipe
        optimiser = Pair(
            named,
            matrices,
            recipe.muon_lr * recipe.decoder_rate,
            recipe.adam_lr * recipe.decoder_rate,
        )
        average = Average(named, self.recipe.ema_half_life_steps)
        self._restore(optimiser, average)
        parameters = list(named.values())
        minutes, steps = self.recipe.decoder_minutes, self.recipe.decoder_steps
        accuracy = torch.tensor([self.clock.accuracy.get(k, 0.0) for k in TYPES])
        rng = np.random.default_rng(
            [self.config.seed, self.clock.step]
        )  # the same on all processes
        reported = saved = tested = time.monotonic()
        lines = _Tally.empty()
        liking = dict(self.recipe.type_weights)
        while True:
            begun = time.process_time()
            share = self._done(self.clock.decoder_s, minutes, steps)
            if share >= 1:
                break
            stage = self._stage(share)
            frames = stage.frames
            if rng.random() < _SHORTER_P:
                frames = int(rng.integers(6, stage.frames + 1))
            streams = max(1, min(24, round(stage.streams * stage.frames / frames)))
            weights = {
                k: liking.get(k, 1.0) * (0.3 + min(0.7, 1 - float(a)))
                for k, a in zip(TYPES, accuracy, strict=True)
            }
            # shorter streams come in larger batches: fewer questions each keep the memory needed level
            asked_each = max(24, round(stage.questions * (frames / stage.frames) ** 0.5))
            loss, tally = self._learn(frames, streams, asked_each, weights)
            extra = self._mean_gradients(parameters, torch.cat([tally.right, tally.asked]))
            norm = nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step(self._rate(share))
            average.update()
            right, asked = cast(Tensor, extra).chunk(2)
            pace = 1 - 0.98**asked
            accuracy = torch.where(
                asked > 0, accuracy.lerp(right / asked.clamp(min=1), pace), accuracy
            )
            lines.right += right
            lines.asked += asked
            self.clock.step += 1
            self.clock.streams += streams * self.count
            self.clock.questions += int(asked.sum())
            self.clock.accuracy = dict(zip(TYPES, accuracy.tolist(), strict=True))
            self.clock.decoder_s += time.process_time() - begun
            now = time.monotonic()
            if self._due((now - reported) / 2, steps):
                reported = now
                self._log(
                    phase="decoder",
                    share=share,
                    seconds=self.clock.decoder_s,
                    step=self.clock.step,
                    frames=stage.frames,
                    loss=loss,
                    norm=float(norm),
                    motion=self.motion_right,
                    remembered={k: round(v, 3) for k, v in self.remembered.items()},
                    streams=self.clock.streams,
                    questions=self.clock.questions,
                    accuracy=lines.by_horizon(),
                    types={k: round(v, 3) for k, v in lines.by_type().items()},
                )
                lines = _Tally.empty()
            if now - saved > self.recipe.checkpoint_s:
                saved = now
                self._save(optimiser, average)
            if self._share(float(now - tested > self.recipe.dev_every_s)):
                self._develop(average, stage.frames)
                tested = time.monotonic()
        self._develop(average, self.recipe.stages[-1].frames)
        self._save(optimiser, average)
        if self.rank == 0:
            average.swap()
            save(self.model, self.config, self.out / "model")

    def _stage(self, share: float) -> Stage:
        end = 0.0
        total = sum(s.share for s in self.recipe.stages)
        for stage in self.recipe.stages:
            end += stage.share / total
            if share < end:
                return stage
        return self.recipe.stages[-1]

    def _learn(
        self, frames: int, streams: int, questions: int, weights: dict[str, float]
    ) -> tuple[float, _Tally]:
        drawn = self._draw(self._seeds(streams), frames, questions, weights, augment=True)
        loss, tally = self._forward(drawn)
        loss.backward()
        return float(loss.detach()), tally

    def _draw(
        self,
        seeds: Sequence[int],
        frames: int,
        questions: int,
        weights: dict[str, float],
        *,
        augment: bool,
    ) -> data.Batch:
        return data.batch(
            self.recipe,
            seeds,
            frames,
            questions,
            weights,
            augment=augment,
            prefix_tokens=len(self.family.prefix),
            closing=self.family.closing,
        )

    def _forward(self, drawn: data.Batch) -> tuple[Tensor, _Tally]:
        groups = [
            replace(g, **{k: v.to(self.device) for k, v in vars(g).items()}) for g in drawn.groups
        ]
        with self._autocast():
            features = self._features(drawn.frames)
            prefix = self.family.prefix
            positions = self.family.positions(drawn.positions.to(self.device), len(prefix))
            stream = watch(
                self.model, features, prefix, positions, {self._motion_tap, *self._memory_taps}
            )
            logits = answer_logits(self.model, stream, groups)
        every = torch.cat(logits).float()
        labels = torch.cat([g.labels[g.labels != -100] for g in groups])
        words = self.model.get_input_embeddings().weight
        aside, self.motion_right = self.motion(
            stream.tapped[self._motion_tap], drawn.events.to(self.device), words
        )
        facts = drawn.facts.to(self.device)
        early, late = self._memory_taps
        history, _ = self.memory(stream.tapped[early], facts, words)
        later, self.remembered = self.late_memory(stream.tapped[late], facts, words)
        loss = (
            F.cross_entropy(every, labels)
            + _MOTION_WEIGHT * aside
            + _MEMORY_WEIGHT * (history + later)
        )
        right = (every.detach().argmax(-1) == labels).cpu()
        tally = _Tally.empty()
        self._count(drawn, right, tally)
        return loss, tally

    @staticmethod
    def _count(drawn: data.Batch, right: Tensor, tally: _Tally) -> None:
        """Credit each question with its answer word (the label after it, the turn's end, is not counted)."""
        at = 0
        kinds = {k: i for i, k in enumerate(TYPES)}
        for group, per_stream in zip(drawn.groups, drawn.questions, strict=True):
            for stream, questions in enumerate(per_stream):
                owners = group.question[stream][group.labels[stream] != -100].tolist()
                before = -1
                for owner in owners:
                    if owner != before:
                        row = kinds[questions[owner].type]
                        tally.right[row] += float(right[at])
                        tally.asked[row] += 1
                    before = owner
                    at += 1

    @torch.no_grad()
    def _develop(self, average: Average, frames: int) -> None:
        """Accuracy of the averaged weights on development streams."""
        average.swap()
        total = torch.zeros(2, len(TYPES))
        weights = dict.fromkeys(TYPES, 1.0)
        for n in range(2):
            start = DEV_SEEDS.start + (n * self.count + self.rank) * 4
            drawn = self._draw(range(start, start + 4), frames, 96, weights, augment=False)
            _, tally = self._forward(drawn)
            total += torch.stack([tally.right, tally.asked])
        if self.count > 1:
            dist.all_reduce(total)
        average.swap()
        found = _Tally(total[0], total[1])
        self._log(
            phase="development",
            step=self.clock.step,
            seconds=self.clock.decoder_s,
            frames=frames,
            accuracy=found.by_horizon(),
            types={k: round(v, 3) for k, v in found.by_type().items()},
        )

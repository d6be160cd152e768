"""The second phase of training: the decoder answers questions over growing streams."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from hermes_lab.training import data, lookup
from hermes_lab.training.branches import answer_logits, watch
from hermes_lab.training.build import save
from hermes_lab.training.config import Stage
from hermes_lab.training.optim import Average, Pair
from hermes_lab.training.process import Process
from hermes_lab.training.tally import Tally
from hermes_lab.worlds import DEV_SEEDS, TYPES

_DEV_STREAMS, _DEV_BATCHES, _DEV_QUESTIONS = 4, 2, 96


class Decoding:
    """What one process does in this phase."""

    def __init__(self, run: Process) -> None:
        self.run, self.recipe, self.clock = run, run.recipe, run.clock
        run.family.freeze_tower(run.model)
        named = {
            n: p
            for n, p in run.model.model.named_parameters()
            if p.requires_grad and n != "image_newline"
        }
        matrices = {n for n, p in named.items() if p.ndim == 2 and "layers" in n}
        named |= dict(run.dense.named_parameters())
        rates = (r * self.recipe.decoder_rate for r in (self.recipe.muon_lr, self.recipe.adam_lr))
        self.optimiser = Pair(named, matrices, *rates)
        self.average = Average(named, self.recipe.ema_half_life_steps)
        run.restore(self.optimiser, self.average)
        self.parameters = list(named.values())
        self.accuracy = torch.tensor([self.clock.accuracy.get(k, 0.0) for k in TYPES])
        self.said: dict[str, Any] = {}

    def go(self) -> None:
        """Train for the recipe's time, then save the model."""
        recipe, clock, run = self.recipe, self.clock, self.run
        # the same on all processes
        rng = np.random.default_rng([run.config.seed, clock.step])
        reported = saved = tested = time.monotonic()
        lines = Tally.empty()
        while True:
            begun = time.process_time()
            share = run.done(clock.decoder_s, recipe.decoder_minutes, recipe.decoder_steps)
            if share >= 1:
                break
            stage = self._stage(share)
            frames = stage.frames
            if rng.random() < recipe.shorter_p:
                frames = int(rng.integers(6, stage.frames + 1))
            loss, norm, tally = self._step(share, stage, frames)
            lines.right += tally.right
            lines.asked += tally.asked
            clock.decoder_s += time.process_time() - begun
            now = time.monotonic()
            if run.due((now - reported) / 2, recipe.decoder_steps):
                reported = now
                run.log(
                    phase="decoder",
                    share=share,
                    seconds=clock.decoder_s,
                    step=clock.step,
                    frames=stage.frames,
                    loss=loss,
                    norm=norm,
                    streams=clock.streams,
                    questions=clock.questions,
                    **self.said,
                    **lines.said(),
                )
                lines = Tally.empty()
            if now - saved > recipe.checkpoint_s:
                saved = now
                run.save(self.optimiser, self.average)
            if run.first(float(now - tested > recipe.dev_every_s)):
                self._develop(stage.frames)
                tested = time.monotonic()
        self._develop(recipe.stages[-1].frames)
        run.save(self.optimiser, self.average)
        if run.rank == 0:
            self.average.swap()
            save(run.model, run.config, run.out / "model")

    def _stage(self, share: float) -> Stage:
        end = 0.0
        total = sum(s.share for s in self.recipe.stages)
        for stage in self.recipe.stages:
            end += stage.share / total
            if share < end:
                return stage
        return self.recipe.stages[-1]

    def _step(self, share: float, stage: Stage, frames: int) -> tuple[float, float, Tally]:
        """Learn from one batch; loss, norm of the gradient, and all processes' tally."""
        recipe, clock, run = self.recipe, self.clock, self.run
        streams = max(1, min(24, round(stage.streams * stage.frames / frames)))
        liking = dict(stage.type_weights)
        weights = {
            k: liking.get(k, 1.0) * (0.3 + min(0.7, 1 - float(a)))
            for k, a in zip(TYPES, self.accuracy, strict=True)
        }
        # shorter streams come in larger batches: fewer questions each keep the memory needed level
        asked_each = max(24, round(stage.questions * (frames / stage.frames) ** 0.5))
        drawn = self._draw(run.seeds(streams), frames, asked_each, weights, augment=True)
        asked_now = recipe.lookup_from <= share < recipe.lookup_until
        nudged = asked_now and recipe.lookup_weight > 0
        loss, tally = self._forward(drawn, stage, nudged=nudged)
        loss.backward()
        extra = run.mean_gradients(self.parameters, torch.cat([tally.right, tally.asked]))
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step(run.rate(share))
        self.average.update()
        tally = Tally(*cast(Tensor, extra).chunk(2))
        pace = 1 - 0.98**tally.asked
        moved = self.accuracy.lerp(tally.right / tally.asked.clamp(min=1), pace)
        self.accuracy = torch.where(tally.asked > 0, moved, self.accuracy)
        clock.step += 1
        clock.streams += streams * run.count
        clock.questions += int(tally.asked.sum())
        clock.accuracy = dict(zip(TYPES, self.accuracy.tolist(), strict=True))
        return float(loss.detach()), float(norm), tally

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
            prefix_tokens=len(self.run.family.prefix),
            closing=self.run.family.closing,
        )

    def _forward(self, drawn: data.Batch, stage: Stage, *, nudged: bool) -> tuple[Tensor, Tally]:
        run, device, prefix = self.run, self.run.device, self.run.family.prefix
        groups = [replace(g, **{k: v.to(device) for k, v in vars(g).items()}) for g in drawn.groups]
        facts = drawn.facts.to(device)
        looks: list[lookup.Lookups] = []
        if nudged:
            kinds, first = facts[..., -1].flatten(1), self.recipe.lookup_layer
            first = run.dense.depths["memory"] if first is None else first
            looks = [
                lookup.Lookups(group, asked, kinds, len(prefix), first)
                for group, asked in zip(groups, drawn.questions, strict=True)
            ]
        with run.autocast():
            features = run.features(drawn.frames)
            positions = run.family.positions(drawn.positions.to(device), len(prefix))
            stream = watch(run.model, features, prefix, positions, set(run.dense.depths.values()))
            logits = answer_logits(run.model, stream, groups, [look.heed for look in looks])
        every = torch.cat(logits).float()
        labels = torch.cat([g.labels[g.labels != -100] for g in groups])
        words = run.model.get_input_embeddings().weight
        aside, self.said = run.dense(stream.tapped, drawn.events.to(device), facts, words, stage)
        loss = F.cross_entropy(every, labels) + aside
        if looks:
            missed, self.said["looked"] = lookup.loss(looks)
            loss = loss + self.recipe.lookup_weight * missed
        tally = Tally.empty()
        tally.count(drawn, (every.detach().argmax(-1) == labels).cpu())
        return loss, tally

    @torch.no_grad()
    def _develop(self, frames: int) -> None:
        """Accuracy of the averaged weights on development streams."""
        run = self.run
        self.average.swap()
        total = torch.zeros(2, len(TYPES))
        weights = dict.fromkeys(TYPES, 1.0)
        for n in range(_DEV_BATCHES):
            start = DEV_SEEDS.start + (n * run.count + run.rank) * _DEV_STREAMS
            seeds = range(start, start + _DEV_STREAMS)
            drawn = self._draw(seeds, frames, _DEV_QUESTIONS, weights, augment=False)
            _, tally = self._forward(drawn, self.recipe.stages[-1], nudged=False)
            total += torch.stack([tally.right, tally.asked])
        if run.count > 1:
            dist.all_reduce(total)
        self.average.swap()
        run.log(
            phase="development",
            step=self.clock.step,
            seconds=self.clock.decoder_s,
            frames=frames,
            **Tally(total[0], total[1]).said(),
        )

"""The first phase of training: the vision tower learns what is in view."""

from __future__ import annotations

import time

from torch import nn

from hermes_lab.training import perception
from hermes_lab.training.optim import Pair
from hermes_lab.training.process import Process
from hermes_lab.training.warm import Teacher


def perceive(run: Process) -> None:
    """Train the tower and its projector for the recipe's time."""
    config, recipe = run.config, run.recipe
    tower = run.family.perceiving(run.model)
    if config.tower_from:
        run.family.freeze_tower(run.model)
        tower = {n: p for n, p in tower.items() if p.requires_grad}
    words = run.model.get_input_embeddings().weight if recipe.words_weight else None
    if words is not None:
        tower["words"] = words
    tower |= {f"heads.{n}": p for n, p in run.heads.named_parameters()}
    teacher = Teacher(config.init_from, run.device) if config.init_from else None
    matrices = {
        n
        for n, p in tower.items()
        if p.ndim == 2 and not any(w in n for w in ("heads", "position", "words"))
    }
    optimiser = Pair(tower, matrices, recipe.muon_lr, recipe.adam_lr)
    run.restore(optimiser)
    parameters = list(tower.values())
    minutes, steps = recipe.perception_minutes, recipe.perception_steps
    reported = saved = time.monotonic()
    while True:
        begun = time.process_time()
        share = run.done(run.clock.perception_s, minutes, steps)
        if share >= 1:
            break
        seen = perception.draw(recipe, run.seeds(recipe.perception_frames // 8))
        seen = perception.Glimpses(**{k: v.to(run.device) for k, v in vars(seen).items()})
        with run.autocast():
            tokens = run.features(seen.frames[None]).view(len(seen.frames), -1, config.text.width)
        loss, found = run.heads(tokens.float(), seen)
        if words is not None:
            missed, found["named"] = perception.name_cells(tokens.float(), seen, words)
            loss = loss + recipe.words_weight * missed
        if teacher:
            missed = teacher.unexplained(seen.frames[None], tokens.float())
            loss = loss + recipe.imitation_weight * missed
            found["unexplained"] = float(missed.detach())
        loss.backward()
        run.mean_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step(run.rate(share))
        run.clock.step += 1
        run.clock.perception_s += time.process_time() - begun
        now = time.monotonic()
        if run.due(now - reported, steps):
            reported = now
            run.log(phase="perception", share=share, step=run.clock.step, **found)
        if now - saved > recipe.checkpoint_s:
            saved = now
            run.save(optimiser, None)
    run.clock.phase, run.clock.step = "decoder", 0
    run.save(None, None)

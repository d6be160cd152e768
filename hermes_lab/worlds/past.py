"""Makers of questions about what was there long ago."""

from __future__ import annotations

import itertools

from hermes_lab.worlds.asking import ABSENT_P, HIDDEN, NONE, Ask, Found
from hermes_lab.worlds.catalogue import COLOUR_NAMES, KINDS, SCENES
from hermes_lab.worlds.render import hidden_share
from hermes_lab.worlds.schedule import Thing


def long_first(a: Ask) -> Found:
    seen = a.seen
    if not seen or a.age(seen[0]) < a.min_age:
        return None
    text = a.wording("what was the first object", "what appeared first", "which object came first")
    return text, KINDS[seen[0].kind], a.span(seen[0]), a.age(seen[0])


def long_first_colour(a: Ask) -> Found:
    seen = a.seen
    if not seen or seen[0].recoloured >= 0 or a.age(seen[0]) < a.min_age:
        return None
    text = a.wording("what colour was the first object", "what was the colour of the first object")
    return text, COLOUR_NAMES[seen[0].colour], a.span(seen[0]), a.age(seen[0])


def long_colour(a: Ask) -> Found:
    options = [o for o in a.single() if o.recoloured < 0]
    if options and a.rng.random() >= ABSENT_P:
        thing = a.pick(options)
        kind, colour = KINDS[thing.kind], COLOUR_NAMES[thing.colour]
        frames, age = a.span(thing), a.age(thing)
    elif a.t >= a.min_age:
        kind, colour, frames, age = a.absent(a.seen), NONE, (), a.t + 1
    else:
        return None
    text = a.wording(f"what colour was the {kind}", f"what was the colour of the {kind}")
    return text, colour, frames, age


def long_ever(a: Ask) -> Found:
    gone = [o for o in a.seen if a.age(o) >= a.min_age]
    here = {o.kind for o in a.seen if a.age(o) < a.min_age}
    gone = [o for o in gone if o.kind not in here]
    if not gone:
        return None
    if a.rng.random() < 0.5:
        thing = a.pick(gone)
        kind, answer = thing.kind, "yes"
        shown = [o for o in gone if o.kind == kind]
        frames = tuple(f for o in shown for f in a.span(o))
        age = min(a.age(o) for o in shown)
        name = KINDS[kind]
    else:
        name, answer, frames, age = a.absent(a.seen), "no", (), a.t + 1
    text = a.wording(f"was there a {name}", f"did you see a {name}", f"was there ever a {name}")
    return text, answer, frames, age


def long_count(a: Ask) -> Found:
    seen = a.seen
    by_kind: dict[int, list[Thing]] = {}
    for thing in seen:
        by_kind.setdefault(thing.kind, []).append(thing)
    by_count: dict[int, list[list[Thing]]] = {}
    for group in by_kind.values():
        if len(group) <= 3 and a.age(group[0]) >= a.min_age:
            by_count.setdefault(len(group), []).append(group)
    if not by_count:
        return None
    n = a.pick([0, *by_count])
    if n == 0:
        name, frames, age = a.absent(seen), (), a.t + 1
    else:
        group = a.pick(by_count[n])
        name, age = KINDS[group[0].kind], a.age(group[0])
        frames = tuple(f for o in group for f in a.span(o))
    text = a.wording(f"how many times did a {name} appear", f"how many times was there a {name}")
    return text, str(n), frames, age


def long_together(a: Ask) -> Found:
    options = []
    for thing in a.single():
        others = [o for o in a.schedule.visible(thing.start) if o is not thing]
        if len(others) == 1 and hidden_share(a.schedule, others[0], thing.start) < HIDDEN:
            options.append((thing, others[0]))
    if not options:
        return None
    thing, other = a.pick(options)
    name = KINDS[thing.kind]
    text = a.wording(
        f"what was there when the {name} appeared", f"what was with the {name} when it appeared"
    )
    return text, KINDS[other.kind], (thing.start,), a.t - thing.start


def long_before(a: Ask) -> Found:
    seen = a.seen
    single = {id(o) for o in a.single()}
    options = [(p, o) for p, o in itertools.pairwise(seen) if id(o) in single]
    if not options:
        return None
    earlier, thing = a.pick(options)
    name = KINDS[thing.kind]
    text = a.wording(f"what appeared before the {name}", f"which object came before the {name}")
    return text, KINDS[earlier.kind], (earlier.start, thing.start), a.t - earlier.start


def long_order(a: Ask) -> Found:
    options = a.single()
    if len(options) < 2:
        return None
    i, j = sorted(a.rng.choice(len(options), 2, replace=False).tolist())
    first, second = options[i], options[j]
    x, y = (first, second) if a.rng.random() < 0.5 else (second, first)
    text = a.wording(
        f"which came first the {KINDS[x.kind]} or the {KINDS[y.kind]}",
        f"what appeared first the {KINDS[x.kind]} or the {KINDS[y.kind]}",
    )
    return text, KINDS[first.kind], (first.start, second.start), a.t - first.start


def long_scene_first(a: Ask) -> Found:
    past = [s for s in a.schedule.scenes if s[0] <= a.t]
    if len(past) < 2 or a.t - past[1][0] + 1 < a.min_age:
        return None
    text = a.wording("what was the first scene", "which scene was first")
    return text, SCENES[past[0][1]], tuple(range(past[1][0])), a.t - past[1][0] + 1


def long_scene_order(a: Ask) -> Found:
    past = [s for s in a.schedule.scenes if s[0] <= a.t]
    first: dict[int, int] = {}
    for start, scene, _ in past:
        first.setdefault(scene, start)
    options = [s for s in first if a.t - first[s] >= a.min_age]
    if len(options) < 2:
        return None
    i, j = sorted(a.rng.choice(len(options), 2, replace=False).tolist())
    one, two = options[i], options[j]
    x, y = (one, two) if a.rng.random() < 0.5 else (two, one)
    text = f"which scene came first the {SCENES[x]} or the {SCENES[y]}"
    return text, SCENES[one], (first[one], first[two]), a.t - first[one]


def long_scene_when(a: Ask) -> Found:
    options = a.single()
    if not options:
        return None
    thing = a.pick(options)
    name = KINDS[thing.kind]
    text = a.wording(f"what was the scene when the {name} appeared", f"where did the {name} appear")
    scene = SCENES[a.schedule.scene_at(thing.start)]
    return text, scene, (thing.start,), a.t - thing.start


def long_counter_when(a: Ask) -> Found:
    options = a.single()
    if not options:
        return None
    thing = a.pick(options)
    text = f"what was the counter when the {KINDS[thing.kind]} appeared"
    return text, str(a.schedule.counter_at(thing.start)), (thing.start,), a.t - thing.start

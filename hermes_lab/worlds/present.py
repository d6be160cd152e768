"""Makers of questions about the current frame and about what has just happened."""

from __future__ import annotations

from hermes_lab.worlds.asking import ABSENT_P, NONE, RECENT_FRAMES, Ask, Found
from hermes_lab.worlds.catalogue import COLOUR_NAMES, FRAME_PX, KINDS, SCENES
from hermes_lab.worlds.render import corner
from hermes_lab.worlds.schedule import Thing

_SIDE_MARGIN_PX = 8
_MOVED_PX = 4


def now_colour(a: Ask) -> Found:
    plain = a.plain()
    if not plain or a.rng.random() < ABSENT_P:
        kind, colour = a.absent(a.schedule.visible(a.t)), NONE
    else:
        thing = a.pick(plain)
        kind, colour = KINDS[thing.kind], COLOUR_NAMES[thing.colour_at(a.t)]
    text = a.wording(f"what colour is the {kind}", f"what colour is the {kind} now")
    return text, colour, (a.t,), 0


def now_kind(a: Ask) -> Found:
    plain = a.plain()
    if not plain or a.rng.random() < ABSENT_P:
        there = {o.colour_at(a.t) for o in a.schedule.visible(a.t)}
        colour = a.pick([c for c in range(len(COLOUR_NAMES)) if c not in there])
        kind = NONE
    else:
        thing = a.pick(plain)
        colour, kind = thing.colour_at(a.t), KINDS[thing.kind]
    name = COLOUR_NAMES[colour]
    text = a.wording(f"which object is {name}", f"what is {name} now", f"what is the {name} object")
    return text, kind, (a.t,), 0


def now_count(a: Ask) -> Found:
    present = a.schedule.visible(a.t)
    if len(a.plain()) != len(present):
        return None
    text = a.wording(
        "how many objects are visible",
        "how many objects are there now",
        "how many objects do you see",
    )
    return text, str(len(present)), (a.t,), 0


def now_counter(a: Ask) -> Found:
    text = a.wording(
        "what is the counter", "what number is on the counter", "what does the counter show"
    )
    return text, str(a.schedule.counter_at(a.t)), (a.t,), 0


def now_scene(a: Ask) -> Found:
    text = a.wording("what is the scene", "what is the scene now", "where are we now")
    return text, SCENES[a.schedule.scene_at(a.t)], (a.t,), 0


def now_side(a: Ask) -> Found:
    options = []
    for thing in a.plain():
        x, _, size = corner(a.schedule, thing, a.t)
        offset = x + size / 2 - FRAME_PX / 2
        if abs(offset) >= _SIDE_MARGIN_PX:
            options.append((thing, "left" if offset < 0 else "right"))
    if not options:
        return None
    thing, side = a.pick(options)
    text = a.wording(
        f"which side is the {KINDS[thing.kind]} on", f"on which side is the {KINDS[thing.kind]}"
    )
    return text, side, (a.t,), 0


def recent_direction(a: Ask) -> Found:
    options = []
    for thing in a.plain():
        if thing.start >= a.t:
            continue
        x1, y1, s1 = corner(a.schedule, thing, a.t)
        x0, y0, s0 = corner(a.schedule, thing, a.t - 1)
        dx, dy = x1 - x0 + (s1 - s0) / 2, y1 - y0 + (s1 - s0) / 2
        step = thing.at[a.t - thing.start] - thing.at[a.t - 1 - thing.start]
        if not step.any() and max(abs(dx), abs(dy)) <= 1:
            options.append((thing, "still"))
        elif abs(dx) >= _MOVED_PX and abs(dx) >= 2 * abs(dy):
            options.append((thing, "left" if dx < 0 else "right"))
        elif abs(dy) >= _MOVED_PX and abs(dy) >= 2 * abs(dx):
            options.append((thing, "up" if dy < 0 else "down"))
    if not options:
        return None
    thing, direction = a.pick(options)
    name = KINDS[thing.kind]
    text = a.wording(
        f"which way is the {name} moving",
        f"where is the {name} going",
        f"in which direction is the {name} moving",
    )
    return text, direction, (a.t - 1, a.t), 1


def recent_appeared(a: Ask) -> Found:
    seen = a.seen
    if not seen or a.t - seen[-1].start >= RECENT_FRAMES:
        return None
    thing = seen[-1]
    text = a.wording(
        "what appeared last", "what just appeared", "which object appeared last", "what is new"
    )
    return text, KINDS[thing.kind], (thing.start,), a.t - thing.start


def recent_left(a: Ask) -> Found:
    gone = sorted((o for o in a.seen if o.end <= a.t), key=lambda o: o.end)
    if not gone or a.t - gone[-1].end >= RECENT_FRAMES - 1:
        return None
    thing = gone[-1]
    text = a.wording(
        "what left last", "what just left", "which object left last", "what just disappeared"
    )
    return text, KINDS[thing.kind], a.span(thing), a.age(thing)


def _last_change(a: Ask) -> Thing | None:
    changed = [o for o in a.seen if 0 <= o.recoloured <= a.t]
    last = max(changed, key=lambda o: o.recoloured, default=None)
    return last if last and a.t - last.recoloured < RECENT_FRAMES - 1 else None


def recent_changed(a: Ask) -> Found:
    thing = _last_change(a)
    if thing is None:
        return None
    text = a.wording(
        "what changed colour last", "what just changed colour", "which object changed colour"
    )
    return (
        text,
        KINDS[thing.kind],
        (thing.recoloured - 1, thing.recoloured),
        (a.t - thing.recoloured + 1),
    )


def recent_colour(a: Ask) -> Found:
    thing = _last_change(a)
    if thing is None or thing.end <= a.t:
        return None
    name = KINDS[thing.kind]
    text = a.wording(
        f"what colour was the {name} before", f"what was the colour of the {name} before"
    )
    before = tuple(range(thing.start, thing.recoloured))
    return text, COLOUR_NAMES[thing.colour], before, a.t - thing.recoloured + 1


def recent_scene(a: Ask) -> Found:
    past = [s for s in a.schedule.scenes if s[0] <= a.t]
    if len(past) < 2 or a.t - past[-1][0] >= RECENT_FRAMES - 1:
        return None
    start, scene, _ = past[-2]
    text = a.wording("what was the scene before", "what was the last scene before this")
    return text, SCENES[scene], tuple(range(start, past[-1][0])), a.t - past[-1][0] + 1

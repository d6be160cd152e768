"""What happens to tokens besides being kept: admitted, merged, annotated, archived, recalled, read afresh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hermes_lab.lab import Lab
from hermes_lab.policies.base import (
    Admission,
    Codec,
    LayerView,
    Merged,
    Need,
    ReadPlan,
    RecallView,
    Scores,
)
from hermes_lab.segment import Segment
from hermes_lab.tokens import Role
from tests.reference.closeness import assert_moved, assert_same, distance
from tests.reference.literal import Literal, chosen, joined, place
from tests.reference.streams import (
    QUESTION,
    Beside,
    admit_even,
    by_head,
    by_layer,
    noise,
    same_everywhere,
    scripted,
)

Model = tuple[Lab, Path]


# --- merged tokens -----------------------------------------------------------------------------
def folding(place: str) -> dict[str, Any]:
    """Fold what is evicted into one token at the newest evicted position."""

    def merge(self: Any, view: LayerView, kept: Tensor, scores: Scores) -> Merged:
        gone = torch.ones(view.tokens, dtype=torch.bool)
        gone[kept[0]] = False
        assert view.rotate is not None and view.values is not None
        mean = view.keys_unrotated()[:, gone].mean(1, keepdim=True)
        at = view.positions[0, :, gone][:, -1:]
        return Merged(
            keys=view.rotate(mean, torch.zeros_like(at)[None], at[None]),
            values=view.values[:, gone].mean(1, keepdim=True),
            positions=at,
            sources=(view.ids[0, gone],),
            place=place,
        )

    return {"merge": merge, "needs": frozenset({Need.KEYS, Need.VALUES})}


@pytest.mark.parametrize("place", ["end", "sorted"])
@pytest.mark.parametrize("positions", ["keep", "eager"])
def test_merged_tokens_equal_the_mean_of_unrotated_keys(
    model: Model, place: str, positions: str
) -> None:
    policy = scripted(by_layer, **folding(place))
    both = Beside(*model, policy, positions, sort_merged=place == "sorted")
    for round_ in range(4):
        snapshot = both.feed(noise(2, round_))
        for decision in snapshot.decisions:
            (made,) = decision.merged
            assert both.session.table.column("role")[made.id] == Role.SUMMARY
            assert np.array_equal(made.sources, decision.evicted)
            held = snapshot.held[decision.layer][0]
            assert made.id in held
            if place == "end":
                assert held[-1] == made.id
        for layer in range(both.session.engine.layers):
            actual, expected = both.positions_of(layer)
            assert torch.equal(actual, expected)
            if place == "sorted":
                video = actual[0, 0, len(both.prefix) :]
                assert (video[1:] >= video[:-1]).all()
        assert_same(*both.ask())
    without = Beside(*model, scripted(by_layer), positions)
    for round_ in range(4):
        without.feed(noise(2, round_))
    assert_moved(both.ask()[0], without.ask()[1])


# --- per-token state -----------------------------------------------------------------------------
@pytest.mark.parametrize("choose", [by_layer, by_head])
def test_carried_state_and_admission_terms_stay_with_their_tokens(model: Model, choose) -> None:
    seen: list[int] = []

    def observe(self: Any, view: LayerView) -> dict[str, Tensor]:
        old = view.carried.get("name", torch.full(view.ids.shape, torch.nan))
        assert view.carried["index"].shape[-1] == view.tokens
        fresh = old.isnan()
        seen.append(int((~fresh).sum()))
        return {"name": torch.where(fresh, view.ids.float(), old)}

    def checked(view: LayerView) -> Tensor:
        assert torch.equal(
            view.carried["name"], view.ids.float().expand(view.carried["name"].shape)
        )
        index = view.carried["index"]
        assert (index % 2 == 0).all()  # admission let every other token in
        table = indices.setdefault(view.layer, {})
        for name, value in zip(
            view.ids.flatten().tolist(),
            index.expand(view.ids.shape).flatten().tolist(),
            strict=True,
        ):
            assert table.setdefault(name, value) == value
        return choose(view)

    indices: dict[int, dict[int, float]] = {}
    session = Beside(
        *model, scripted(checked, observe=observe, admit=admit_even, per_head=choose is by_head)
    ).session
    for step in range(4):
        session.feed(noise(2, step))
    assert max(seen) > 0  # some state did survive a decision
    for state in session.stream.cache.states:
        names = state.carried["name"][:, session.protected_tokens :]
        assert torch.equal(
            names, state.ids[:, session.protected_tokens :].float().expand(names.shape)
        )


# --- admission -------------------------------------------------------------------------------------
@dataclass
class Thinned(Beside):
    """Every other token of a chunk enters, with embeddings of its own."""

    scale: float = 1.0

    def arriving(self, segment: Segment) -> Segment:
        keep = np.arange(0, len(segment), 2)
        return replace(
            segment,
            embeds=self.scale * segment.embeds[keep],
            rel=segment.rel[:, keep],
            deepstack=tuple(extra[keep] for extra in segment.deepstack),
            role=segment.role[keep], frame=segment.frame[keep],
            row=segment.row[keep], col=segment.col[keep],
        )  # fmt: skip


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_admitted_tokens_keep_their_places(model: Model, scale: float) -> None:
    def admit(self: Any, arrival: Any, memory: dict[str, Any]) -> Admission:
        keep = torch.arange(0, len(arrival.frame), 2)
        memory["calls"] = memory.get("calls", 0) + 1
        return Admission(keep, embeds=None if scale == 1 else scale * arrival.embeds[keep])

    both = Thinned(*model, scripted(by_layer, admit=admit), "eager", scale=scale)
    for step in range(3):
        snapshot = both.feed(noise(2, step))
        table = both.session.table
        new = snapshot.new_ids
        segment = both.chunks[-1][0]
        assert np.array_equal(table.column("row")[new], segment.row)
        assert np.array_equal(table.column("role")[new], segment.role)
    assert both.session.stream.memory["calls"] == 3
    assert_same(*both.ask())
    whole = Beside(*model, scripted(by_layer), "eager")
    for step in range(3):
        whole.feed(noise(2, step))
    assert_moved(both.ask()[0], whole.ask()[1])


def test_a_chunk_of_which_nothing_is_admitted_changes_nothing_but_the_clock(model: Model) -> None:
    def admit(self: Any, arrival: Any, memory: dict[str, Any]) -> Admission | None:
        return Admission(torch.zeros(0, dtype=torch.long)) if arrival.step == 1 else None

    session = Beside(*model, scripted(same_everywhere, admit=admit)).session
    session.feed(noise(2, 0))
    before = session.stream.cache.states
    logits = session.question_logits(QUESTION)
    snapshot = session.feed(noise(2, 1))
    assert len(snapshot.new_ids) == 0
    assert snapshot.frames_seen == 4
    assert not snapshot.decisions or all(d.kept.sum() for d in snapshot.decisions)
    for a, b in zip(before, session.stream.cache.states, strict=True):
        if b.cursor.video is not None and a.cursor.video is not None:
            assert b.cursor.video[0] > a.cursor.video[0]
    if not snapshot.decisions:
        assert torch.equal(session.question_logits(QUESTION), logits)
    session.feed(noise(2, 2))
    session.ask(QUESTION, max_new_tokens=1)


# --- archive and recall ------------------------------------------------------------------------------
class Doubling(Codec):
    """Stores twice the states: exact, and unreadable for whoever forgets to decode."""

    def encode(self, states: Tensor, group: Tensor) -> Any:
        assert group.shape == (states.shape[1],)
        return {"twice": 2 * states}

    def decode(self, stored: Any) -> Tensor:
        return stored["twice"] / 2

    def stored_bytes(self, stored: Any) -> int:
        return 7


@pytest.mark.parametrize("codec", [None, Doubling()])
@pytest.mark.parametrize("choose", [by_layer, by_head])
def test_recall_equals_full_memory_restricted_to_what_was_recalled(
    model: Model, choose, codec: Codec | None
) -> None:
    recalled: dict[int, Tensor] = {}
    recalled_old = 0

    def recall(self: Any, question: RecallView) -> Tensor:
        view = question.view
        assert view.keys is not None
        rng = torch.Generator().manual_seed(view.layer)
        index = torch.randperm(view.tokens, generator=rng)[: view.tokens // 2].sort().values
        recalled[view.layer] = view.ids[:, index]
        return index[None]

    policy = scripted(
        choose, per_head=choose is by_head, archives=True, recalls=True, recall=recall,
        codec=lambda self: codec, needs=frozenset({Need.KEYS}),
    )  # fmt: skip
    both = Beside(*model, policy)
    both.reference.archives = True
    for step in range(3):
        both.feed(noise(2, step))
    session = both.session
    expected_bytes = 0 if codec is None else 7 * 2 * 3 * session.engine.layers
    if codec is None:
        expected_bytes = sum(
            2 * 4 * head.keys.numel()
            for layer in both.reference.layers
            for head in layer.archive or []
        )
    assert session.snapshot is not None
    assert session.snapshot.archive_bytes == expected_bytes
    actual = session.question_logits(QUESTION)
    front = torch.arange(len(both.prefix))
    ids = [
        torch.cat([front.expand(len(recalled[n]), -1), recalled[n]], 1)
        for n in range(session.engine.layers)
    ]
    for layer in range(session.engine.layers):
        held = session.layer_ids(layer)
        recalled_old += int((~torch.isin(recalled[layer], held)).sum())
    assert recalled_old > 0  # some of it had been evicted
    reader = both.reference.recall(ids)
    for layer in range(session.engine.layers):
        reader.layers[layer].video = None
        reader.renumber(layer, "contiguous", len(both.prefix))
    assert_same(actual, reader.feed(both.question(), store=False))
    assert_moved(actual, both.reference.feed(both.question(), store=False))


def test_an_archive_outlives_the_policy_that_encoded_it(model: Model) -> None:
    def everything(self: Any, question: RecallView) -> None:
        return None

    common: dict[str, Any] = {"archives": True, "recalls": True, "recall": everything}
    plain = Beside(*model, scripted(by_layer, **common)).session
    coded = Beside(*model, scripted(by_layer, codec=lambda self: Doubling(), **common)).session
    for session in (plain, coded):
        session.feed(noise(2, 0))
    coded.set_policy(scripted(by_layer, **common))
    for session in (plain, coded):
        session.feed(noise(2, 1))
    assert torch.equal(coded.question_logits(QUESTION), plain.question_logits(QUESTION))


# --- answers -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("recalls", [False, True])
def test_every_token_of_an_answer_stands_where_it_should(model: Model, recalls: bool) -> None:
    """Logits of each decoding step, the generated tokens fed to the reference one by one."""

    def recall(self: Any, question: RecallView) -> Tensor:
        return torch.arange(0, question.view.tokens, 2)[None]

    policy = scripted(by_layer, archives=recalls, recalls=recalls, recall=recall)
    both = Beside(*model, policy, "keep")
    both.reference.archives = recalls
    for step in range(3):
        both.feed(noise(2, step))
    session, lab, protected = both.session, both.lab, len(both.prefix)
    reader = both.reference
    if recalls:
        ids = []
        for memory in reader.layers:
            head = memory.heads[0]
            assert memory.archive is not None
            stored = joined(head, memory.archive[0]).ids.sort().values
            ids.append(torch.cat([stored[:protected], stored[protected:][::2]])[None])
        reader = reader.recall(ids)
        for layer, memory in enumerate(reader.layers):
            memory.video = None
            reader.renumber(layer, "contiguous", protected)
    steps: list[Tensor] = []

    def catch(hidden: Tensor, hook: Any) -> None:
        steps.append(lab.engine.logits(hidden[0, -1:])[0])

    with session.hooks([("ln_final.hook_normalized", catch)]):
        answer = session.ask(QUESTION, max_new_tokens=5)
    assert len(steps) == len(answer.token_ids) > 1
    assert_same(steps[0], reader.feed(both.question())[-1])
    for token, logits in zip(answer.token_ids, steps[1:], strict=False):
        embeds = lab.adapter.embed(torch.tensor([token]))
        at_once = torch.zeros(reader.axes, 1, dtype=torch.long)
        segment = replace(both.question(), embeds=embeds, rel=at_once)
        expected = reader.feed(segment)[-1]
        assert_same(logits, expected)
    assert_moved(steps[-1], steps[0])


# --- frames read afresh --------------------------------------------------------------------------------
def afresh(
    lab: Lab, folder: Path, parts: Sequence[tuple[int, int]], seeds: Sequence[int]
) -> Literal:
    """A reference that saw the system prefix and only some frames: (chunk, first frame in it)."""
    reference = Literal(folder)
    prefix = lab.adapter.prefix()
    reference.feed(prefix, range(len(prefix)))
    for (chunk, first), seed in zip(parts, seeds, strict=True):
        images = noise(4, seed)[first:]
        times = [float(4 * chunk + first + i) for i in range(len(images))]
        reference.feed(lab.adapter.encode(images, times))
    return reference


VISION = 2e-5  # frames encoded in another batch: the vision tower rounds differently


@pytest.mark.parametrize("frames", [2, 6])
def test_recent_frames_answer_as_if_nothing_else_had_been_seen(model: Model, frames: int) -> None:
    lab, folder = model
    both = Beside(lab, folder, f"recent_frames(frames={frames})")
    for seed in range(3):
        both.feed(noise(4, seed))
    parts, seeds = ([(2, 2)], [2]) if frames == 2 else ([(1, 2), (2, 0)], [1, 2])
    expected = afresh(lab, folder, parts, seeds).feed(both.question(), store=False)
    actual = both.session.question_logits(QUESTION)
    assert_same(actual, expected, VISION)
    assert_moved(actual, both.reference.feed(both.question(), store=False))


@pytest.mark.parametrize("replaces", [True, False])
def test_recent_frames_beside_the_cache_follow_it(model: Model, replaces: bool) -> None:
    lab, folder = model
    plan = ReadPlan(recent_frames=4, replaces=replaces)
    both = Beside(lab, folder, scripted(same_everywhere, read_plan=lambda self: plan), "eager")
    for seed in range(3):
        both.feed(noise(4, seed))
    protected = len(both.prefix)
    fresh = afresh(lab, folder, [(2, 0)], [2])
    frame = both.session.table.column("frame")
    reader = both.reference
    for layer, memory in enumerate(reader.layers):
        start = int(memory.heads[0].positions[:, :protected].max()) + 1
        video, shift = memory.video, memory.next - start
        for kv, head in enumerate(memory.heads):
            new = chosen(fresh.layers[layer].heads[kv], slice(protected, None))
            positions = new.positions.clone()
            if video is None:
                positions += shift
            else:
                positions[0] += video[0] - start
            if replaces:
                old = torch.from_numpy(frame[head.ids.numpy()] < 8)
                head = chosen(head, old)
            memory.heads[kv] = joined(head, replace(new, positions=positions))
        memory.next = max(int(head.positions.max()) for head in memory.heads) + 1
    actual = both.session.question_logits(QUESTION)
    assert_same(actual, reader.feed(both.question(), store=False), VISION)
    assert distance(actual, both.session.fork("full").question_logits(QUESTION)) > 1e-3


def test_place_is_what_the_engine_does(model: Model) -> None:
    """The reference's own reading of the anchor rules agrees with the engine's cursor on every family."""
    both = Beside(*model)
    for seed in range(3):
        both.feed(noise(2, seed))
    for layer, state in enumerate(both.session.stream.cache.states):
        actual, expected = both.positions_of(layer)
        assert torch.equal(actual, expected)
        where, after = place(both.reference.layers[layer], both.question())
        assert torch.equal(state.cursor.place(both.question())[0], where)
        assert (state.cursor.place(both.question())[1].next, state.cursor.video) == after

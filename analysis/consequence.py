"""Does the finding predict which policy wins? HERMES with its bands against shuffled, reversed and found ones.

If shallow layers need what is new and deep layers what is relevant, a policy that keeps accordingly must beat
the same policy with the bands assigned at random, at the same number of tokens per layer. Streams run under
each policy at a quarter of the full cache; questions of every horizon follow at the end. Full cache, recent
frames, uniform and random retention are shown beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.answers import LEAST_COST, Target
from analysis.arrays import Array, Arrays
from analysis.bands import automatic_partition
from analysis.claims import Claim, Finding, RequiredControl, judge
from analysis.claims import estimate as estimate_of
from analysis.context import StudyContext
from analysis.draws import Draw
from analysis.result import FigureSpec, StudyResult, Table
from analysis.statistics import cluster_bootstrap
from analysis.streams import HORIZONS, Stream, encode, feed
from analysis.structure import (
    NULL_PANEL,
    leave_one_out,
    named_null_panel,
    panel_table,
    unsupported,
)
from hermes_lab import policies
from hermes_lab.policies.base import Policy
from hermes_lab.policies.hermes import BANDS, Band, Hermes

SHARE = 0.25  # of the video tokens that a layer may keep
LEAST = 0.05
_CAPABLE = RequiredControl("accuracy above chance", "capable")
CLAIMS = (
    Claim(
        key="bands-help",
        sentence="HERMES with the paper's bands keeps more of the answers than with its bands assigned at random.",
        metric="mean margin of the answer under the policy over that of the full cache, all horizons",
        refuted_if="a random assignment of the same bands, or the bands reversed, does as well within 5 %",
        needs=(RequiredControl("shuffled bands", "exceed", 3), RequiredControl("reversed bands", "exceed"), _CAPABLE),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
        paper="HERMES (arXiv 2601.14724), section 3",
    ),
    Claim(
        key="found-bands-help-more",
        sentence="HERMES with the bands found on development streams keeps more than with the paper's bands.",
        metric="the same with the automatic partition",
        refuted_if="the paper's bands do as well within 5 %",
        needs=(RequiredControl("paper's bands", "exceed"), _CAPABLE),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
    ),
    Claim(
        key="hermes-remembers",
        sentence="On questions about the past HERMES keeps more than keeping the newest, evenly spaced or random tokens "
        "does.",
        metric="the same on `long` questions",
        refuted_if="the newest, uniform or random tokens do as well within 5 %",
        needs=(
            RequiredControl("newest tokens", "exceed"),
            RequiredControl("uniform frames", "exceed"),
            RequiredControl("random tokens", "exceed", 3),
            _CAPABLE,
        ),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
        paper="HERMES (arXiv 2601.14724), tables 1 and 2",
    ),
    Claim(
        key="hermes-keeps-the-present",
        sentence="On questions about now HERMES loses less than keeping random tokens does.",
        metric="the same on `now` questions",
        refuted_if="random tokens do as well within 5 %",
        needs=(RequiredControl("random tokens", "exceed", 3), _CAPABLE),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
        paper="HERMES (arXiv 2601.14724), tables 1 and 2",
    ),
)  # fmt: skip


FULL, PAPERS, FOUND = Draw("full"), Draw("paper's bands"), Draw("found bands")
REVERSED, NEWEST, UNIFORM = Draw("reversed bands"), Draw("newest tokens"), Draw("uniform frames")
SHUFFLED, RANDOM = "shuffled bands", "random tokens"


def policies_of(context: StudyContext) -> dict[Draw, Policy]:
    """Every policy that is compared, at the same budget; random tokens once, to be run under several seeds."""
    tokens = (
        context.settings.frames // context.layout.frames_per_group * context.layout.visual_tokens
    )
    prefix = len(context.lab.adapter.prefix())  # a session refuses budgets below it
    budget = max(2 * context.layout.visual_tokens, int(SHARE * tokens), prefix)
    paper = bands_of(*(len(b) for b in context.paper_bands))
    first, second = automatic_partition(context).edges
    found = bands_of(first, second - first, context.layers - second)
    hermes = Hermes.paper(budget_tokens=budget)

    def banded(bands: tuple[Band, ...]) -> Hermes:
        return replace(hermes, bands=bands)

    out: dict[Draw, Policy] = {
        FULL: policies.get("full"),
        PAPERS: banded(paper),
        FOUND: banded(found),
        REVERSED: banded(tuple(reversed(paper))),
        Draw("all recency"): banded(("shallow",) * context.layers),
        Draw("all attention"): banded(("deep",) * context.layers),
        Draw("released code"): Hermes.released(budget_tokens=budget, bands=paper),
        Draw("simple prompts"): replace(
            hermes,
            bands=paper,
            local_prompt="what is visible now",
            global_prompt="what happened in the video",
        ),
        NEWEST: policies.get(f"fifo(budget_tokens={budget})"),
        UNIFORM: policies.get(f"uniform(budget_tokens={budget})"),
        Draw(RANDOM): policies.get(f"random(budget_tokens={budget})"),
    }
    for i in range(context.settings.control_draws):
        out[Draw(SHUFFLED, i)] = banded(deal(paper, i))
    return out


def bands_of(shallow: int, middle: int, deep: int) -> tuple[Band, ...]:
    """The band of every layer, from the number of layers in each."""
    sizes = zip(BANDS, (shallow, middle, deep), strict=True)
    return tuple(band for band, size in sizes for _ in range(size))


def deal(bands: Sequence[Band], seed: int) -> tuple[Band, ...]:
    """The same bands assigned to layers at random; never as they were."""
    rng = np.random.default_rng(seed)
    for _ in range(100):
        dealt = tuple(bands[i] for i in rng.permutation(len(bands)))
        if dealt != tuple(bands):
            return dealt
    return tuple(reversed(bands))


@dataclass(frozen=True)
class Outcomes:
    """How well every policy answers.

    Attributes:
        compared: the policies; random tokens under every seed.
        margin, right: margin of the answer, and 1 where it is right, [stream, policy, horizon].
        chance: accuracy by chance, [stream, horizon].
    """

    compared: tuple[Draw, ...]
    margin: Array
    right: Array
    chance: Array

    @property
    def relative(self) -> Array:
        """Margins over the mean one of the full cache, [stream, policy, horizon]."""
        full = self.margin[:, self.compared.index(FULL)]
        return self.margin / np.maximum(full.mean(0), LEAST_COST)

    @property
    def above_chance(self) -> Array:
        """Accuracy of the full cache minus chance, [stream, horizon]."""
        return self.right[:, self.compared.index(FULL)] - self.chance

    def kept(self, policy: Draw, horizon: int | None = None) -> Array:
        """Margin that a policy keeps at one horizon, or as a mean over all, [stream]."""
        kept = self.relative[:, self.compared.index(policy)]
        return kept.mean(1) if horizon is None else kept[:, horizon]

    def draws(self, name: str, horizon: int | None = None) -> Array:
        """The same for all random draws of that name, [draw, stream]."""
        found = [p for p in self.compared if p.name == name and p.number is not None]
        return np.stack([self.kept(policy, horizon) for policy in found])


def run(context: StudyContext) -> StudyResult:
    """Run the study; see the module docstring."""
    found = measure(context)
    findings = judged(found)
    table = policy_table(found)
    return StudyResult(
        study="consequence",
        title="Consequence: which policy wins",
        question=(__doc__ or "").split("\n")[0],
        structural=False,
        quick=context.quick,
        setup=context.setup(
            prompts=(Hermes.paper().local_prompt, Hermes.paper().global_prompt),
            query_rows="not read; answers only",
            cache_policy=f"as named, {SHARE:.0%} of the video tokens in every layer, summary tokens included",
        ),
        data=context.data(context.causal),
        findings=findings,
        tables=(table, deal_table(context), panel_table("nulls", findings)),
        figures=FIGURE_SPECS,
        negatives=surprises(findings, found),
        robustness=robustness(found),
        analyses=len(findings) + len(table.rows),
        reproduce=context.reproduce(
            f"{CLAIMS[0].key} {findings[0].estimate}, within 0.02 on another CPU"
        ),
        scope=context.scope,
        covers=("consequence", "nulls"),
    )


def judged(found: Outcomes) -> tuple[Finding, ...]:
    """The verdicts on the four claims."""
    long, now, able = HORIZONS.index("long"), HORIZONS.index("now"), found.above_chance
    values = (
        (
            found.kept(PAPERS),
            {"shuffled bands": found.draws(SHUFFLED), "reversed bands": found.kept(REVERSED)},
            able.mean(1),
        ),
        (found.kept(FOUND), {"paper's bands": found.kept(PAPERS)}, able.mean(1)),
        (
            found.kept(PAPERS, long),
            {
                "newest tokens": found.kept(NEWEST, long),
                "uniform frames": found.kept(UNIFORM, long),
                "random tokens": found.draws(RANDOM, long),
            },
            able[:, long],
        ),
        (found.kept(PAPERS, now), {"random tokens": found.draws(RANDOM, now)}, able[:, now]),
    )
    return judge(
        [
            (claim, estimate_of(observed), named_null_panel(observed, nulls, {_CAPABLE.name: able}))
            for claim, (observed, nulls, able) in zip(CLAIMS, values, strict=True)
        ]
    )


# --- measurement -----------------------------------------------------------------------------------------------
def measure(context: StudyContext) -> Outcomes:
    """Answers under every policy, resumable stream by stream."""
    draws = max(3, context.settings.control_draws)
    compared = policies_of(context)
    drawn = compared.pop(Draw(RANDOM))
    runs = [(policy, 0) for policy in compared.values()] + [(drawn, seed) for seed in range(draws)]

    def one(stream: Stream) -> Arrays:
        segments = encode(context.lab, stream, chunk_frames=context.settings.chunk_frames)
        questions = stream.questions(context.settings.per_horizon)
        margins = np.zeros((len(runs), len(questions)))
        rights, chances = np.zeros_like(margins), np.zeros(len(questions))
        for i, (policy, seed) in enumerate(runs):
            session = feed(context.lab, segments, policy, seed=seed)
            for j, question in enumerate(questions):
                target = Target.of(session, question)
                logits = session.question_logits(question.text)[-1]
                margins[i, j] = float(target.margin(logits))
                rights[i, j] = float(target.right(logits))
                chances[j] = 1 / (1 + len(target.others))
        horizon = np.asarray([HORIZONS.index(q.horizon) for q in questions])
        by = [horizon == h for h in range(len(HORIZONS))]
        return {
            "margin": np.stack([margins[:, b].mean(1) for b in by], 1),
            "right": np.stack([rights[:, b].mean(1) for b in by], 1),
            "chance": np.stack([chances[b].mean() for b in by]),
        }

    settings = [str(policy.config()) for policy, _ in runs]
    made = context.per_stream(
        "consequence", context.causal, one, settings, context.settings.per_horizon
    )
    margin, right, chance = (
        np.stack([m[n] for m in made]).astype(float) for n in ("margin", "right", "chance")
    )
    names = (*compared, *(Draw(RANDOM, seed) for seed in range(draws)))
    return Outcomes(names, margin, right, chance)


# --- tables ----------------------------------------------------------------------------------------------------
def policy_table(found: Outcomes) -> Table:
    """Margin kept and accuracy by policy and horizon."""
    margins, rights = cluster_bootstrap(found.relative), cluster_bootstrap(found.right)
    chance = [float(values.mean()) for values in found.chance.T]
    rows = [
        (str(policy), horizon, *margins.ends(i, h), *rights.ends(i, h), chance[h])
        for i, policy in enumerate(found.compared)
        for h, horizon in enumerate(HORIZONS)
    ]
    columns = (
        "series", "horizon", "value", "low", "high", "accuracy", "accuracy_low", "accuracy_high", "chance",
    )  # fmt: skip
    return Table(
        "policies", columns, tuple(rows), "Margin over that of the full cache, and accuracy."
    )


def deal_table(context: StudyContext) -> Table:
    """The band of every layer."""
    rows = [
        (str(name), layer, band)
        for name, policy in policies_of(context).items()
        if isinstance(policy, Hermes) and policy.bands is not None
        for layer, band in enumerate(policy.bands)
    ]
    return Table("deals", ("policy", "layer", "band"), tuple(rows), "Band of every layer.")


# --- figures ---------------------------------------------------------------------------------------------------
FIGURE_SPECS = (
    FigureSpec(
        "policies", "policy_bars", ("policies",), "Answers kept, by policy and horizon",
        "Margin of the answer over that of the full cache; random assignments of the bands are the null.",
        "How the policies compare at other budgets, or in time and memory: see the benchmarks.",
    ),
    NULL_PANEL,
)  # fmt: skip


# --- words -----------------------------------------------------------------------------------------------------
def surprises(findings: Sequence[Finding], found: Outcomes) -> tuple[str, ...]:
    """What did not come out as the paper says, in numbers."""
    mean = found.right.mean(0)

    def accuracies(policy: Draw) -> str:
        by_horizon = " / ".join(f"{a:.2f}" for a in mean[found.compared.index(policy)])
        return f"{policy} {by_horizon}"

    listed = "; ".join(map(accuracies, (FULL, PAPERS, FOUND, REVERSED, NEWEST, UNIFORM)))
    return (f"Accuracy (now / recent / long): {listed}.", *unsupported(findings))


def robustness(found: Outcomes) -> tuple[str, ...]:
    """How the margin kept moves with streams and assignments of the bands."""
    deals = ", ".join(f"{kept.mean():.2f}" for kept in found.draws(SHUFFLED))
    return (
        leave_one_out(found.kept(PAPERS), "paper's bands, margin kept"),
        f"shuffled bands, each assignment: {deals}",
    )

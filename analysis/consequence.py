"""Does the finding predict which policy wins? HERMES with its bands against shuffled, reversed and found ones.

If shallow layers need what is new and deep layers what is relevant, a policy that keeps accordingly must beat
the same policy with the bands dealt out at random, at the same number of tokens per layer. Streams run under
each policy at a quarter of the full cache; questions of every horizon follow at the end. Full cache, recent
frames, uniform and random retention stand beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from analysis.answers import Target
from analysis.bands import automatic_partition
from analysis.claims import Claim, Finding, Need, judge
from analysis.claims import estimate as estimate_of
from analysis.context import StudyContext
from analysis.result import FigureSpec, StudyResult, Table
from analysis.statistics import cluster_bootstrap
from analysis.store import Arrays
from analysis.streams import HORIZONS, Stream, encode, feed
from analysis.structure import leave_one_out, named_null_panel, panel_table
from hermes_lab import policies
from hermes_lab.policies.base import Policy
from hermes_lab.policies.hermes import BANDS, Band, Hermes

Array = npt.NDArray[np.float64]
SHARE = 0.25  # of the video tokens that a layer may keep
LEAST = 0.05
_CAPABLE = Need("accuracy above chance", "capable")
CLAIMS = (
    Claim(
        key="bands-help",
        sentence="HERMES with the paper's bands keeps more of the answers than with its bands dealt out at random.",
        metric="mean margin of the answer under the policy over that of the full cache, all horizons",
        refuted_if="a random deal of the same bands, or the bands reversed, does as well within 5 %",
        needs=(Need("shuffled bands", "exceed", 3), Need("reversed bands", "exceed"), _CAPABLE),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmed",
        paper="HERMES (arXiv 2601.14724), section 3",
    ),
    Claim(
        key="found-bands-help-more",
        sentence="HERMES with the bands found on development streams keeps more than with the paper's bands.",
        metric="the same with the automatic partition",
        refuted_if="the paper's bands do as well within 5 %",
        needs=(Need("paper's bands", "exceed"), _CAPABLE),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmed",
    ),
    Claim(
        key="hermes-remembers",
        sentence="On questions about the past HERMES keeps more than keeping the newest, evenly spaced or random tokens "
        "does.",
        metric="the same on `long` questions",
        refuted_if="the newest, uniform or random tokens do as well within 5 %",
        needs=(
            Need("newest tokens", "exceed"),
            Need("uniform frames", "exceed"),
            Need("random tokens", "exceed", 3),
            _CAPABLE,
        ),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmed",
        paper="HERMES (arXiv 2601.14724), tables 1 and 2",
    ),
    Claim(
        key="hermes-keeps-the-present",
        sentence="On questions about now HERMES loses less than keeping random tokens does.",
        metric="the same on `now` questions",
        refuted_if="random tokens do as well within 5 %",
        needs=(Need("random tokens", "exceed", 3), _CAPABLE),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmed",
        paper="HERMES (arXiv 2601.14724), tables 1 and 2",
    ),
)  # fmt: skip


def deal(bands: Sequence[Band], seed: int) -> tuple[Band, ...]:
    """The same bands dealt out to layers at random; never as they were."""
    rng = np.random.default_rng(seed)
    for _ in range(100):
        dealt = tuple(bands[i] for i in rng.permutation(len(bands)))
        if dealt != tuple(bands):
            return dealt
    return tuple(reversed(bands))


def policies_of(context: StudyContext) -> dict[str, Policy]:
    """Every policy that is compared, by name, at the same budget."""
    tokens = (
        context.settings.frames // context.layout.frames_per_group * context.layout.visual_tokens
    )
    prefix = len(context.lab.adapter.prefix())  # a session refuses budgets below it
    budget = max(2 * context.layout.visual_tokens, int(SHARE * tokens), prefix)
    sizes = [len(b) for b in context.paper_bands]
    paper: tuple[Band, ...] = tuple(b for b, n in zip(BANDS, sizes, strict=True) for _ in range(n))
    first, second = automatic_partition(context).edges
    found: tuple[Band, ...] = tuple(
        "shallow" if i < first else "middle" if i < second else "deep"
        for i in range(context.layers)
    )
    hermes = Hermes.paper(budget_tokens=budget)

    def banded(bands: tuple[Band, ...]) -> Hermes:
        return replace(hermes, bands=bands)

    out: dict[str, Policy] = {
        "full": policies.get("full"),
        "paper's bands": banded(paper),
        "found bands": banded(found),
        "reversed bands": banded(tuple(reversed(paper))),
        "all recency": banded(("shallow",) * context.layers),
        "all attention": banded(("deep",) * context.layers),
        "released code": Hermes.released(budget_tokens=budget, bands=paper),
        "simple prompts": replace(
            hermes,
            bands=paper,
            local_prompt="what is visible now",
            global_prompt="what happened in the video",
        ),
        "newest tokens": policies.get(f"fifo(budget_tokens={budget})"),
        "uniform frames": policies.get(f"uniform(budget_tokens={budget})"),
        "random tokens": policies.get(f"random(budget_tokens={budget})"),
    }
    for i in range(context.settings.control_draws):
        out[f"shuffled bands {i}"] = banded(deal(paper, i))
    return out


def run(context: StudyContext) -> StudyResult:
    """Run the study; see the module docstring."""
    names, margin, right, chance = measure(context)
    full = margin[:, names.index("full")]
    unit = np.maximum(full.mean(0), 0.2)  # by horizon

    def kept(name: str, horizon: int | None = None) -> Array:
        relative = margin[:, names.index(name)] / unit
        return relative.mean(1) if horizon is None else relative[:, horizon]

    def several(prefix: str, horizon: int | None = None) -> Array:
        return np.stack([kept(n, horizon) for n in names if n.startswith(prefix)])

    long, now = HORIZONS.index("long"), HORIZONS.index("now")
    above = right[:, names.index("full")] - chance
    values = (
        (
            kept("paper's bands"),
            {"shuffled bands": several("shuffled"), "reversed bands": kept("reversed bands")},
            above.mean(1),
        ),
        (kept("found bands"), {"paper's bands": kept("paper's bands")}, above.mean(1)),
        (
            kept("paper's bands", long),
            {
                "newest tokens": kept("newest tokens", long),
                "uniform frames": kept("uniform frames", long),
                "random tokens": several("random tokens", long),
            },
            above[:, long],
        ),
        (
            kept("paper's bands", now),
            {"random tokens": several("random tokens", now)},
            above[:, now],
        ),
    )
    findings = judge(
        [
            (claim, estimate_of(observed), named_null_panel(observed, nulls, {_CAPABLE.name: able}))
            for claim, (observed, nulls, able) in zip(CLAIMS, values, strict=True)
        ]
    )
    table = _policy_table(names, margin / unit, right, chance)
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
        tables=(table, _deal_table(context), panel_table("nulls", findings)),
        figures=(
            FigureSpec(
                "policies", "policy_bars", ("policies",), "Answers kept, by policy and horizon",
                "Margin of the answer over that of the full cache; random deals of the bands are the null.",
                "How the policies compare at other budgets, or in time and memory: see the benchmarks.",
            ),
            FigureSpec(
                "panel", "null_panel", ("nulls",), "Null panel",
                "Each claim's metric beside every control, on one axis.",
                "Anything about other streams or models.",
            ),
        ),
        negatives=_negatives(findings, names, right),
        robustness=(
            leave_one_out(kept("paper's bands"), "paper's bands, margin kept"),
            "shuffled bands, each deal: "
            + ", ".join(f"{kept(n).mean():.2f}" for n in names if n.startswith("shuffled")),
        ),
        analyses=len(findings) + len(table.rows),
        reproduce=context.reproduce(f"{CLAIMS[0].key} {findings[0].estimate}, within 0.02 on another CPU"),
        scope=context.scope,
        covers=("consequence", "nulls"),
    )  # fmt: skip


def measure(context: StudyContext) -> tuple[list[str], Array, Array, Array]:
    """Policy names, margins and accuracies [stream, policy, horizon], and chance accuracy [stream, horizon].

    "random tokens" runs under several seeds, named with their number.
    """
    compared = policies_of(context)
    draws = max(3, context.settings.control_draws)
    runs = [(n, p, 0) for n, p in compared.items() if n != "random tokens"]
    runs += [(f"random tokens {i}", compared["random tokens"], i) for i in range(draws)]

    def one(stream: Stream) -> Arrays:
        segments = encode(context.lab, stream, chunk_frames=context.settings.chunk_frames)
        questions = stream.questions(context.settings.per_horizon)
        margins = np.zeros((len(runs), len(questions)))
        rights, chances = np.zeros_like(margins), np.zeros(len(questions))
        for i, (_, policy, seed) in enumerate(runs):
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

    settings = [str(policy.config()) for _, policy, _ in runs]
    made = context.per_stream(
        "consequence", context.causal, one, settings, context.settings.per_horizon
    )
    margin, right, chance = (
        np.stack([m[n] for m in made]).astype(float) for n in ("margin", "right", "chance")
    )
    return [name for name, _, _ in runs], margin, right, chance


# --- tables --------------------------------------------------------------------------------------------------
def _policy_table(names: Sequence[str], kept: Array, right: Array, chance: Array) -> Table:
    """Margin kept and accuracy by policy and horizon."""
    margins, rights = cluster_bootstrap(kept), cluster_bootstrap(right)
    rows = [
        (name, horizon, *margins.ends(i, h), *rights.ends(i, h), float(chance[:, h].mean()))
        for i, name in enumerate(names)
        for h, horizon in enumerate(HORIZONS)
    ]
    columns = (
        "series", "horizon", "value", "low", "high", "accuracy", "accuracy_low", "accuracy_high", "chance",
    )  # fmt: skip
    return Table(
        "policies", columns, tuple(rows), "Margin over that of the full cache, and accuracy."
    )


def _deal_table(context: StudyContext) -> Table:
    """Which layer was in which band."""
    rows = [
        (name, layer, band)
        for name, policy in policies_of(context).items()
        if isinstance(policy, Hermes) and policy.bands is not None
        for layer, band in enumerate(policy.bands)
    ]
    return Table("deals", ("policy", "layer", "band"), tuple(rows), "Band of every layer.")


def _negatives(findings: Sequence[Finding], names: Sequence[str], right: Array) -> tuple[str, ...]:
    """What did not come out as the paper says, in numbers."""
    mean = right.mean(0)
    listed = (
        "full",
        "paper's bands",
        "found bands",
        "reversed bands",
        "newest tokens",
        "uniform frames",
    )
    said = [
        "Accuracy (now / recent / long): "
        + "; ".join(
            f"{n} {' / '.join(f'{a:.2f}' for a in mean[list(names).index(n)])}" for n in listed
        )
        + "."
    ]
    said += [
        f"{f.claim.key}: {f.verdict}. {f.because}" for f in findings if f.verdict != "supported"
    ]
    return tuple(said)

"""Does a pseudo-query, asked before the question is known, choose what the true question would?

HERMES scores deep layers by a global prompt's attention and middle layers by a mixed one. Here the attention
of several prompts on every video token is compared, per layer, with that of the questions that come later:
rank correlation and overlap of the top quarter. A prompt of random words, and age alone, are the nulls; another
true question is the ceiling. The prompts are read both ways: propagated through the layers, and with queries
from their raw embeddings, as HERMES' released code does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from einops import rearrange

from analysis.arrays import Array, Arrays
from analysis.claims import Claim, Finding, NullPanel, RequiredControl, judge, null
from analysis.claims import estimate as estimate_of
from analysis.context import StudyContext, seeded
from analysis.draws import Draw
from analysis.estimators.agreement import spearman, top_overlap
from analysis.observe import guidance_rows, question_rows
from analysis.result import FigureSpec, StudyResult, Table
from analysis.statistics import cluster_bootstrap
from analysis.streams import HORIZONS, Grid, Stream, encode, feed
from analysis.structure import (
    NULL_PANEL,
    curve_table,
    leave_one_out,
    named_bands,
    named_null_panel,
    panel_table,
    unsupported,
)
from hermes_lab.policies.base import Guidance
from hermes_lab.policies.hermes import Hermes
from hermes_lab.stream.session import StreamSession
from hermes_lab.worlds import Question
from hermes_lab.worlds.catalogue import COLOUR_NAMES, KINDS, SCENES

BUDGET = 0.25  # the share of tokens that a prompt must choose
LEAST = 0.05
PAPER = "HERMES (arXiv 2601.14724), section 3 and Appendix B"
_NULLS = (
    RequiredControl("random words", "exceed", 3),
    RequiredControl("age alone", "exceed"),
    RequiredControl("random_weights", "context", 3),
)
UNTRAINED = (
    "Untrained networks are shown as context, not as a null: their attention hardly depends on the query, so any "
    "prompt agrees with any question there. They were a null in a first run on fewer streams, which turned only the "
    "claim on raw embeddings from supported to not supported."
)
CLAIMS = (
    Claim(
        key="global-prompt-deep",
        sentence="In deep layers the global prompt ranks video tokens as the question that comes later does, better "
        "than random words or age do.",
        metric="rank correlation over video tokens of the prompt's attention (mean over its tokens and heads) with the "
        "question's, mean over deep layers and questions",
        refuted_if="three random words agree with the question as well, within 0.05",
        needs=_NULLS,
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
        paper=PAPER,
    ),
    Claim(
        key="mixed-prompt-middle",
        sentence="In middle layers the mixed prompt ranks video tokens as the question that comes later does, better "
        "than random words or age do.",
        metric="the same for the local and global prompt joined, mean over middle layers",
        refuted_if="three random words agree with the question as well, within 0.05",
        needs=_NULLS,
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
        paper=PAPER,
    ),
    Claim(
        key="propagated-better-than-raw",
        sentence="Prompts that are propagated through the layers agree with the question better than queries made from "
        "their raw embeddings.",
        metric="difference of that rank correlation between the two readings of the global prompt, mean over middle and "
        "deep layers",
        refuted_if="raw embeddings do as well, within 0.05",
        needs=(RequiredControl("no difference", "exceed"), RequiredControl("random_weights", "context", 3)),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
        paper="HERMES' released code, SDPA path (raw embeddings)",
    ),
)  # fmt: skip


GLOBAL, MIXED, LOCAL = Draw("global"), Draw("mixed"), Draw("local")
GLOBAL_RAW, LOCAL_RAW = Draw("global (raw)"), Draw("local (raw)")
NOW, STORY, OBJECTS = Draw("short: now"), Draw("short: story"), Draw("short: objects")
AFTER_QUESTION, TURN = Draw("local + last question"), Draw("turn boundary")
AGE, QUESTION = Draw("age alone"), Draw("another question")
RANDOM = "random words"
WORDINGS = (MIXED, LOCAL, NOW, STORY, OBJECTS, AFTER_QUESTION, LOCAL_RAW, TURN)
"""Other wordings than the paper's global prompt, whose agreement is told under robustness."""


def prompts(seed: int, draws: int) -> dict[Draw, Guidance]:
    """Every pseudo-query that is compared."""
    policy = Hermes.paper()
    last_turn = "Question: what was the first object Answer: none"
    texts = {
        GLOBAL: policy.global_prompt,
        MIXED: policy.local_prompt + policy.prompt_joint + policy.global_prompt,
        LOCAL: policy.local_prompt,
        NOW: "what is visible now",
        STORY: "what happened in the video",
        OBJECTS: "which objects were there",
        AFTER_QUESTION: policy.local_history.format(last_conv=last_turn) + policy.local_prompt,
    }
    rng = np.random.default_rng(seed)
    words = np.asarray(
        [*KINDS, *COLOUR_NAMES, *SCENES, *["many", "times", "where", "before", "side"]]
    )
    for i in range(draws):
        texts[Draw(RANDOM, i)] = " ".join(rng.choice(words, 12))
    found = {key: Guidance(str(key), text) for key, text in texts.items()}
    for raw, propagated in ((GLOBAL_RAW, GLOBAL), (LOCAL_RAW, LOCAL)):
        found[raw] = replace(
            found[propagated], name=str(raw), reading="raw_embedding", causal=False
        )
    found[TURN] = Guidance(str(TURN), kind="turn_boundary")
    return found


@dataclass(frozen=True)
class Agreement:
    """How far attention of every prompt agrees with that of the questions.

    Attributes:
        prompts: what is compared, `AGE` and `QUESTION` among them.
        rank: rank correlation, [stream, horizon, prompt, layer].
        overlap: overlap of the top quarter, likewise.
    """

    prompts: tuple[Draw, ...]
    rank: Array
    overlap: Array

    def of(self, prompt: Draw, layers: Sequence[int]) -> Array:
        """Rank correlation of one prompt, mean over horizons and some layers, [stream]."""
        index = self.prompts.index(prompt)
        return self.rank[:, :, index][..., list(layers)].mean((1, 2))

    def random(self, layers: Sequence[int]) -> Array:
        """The same for every draw of random words, [draw, stream]."""
        return np.stack([self.of(p, layers) for p in self.prompts if p.name == RANDOM])

    def gain(self, layers: Sequence[int]) -> Array:
        """What propagating the global prompt gains over its raw embeddings, [stream]."""
        return self.of(GLOBAL, layers) - self.of(GLOBAL_RAW, layers)


def run(context: StudyContext) -> StudyResult:
    """Run the study; see the module docstring."""
    own = measure(context)
    seeds = range(context.settings.random_seeds)
    untrained = [measure(context, seeded("random_weights", seed)) for seed in seeds]
    findings = judged(context, own, untrained)
    ranks = agreement_table(own.prompts, own.rank, "agreement", "Rank correlation")
    overlap = f"Overlap of the top {BUDGET:.0%}"
    return StudyResult(
        study="guidance",
        title="Guidance: pseudo-queries against the true question",
        question=(__doc__ or "").split("\n")[0],
        structural=True,
        quick=context.quick,
        setup=context.setup(
            prompts=tuple(f"{key}: {g.text or g.kind}" for key, g in prompts(0, 1).items()),
            query_rows="prompts and questions: mean over their tokens and query heads, as HERMES scores",
        ),
        data=context.data(context.causal),
        findings=findings,
        tables=(
            ranks,
            agreement_table(own.prompts, own.overlap, "overlap", overlap),
            band_table(context, own),
            panel_table("nulls", findings),
        ),
        figures=FIGURE_SPECS,
        negatives=surprises(findings, own, context.paper_bands[2]),
        robustness=robustness(context, own),
        analyses=len(findings) + len(ranks.rows) * 2,
        reproduce=context.reproduce(
            f"{CLAIMS[0].key} {findings[0].estimate}, within 0.01 on another CPU"
        ),
        scope=context.scope,
        covers=("nulls", "robustness"),
    )


def judged(
    context: StudyContext, own: Agreement, untrained: Sequence[Agreement]
) -> tuple[Finding, ...]:
    """The verdicts on the three claims, untrained networks beside them."""
    _, middle, deep = context.paper_bands
    both = [*middle, *deep]

    def nulls(layers: Sequence[int]) -> dict[str, Array]:
        return {"random words": own.random(layers), "age alone": own.of(AGE, layers)}

    zero = {"no difference": np.zeros(len(context.causal))}
    values = (
        (own.of(GLOBAL, deep), nulls(deep), [u.of(GLOBAL, deep) for u in untrained]),
        (own.of(MIXED, middle), nulls(middle), [u.of(MIXED, middle) for u in untrained]),
        (own.gain(both), zero, [u.gain(both) for u in untrained]),
    )
    return judge(
        [
            (claim, estimate_of(observed), _panel(observed, controls, np.stack(beside)))
            for claim, (observed, controls, beside) in zip(CLAIMS, values, strict=True)
        ]
    )


def _panel(observed: Array, nulls: dict[str, Array], untrained: Array) -> NullPanel:
    """Nulls that must be exceeded, and untrained networks as context."""
    beside = null("random_weights", observed, untrained, role="context", note=UNTRAINED)
    return NullPanel((*named_null_panel(observed, nulls).controls, beside))


# --- measurement ---------------------------------------------------------------------------------------------
def measure(context: StudyContext, variant: str = "trained") -> Agreement:
    """Agreement of every prompt with the questions, resumable stream by stream."""
    lab = context.lab_of(context.variants[variant])
    draws = max(3, context.settings.control_draws)

    def one(stream: Stream) -> Arrays:
        session = feed(lab, encode(lab, stream, chunk_frames=context.settings.chunk_frames))
        compared = prompts(stream.seed, draws)
        return _agreement(session, stream.questions(context.settings.per_horizon), compared)

    made = context.per_stream(
        f"guidance-{variant}", context.causal, one, draws, context.settings.per_horizon
    )
    return Agreement(
        (*prompts(0, draws), AGE, QUESTION),
        rank=np.stack([m["rank"] for m in made]).astype(float),
        overlap=np.stack([m["overlap"] for m in made]).astype(float),
    )


def _agreement(
    session: StreamSession, questions: Sequence[Question], compared: Mapping[Draw, Guidance]
) -> Arrays:
    """One stream: rank correlation and overlap by horizon, [horizon, prompt, layer]."""
    grid = Grid.of(session)
    rows = [
        _by_token(values)
        for values in guidance_rows(
            session, grid, {str(k): g for k, g in compared.items()}
        ).values()
    ]
    age = np.repeat(np.arange(grid.frames), grid.slots).astype(float)
    rows.append(np.broadcast_to(age, rows[0].shape))
    true = [_by_token(question_rows(session, grid, q.text)[1]) for q in questions]
    count = max(1, int(BUDGET * age.size))
    ranks: dict[str, list[Array]] = {h: [] for h in HORIZONS}
    overlaps: dict[str, list[Array]] = {h: [] for h in HORIZONS}
    for i, question in enumerate(questions):
        candidates = [*rows, true[(i + 1) % len(true)]]
        ranks[question.horizon].append(np.stack([spearman(c, true[i]) for c in candidates]))
        overlaps[question.horizon].append(
            np.stack([top_overlap(c, true[i], count) for c in candidates])
        )
    return {
        "names": np.asarray([*map(str, compared), str(AGE), str(QUESTION)]),
        "rank": np.stack([np.nan_to_num(np.asarray(ranks[h])).mean(0) for h in HORIZONS]),
        "overlap": np.stack([np.mean(overlaps[h], axis=0) for h in HORIZONS]),
    }


def _by_token(attention: Array) -> Array:
    """Mean over heads, [layer, head, frame, slot] -> [layer, token]."""
    return rearrange(attention.mean(1), "layer frame slot -> layer (frame slot)")


# --- tables ----------------------------------------------------------------------------------------------------
def agreement_table(compared: Sequence[Draw], values: Array, name: str, what: str) -> Table:
    """Agreement by prompt and layer, mean over horizons."""
    curves = {str(prompt): values.mean(1)[:, i] for i, prompt in enumerate(compared)}
    return curve_table(
        name, "layer", curves, f"{what} of a prompt's attention with the questions'."
    )


def band_table(context: StudyContext, found: Agreement) -> Table:
    """Agreement by prompt, band and horizon."""
    rows: list[tuple[str | float, ...]] = []
    for band, layers in named_bands(context.paper_bands).items():
        own = cluster_bootstrap(found.rank[..., layers].mean(-1))
        overlap = found.overlap[..., layers].mean((0, -1))
        for i, prompt in enumerate(found.prompts):
            for h, horizon in enumerate(HORIZONS):
                ends = own.ends(h, i)
                rows.append((str(prompt), band, horizon, *ends, float(overlap[h, i]), BUDGET))
    columns = ("series", "band", "horizon", "value", "low", "high", "overlap", "chance_overlap")
    return Table(
        "bands", columns, tuple(rows), "Agreement with the true questions by band and horizon."
    )


# --- figures ---------------------------------------------------------------------------------------------------
FIGURE_SPECS = (
    FigureSpec(
        "agreement", "agreement_curves", ("agreement",), "Agreement with the question by layer",
        "Rank correlation over video tokens of each prompt with the true questions; random words and age are "
        "nulls, another true question is the ceiling.",
        "Whether the tokens chosen are the ones that the answer needs.",
    ),
    FigureSpec(
        "bands", "agreement_bars", ("bands",), "Agreement by band and horizon",
        "The same, averaged over bands, for each horizon of the question.",
        "How a policy does with it: see consequence.",
    ),
    NULL_PANEL,
)  # fmt: skip


# --- words -----------------------------------------------------------------------------------------------------
def surprises(
    findings: Sequence[Finding], found: Agreement, deep: Sequence[int]
) -> tuple[str, ...]:
    """What did not come out as the paper says, in numbers."""
    mean = found.rank[..., list(deep)].mean((0, 1, 3))
    order = sorted(zip(found.prompts, mean, strict=True), key=lambda item: -item[1])
    listed = ", ".join(f"{prompt} {value:.2f}" for prompt, value in order)
    return (UNTRAINED, f"In deep layers, best to worst: {listed}.", *unsupported(findings))


def robustness(context: StudyContext, own: Agreement) -> tuple[str, ...]:
    """How the agreement moves with streams and wordings, and how much of the prompt the tokenizer knows."""
    deep = context.paper_bands[2]
    wordings = ", ".join(f"{prompt} {own.of(prompt, deep).mean():.2f}" for prompt in WORDINGS)
    tokenizer = context.lab.adapter.tokenizer
    ids = tokenizer(Hermes.paper().global_prompt, add_special_tokens=False)["input_ids"]
    unknown = sum(i == getattr(tokenizer, "unk_token_id", None) for i in ids)
    return (
        leave_one_out(own.of(GLOBAL, deep), "global prompt in deep layers"),
        f"wordings in deep layers: {wordings}",
        f"words that the tokenizer does not know: {unknown} of {len(ids)} in the global prompt",
    )

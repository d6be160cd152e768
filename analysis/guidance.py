"""Does a pseudo-query, asked before the question is known, choose what the true question would?

HERMES scores deep layers by a global prompt's attention and middle layers by a mixed one. Here the attention
of several prompts on every video token is compared, per layer, with that of the questions that come later:
rank correlation and overlap of the top quarter. A prompt of random words, and age alone, are the nulls; another
true question is the ceiling. The prompts are read both ways: propagated through the layers, and with queries
from their raw embeddings, as HERMES' released code does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.claims import Claim, Finding, Need, NullPanel, judge, null
from analysis.claims import estimate as estimate_of
from analysis.context import StudyContext
from analysis.estimators.agreement import spearman, top_overlap
from analysis.observe import guidance_rows, question_rows
from analysis.result import FigureSpec, StudyResult, Table
from analysis.statistics import cluster_bootstrap
from analysis.store import Arrays
from analysis.streams import HORIZONS, Grid, Stream, encode, feed
from analysis.structure import (
    curve_table,
    leave_one_out,
    named_null_panel,
    panel_first,
    panel_table,
)
from hermes_lab.policies.base import Guidance
from hermes_lab.policies.hermes import Hermes
from hermes_lab.stream.session import StreamSession
from hermes_lab.worlds.catalogue import COLOUR_NAMES, KINDS, SCENES

Array = npt.NDArray[np.float64]
BUDGET = 0.25  # the share of tokens that a prompt must choose
LEAST = 0.05
PAPER = "HERMES (arXiv 2601.14724), section 3 and Appendix B"
_NULLS = (
    Need("random words", "exceed", 3),
    Need("age alone", "exceed"),
    Need("random_weights", "context", 3),
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
        status="confirmed",
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
        status="confirmed",
        paper=PAPER,
    ),
    Claim(
        key="propagated-better-than-raw",
        sentence="Prompts that are propagated through the layers agree with the question better than queries made from "
        "their raw embeddings.",
        metric="difference of that rank correlation between the two readings of the global prompt, mean over middle and "
        "deep layers",
        refuted_if="raw embeddings do as well, within 0.05",
        needs=(Need("no difference", "exceed"), Need("random_weights", "context", 3)),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmed",
        paper="HERMES' released code, SDPA path (raw embeddings)",
    ),
)  # fmt: skip


def prompts(session: StreamSession, seed: int, draws: int) -> dict[str, Guidance]:
    """Every pseudo-query that is compared, by name."""
    policy = Hermes.paper()
    texts = {
        "global": policy.global_prompt,
        "mixed": policy.local_prompt + policy.prompt_joint + policy.global_prompt,
        "local": policy.local_prompt,
        "short: now": "what is visible now",
        "short: story": "what happened in the video",
        "short: objects": "which objects were there",
        "local + last question": policy.local_history.format(
            last_conv="Question: what was the first object Answer: none"
        )
        + policy.local_prompt,
    }
    rng = np.random.default_rng(seed)
    words = np.asarray(
        [*KINDS, *COLOUR_NAMES, *SCENES, *["many", "times", "where", "before", "side"]]
    )
    for i in range(draws):
        texts[f"random words {i}"] = " ".join(rng.choice(words, 12))
    found = {name: Guidance(name, text) for name, text in texts.items()}
    for name in ("global", "local"):
        raw = f"{name} (raw)"
        found[raw] = replace(found[name], name=raw, reading="raw_embedding", causal=False)
    found["turn boundary"] = Guidance("turn boundary", kind="turn_boundary")
    return found


def run(context: StudyContext) -> StudyResult:
    """Run the study; see the module docstring."""
    own = measure(context)
    random = [measure(context, f"random_weights-{i}") for i in range(context.settings.random_seeds)]
    _, middle, deep = (list(b) for b in context.paper_bands)

    def agreement(found: dict[str, Any], name: str, layers: Sequence[int]) -> Array:
        index = list(found["names"]).index(name)
        return found["rank"][:, :, index][..., list(layers)].mean((1, 2))

    words = [n for n in own["names"] if n.startswith("random words")]
    both = [*middle, *deep]

    def gain(found: dict[str, Any]) -> Array:
        return agreement(found, "global", both) - agreement(found, "global (raw)", both)

    def nulls(layers: Sequence[int]) -> dict[str, Array]:
        return {
            "random words": np.stack([agreement(own, w, layers) for w in words]),
            "age alone": agreement(own, "age alone", layers),
        }

    def untrained(name: str, layers: Sequence[int]) -> Array:
        return np.stack([agreement(r, name, layers) for r in random])

    values = (
        (agreement(own, "global", deep), nulls(deep), untrained("global", deep)),
        (agreement(own, "mixed", middle), nulls(middle), untrained("mixed", middle)),
        (
            gain(own),
            {"no difference": np.zeros(len(context.causal))},
            np.stack([gain(r) for r in random]),
        ),
    )
    findings = judge(
        [
            (claim, estimate_of(observed), _panel(observed, controls, beside))
            for claim, (observed, controls, beside) in zip(CLAIMS, values, strict=True)
        ]
    )
    table = _agreement_table(own, "agreement", "rank")
    return StudyResult(
        study="guidance",
        title="Guidance: pseudo-queries against the true question",
        question=(__doc__ or "").split("\n")[0],
        structural=True,
        quick=context.quick,
        setup=context.setup(
            prompts=tuple(
                f"{n}: {g.text or g.kind}" for n, g in prompts(_any(context), 0, 1).items()
            ),
            query_rows="prompts and questions: mean over their tokens and query heads, as HERMES scores",
        ),
        data=context.data(context.causal),
        findings=findings,
        tables=(
            table,
            _agreement_table(own, "overlap", "overlap"),
            _band_table(context, own),
            panel_table("nulls", findings),
        ),
        figures=(
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
            FigureSpec(
                "panel", "null_panel", ("nulls",), "Null panel",
                "Each claim's metric beside every control, on one axis.",
                "Anything about other streams or models.",
            ),
        ),
        negatives=_negatives(findings, own, deep),
        robustness=(
            leave_one_out(values[0][0], "global prompt in deep layers"),
            "wordings in deep layers: "
            + ", ".join(
                f"{name} {agreement(own, name, deep).mean():.2f}"
                for name in own["names"]
                if name.startswith(("short", "local", "mixed", "turn"))
            ),
            "words that the tokenizer does not know: "
            + _unknown(context, Hermes.paper().global_prompt),
        ),
        analyses=len(findings) + len(table.rows) * 2,
        reproduce=context.reproduce(f"{CLAIMS[0].key} {findings[0].estimate}, within 0.01 on another CPU"),
        scope=context.scope,
        covers=("nulls", "robustness"),
    )  # fmt: skip


def _panel(observed: Array, nulls: dict[str, Array], untrained: Array) -> NullPanel:
    """Nulls that must be exceeded, and untrained networks as context."""
    beside = null("random_weights", observed, untrained, role="context", note=UNTRAINED)
    return NullPanel((*named_null_panel(observed, nulls).controls, beside))


# --- measurement ---------------------------------------------------------------------------------------------
def measure(context: StudyContext, variant: str = "trained") -> dict[str, Any]:
    """Agreement of every prompt with the questions: "names" [prompt], "rank" and "overlap" [stream, horizon,
    prompt, layer]; among the prompts are "age alone" and "another question"."""
    lab = context.lab_of(context.variants[variant])
    draws = max(3, context.settings.control_draws)

    def one(stream: Stream) -> Arrays:
        session = feed(lab, encode(lab, stream, chunk_frames=context.settings.chunk_frames))
        grid = Grid.of(session)
        rows = {
            name: values.mean(1).reshape(values.shape[0], -1)
            for name, values in guidance_rows(
                session, grid, prompts(session, stream.seed, draws)
            ).items()
        }
        layers = len(next(iter(rows.values())))
        age = np.repeat(np.arange(grid.frames), grid.slots).astype(float)
        rows["age alone"] = np.broadcast_to(age, (layers, age.size))
        questions = stream.questions(context.settings.per_horizon)
        true: list[Array] = []
        for q in questions:
            _, mean, _ = question_rows(session, grid, q.text)
            true.append(mean.mean(1).reshape(layers, -1))
        count = max(1, int(BUDGET * age.size))
        ranks: dict[str, list[Array]] = {h: [] for h in HORIZONS}
        overlaps: dict[str, list[Array]] = {h: [] for h in HORIZONS}
        for i, question in enumerate(questions):
            candidates = [*rows.values(), true[(i + 1) % len(true)]]
            ranks[question.horizon].append(np.stack([spearman(c, true[i]) for c in candidates]))
            overlaps[question.horizon].append(
                np.stack([top_overlap(c, true[i], count) for c in candidates])
            )
        return {
            "names": np.asarray([*rows, "another question"]),
            "rank": np.stack([np.nan_to_num(np.asarray(ranks[h])).mean(0) for h in HORIZONS]),
            "overlap": np.stack([np.mean(overlaps[h], axis=0) for h in HORIZONS]),
        }

    made = context.per_stream(
        f"guidance-{variant}", context.causal, one, draws, context.settings.per_horizon
    )
    return {
        "names": [str(n) for n in made[0]["names"]],
        "rank": np.stack([m["rank"] for m in made]).astype(float),
        "overlap": np.stack([m["overlap"] for m in made]).astype(float),
    }


def _any(context: StudyContext) -> StreamSession:
    return StreamSession(context.lab, "full")


def _unknown(context: StudyContext, text: str) -> str:
    """How many tokens of a text are the tokenizer's unknown token."""
    tokenizer = context.lab.adapter.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    unknown = getattr(tokenizer, "unk_token_id", None)
    return f"{sum(i == unknown for i in ids)} of {len(ids)} in the global prompt"


# --- tables ----------------------------------------------------------------------------------------------------
def _agreement_table(found: dict[str, Any], name: str, key: str) -> Table:
    """Agreement by prompt and layer, mean over horizons."""
    curves = {prompt: found[key].mean(1)[:, i] for i, prompt in enumerate(found["names"])}
    what = "Rank correlation" if key == "rank" else f"Overlap of the top {BUDGET:.0%}"
    return curve_table(
        name, "layer", curves, f"{what} of a prompt's attention with the questions'."
    )


def _band_table(context: StudyContext, found: dict[str, Any]) -> Table:
    """Agreement by prompt, band and horizon."""
    rows: list[tuple[Any, ...]] = []
    for band, layers in panel_first(context.paper_bands).items():
        own = cluster_bootstrap(found["rank"][..., layers].mean(-1))
        overlap = found["overlap"][..., layers].mean((0, -1))
        for i, prompt in enumerate(found["names"]):
            for h, horizon in enumerate(HORIZONS):
                rows.append((prompt, band, horizon, *own.ends(h, i), float(overlap[h, i]), BUDGET))
    columns = ("series", "band", "horizon", "value", "low", "high", "overlap", "chance_overlap")
    return Table(
        "bands", columns, tuple(rows), "Agreement with the true questions by band and horizon."
    )


def _negatives(
    findings: Sequence[Finding], found: dict[str, Any], deep: Sequence[int]
) -> tuple[str, ...]:
    """What did not come out as the paper says, in numbers."""
    mean = found["rank"][..., list(deep)].mean((0, 1, 3))
    order = sorted(zip(found["names"], mean, strict=True), key=lambda item: -item[1])
    said = [
        UNTRAINED,
        "In deep layers, best to worst: " + ", ".join(f"{n} {v:.2f}" for n, v in order) + ".",
    ]
    said += [
        f"{f.claim.key}: {f.verdict}. {f.because}" for f in findings if f.verdict != "supported"
    ]
    return tuple(said)

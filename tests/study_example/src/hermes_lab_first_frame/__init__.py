"""Do deep layers go back to the first frame more than to an average one, and more than an untrained network does?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from analysis.claims import Claim, ControlRole, RequiredControl, judge
from analysis.context import StudyContext, layer_mean
from analysis.result import FigureSpec, StudyResult, Table
from analysis.structure import depth_table, leave_one_out, panel, panel_table, top_heads
from hermes_lab.figures.study_parts import Columns, add_reference, rows_of, unique
from hermes_lab.figures.theme import styled

Array = npt.NDArray[np.float64]

# --- before looking: the claim, what would refute it, and the nulls that it must exceed ------------------
NULLS: dict[str, ControlRole] = {"uniform": "exceed", "random_weights": "exceed"}
CLAIM = Claim(
    key="first-frame-deep",
    sentence="Deep layers (the last 30 %) attend to the first frame more than to an average frame.",
    metric="share of the first frame over its uniform share, question's last token, mean over heads",
    refuted_if="the excess over uniform or any random network is below a quarter of the uniform share",
    needs=(RequiredControl("uniform", "exceed"), RequiredControl("random_weights", "exceed", 3)),
    reference=1.0,
    smallest_effect=0.25,
    status="confirmatory",
)


def run(context: StudyContext) -> StudyResult:
    """Run the study; see the module docstring."""

    def share(name: str) -> Array:
        """Share of the oldest frame over uniform under a variant, [stream, layer, head]."""
        return context.observe(name).question("profile")[..., -1]

    def deep(name: str) -> Array:
        return layer_mean(share(name), context.paper_bands[2])

    findings = judge([(CLAIM, *panel(context, deep, NULLS, CLAIM.reference))])
    tried = context.observe("trained", "development").question("profile")[..., -1]
    heads = _heads(share("trained"))
    return StudyResult(
        study="first_frame",
        title="The first frame",
        question=(__doc__ or "").split("\n")[0],
        structural=True,
        quick=context.quick,
        setup=context.setup(
            prompts=("questions of the worlds",), query_rows="question's last token"
        ),
        data=context.data(),
        findings=findings,
        tables=(
            heads,
            depth_table(
                "depth",
                {name: share(name) for name in ("trained", "random_weights-0")},
                "Share of the first frame over uniform by layer, mean over heads.",
            ),
            panel_table("nulls", findings),
        ),
        figures=(
            FigureSpec(
                "heads",
                "first_frame_heads",  # a function of this package, see FIGURES
                ("heads",),
                "The first frame by head",
                "Share of the first frame over its uniform share, a point for each head.",
                "Why a head attends there: the first position draws attention whatever is shown.",
            ),
            FigureSpec(
                "depth",
                "depth_curves",  # one of hermes_lab.figures.studies
                ("depth",),
                "The first frame by layer",
                "Mean over heads beside a random network.",
                "Which heads carry it.",
                {"reference": 1.0, "y": "share vs uniform"},
            ),
        ),
        negatives=(
            f"{CLAIM.key}: {findings[0].verdict}. {findings[0].because}",
            f"{sum(v < 1 for v in heads.column('value'))} of {len(heads.rows)} heads look at the first frame "
            "less than at an average one.",
        ),
        robustness=(
            leave_one_out(deep("trained"), "deep layers"),
            top_heads(share("trained"), "first frame"),
            f"development streams: {layer_mean(tried, context.paper_bands[2]).mean():.3g}",
        ),
        analyses=len(findings) + len(heads.rows),
        reproduce=context.reproduce(f"{CLAIM.key} {findings[0].estimate}, within 1 %"),
        scope=context.scope,
        covers=("per_head", "nulls"),
    )


def _heads(share: Array) -> Table:
    """Mean over streams of every head."""
    rows = [(layer, head, float(value)) for (layer, head), value in np.ndenumerate(share.mean(0))]
    return Table(
        "heads", ("layer", "head", "value"), tuple(rows), "Share of the first frame over uniform."
    )


# --- a figure of the study's own: columns of its tables in, a plotly figure with its null out --------------
def heads_by_layer(columns: Columns) -> go.Figure:
    """Every head as a point over its layer, and the line of no effect."""
    rows = rows_of(columns)
    figure = go.Figure()
    figure.add_scatter(
        x=[row["layer"] for row in rows],
        y=[row["value"] for row in rows],
        text=[f"head {row['head']}" for row in rows],
        mode="markers",
        name="heads",
    )
    add_reference(figure, unique(rows, "layer"), 1.0, "uniform")
    return styled(figure, x="layer", y="share vs uniform", height=320)


FIGURES = {"first_frame_heads": heads_by_layer}

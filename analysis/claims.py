"""A claim, its estimate, the controls it must survive, and the verdict that code - not a person - draws.

Every metric is oriented so that larger speaks for the claim. Controls have one of four roles. "exceed": a
null; the effect must be larger than there, within streams. "persist": a changed setting in which a real
effect must still be there. "capable": something that must be above 0 for the question to make sense, such as
the model's answers depending on the video at all; if it is not, nothing can be told. "context": shown beside
the estimate, without a say in the verdict. A claim names the controls it needs; without them there is no
verdict at all, only an error.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from analysis.statistics import (
    DRAWS,
    Intervals,
    cluster_bootstrap,
    holm,
    paired_difference,
    sign_flip_test,
)
from hermes_lab.errors import LabError

ALPHA = 0.05
RANDOM_SEEDS = 3
"""Random networks that a random-weights null needs at the least."""


class ControlsMissing(LabError):
    """A verdict was asked for before its controls were run."""


class Verdict(StrEnum):
    """What the data say about a claim."""

    SUPPORTED = "supported"
    NOT_SUPPORTED = "not supported"
    CANNOT_TELL = "cannot tell"


ControlRole = Literal["exceed", "persist", "capable", "context"]
Status = Literal["exploratory", "confirmatory", "confirmed"]


@dataclass(frozen=True)
class RequiredControl:
    """A control that a claim cannot do without.

    Attributes:
        name: as in `Control.name`.
        role: what the claim needs it for.
        replicates: independent versions needed (seeds of random weights).
    """

    name: str
    role: ControlRole
    replicates: int = 1


@dataclass(frozen=True)
class Claim:
    """One falsifiable sentence.

    Attributes:
        key: short name, unique in a report.
        sentence: the claim.
        metric: how its number is computed.
        refuted_if: what would count against it.
        needs: controls without which there is no verdict.
        reference: value of the metric if there were no effect (1 for a share over uniform, 0 for a difference).
        smallest_effect: the least excess over a null that would matter, fixed before looking.
        status: "exploratory", or "confirmatory" where all choices were made on other streams ("confirmed" is the word of
            older studies and reports for it).
        paper: where the original claim stands, if there is one.
    """

    key: str
    sentence: str
    metric: str
    refuted_if: str
    needs: tuple[RequiredControl, ...]
    reference: float
    smallest_effect: float
    status: Status = "exploratory"
    paper: str = ""

    def __post_init__(self) -> None:
        if self.status == "confirmed":  # which sounds like a verdict
            object.__setattr__(self, "status", "confirmatory")
        if self.status not in ("exploratory", "confirmatory"):
            raise LabError(
                f"Claim {self.key!r} has the status {self.status!r}; it must be 'exploratory' or 'confirmatory'."
            )
        for field in ("key", "sentence", "metric", "refuted_if"):
            if not getattr(self, field).strip():
                raise LabError(f"A claim needs its {field}; an empty one cannot be refuted.")
        if not any(need.role == "exceed" for need in self.needs):
            raise LabError(
                f"Claim {self.key!r} names no null that it must exceed; name at least one."
            )
        if self.smallest_effect <= 0:
            raise LabError(f"Claim {self.key!r} needs a smallest effect above 0.")


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval over streams."""

    value: float
    low: float
    high: float
    n_streams: int

    @classmethod
    def of(cls, intervals: Intervals) -> Estimate:
        """One scalar estimate out of `Intervals`."""
        return cls(
            float(intervals.value), float(intervals.low), float(intervals.high), intervals.n_streams
        )

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Control:
    """The metric under one control, and the observed excess over it.

    Attributes:
        name, role: see `RequiredControl`.
        estimate: the metric under the control.
        difference: observed minus control within streams; None for a changed setting on other streams.
        p: one-sided sign-flip p of that difference (persist: of the estimate over the reference; capable:
            over 0).
        replicates: versions that were run; the numbers are those of the strongest.
        note: what was done.
    """

    name: str
    role: ControlRole
    estimate: Estimate
    difference: Estimate | None
    p: float
    replicates: int = 1
    note: str = ""


@dataclass(frozen=True)
class NullPanel:
    """All controls of one claim."""

    controls: tuple[Control, ...]

    def get(self, name: str) -> Control | None:
        """The control of that name."""
        return next((c for c in self.controls if c.name == name), None)

    @property
    def strongest(self) -> Control | None:
        """The null that leaves the least excess."""
        nulls = [
            (c.difference.value, i)
            for i, c in enumerate(self.controls)
            if c.role == "exceed" and c.difference is not None
        ]
        return self.controls[min(nulls)[1]] if nulls else None


@dataclass(frozen=True)
class Finding:
    """A claim with its numbers and its verdict.

    Attributes:
        p: largest p over the nulls (all must be exceeded), Holm-corrected over the claims of the study.
        because: the verdict's reason in one sentence with its numbers.
    """

    claim: Claim
    estimate: Estimate
    panel: NullPanel
    verdict: Verdict
    p: float
    because: str


# --- building a panel --------------------------------------------------------------------------
def estimate(values: npt.ArrayLike, *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """Estimate of a metric from its values per stream."""
    return Estimate.of(cluster_bootstrap(np.asarray(values, float), seed=seed, draws=draws))


def null(
    name: str,
    observed: npt.ArrayLike,
    control: npt.ArrayLike,
    *,
    role: ControlRole = "exceed",
    note: str = "",
    seed: int = 0,
) -> Control:
    """A control measured on the same streams: `control` is [stream] or [replicate, stream].

    Of several replicates the one that comes nearest to the observation counts.
    """
    observed = np.asarray(observed, dtype=float)
    versions = np.atleast_2d(np.asarray(control, dtype=float))
    versions = np.broadcast_to(versions, (len(versions), len(observed)))
    known = np.isfinite(versions)
    sums, count = np.where(known, versions, 0).sum(1), known.sum(1)
    strongest = versions[np.where(count > 0, sums / np.maximum(count, 1), -np.inf).argmax()]
    return Control(
        name=name,
        role=role,
        estimate=estimate(strongest, seed=seed),
        difference=Estimate.of(paired_difference(observed, strongest, seed=seed)),
        p=float(sign_flip_test(observed - strongest, seed=seed).p),
        replicates=len(versions),
        note=note,
    )


def persistence(
    name: str, values: npt.ArrayLike, reference: float, *, note: str = "", seed: int = 0
) -> Control:
    """A changed setting, [stream], in which the effect must still be above the claim's reference."""
    values = np.asarray(values, dtype=float)
    p = float(sign_flip_test(values - reference, seed=seed).p)
    return Control(name, "persist", estimate(values, seed=seed), None, p, note=note)


def capability(name: str, values: npt.ArrayLike, *, note: str = "", seed: int = 0) -> Control:
    """Something, [stream], that must be above 0 for the claim's question to make sense."""
    values = np.asarray(values, dtype=float)
    p = float(sign_flip_test(values, seed=seed).p)
    return Control(name, "capable", estimate(values, seed=seed), None, p, note=note)


# --- the verdict -------------------------------------------------------------------------------
def missing_controls(claim: Claim, panel: NullPanel) -> list[str]:
    """What a claim needs and its panel lacks, in words."""
    lacks: list[str] = []
    for need in claim.needs:
        control = panel.get(need.name)
        if control is None or not math.isfinite(control.estimate.value):
            lacks.append(need.name)
        elif control.role != need.role:
            lacks.append(f"{need.name} as a control to {need.role}")
        elif control.replicates < need.replicates:
            lacks.append(f"{need.name} ({control.replicates} of {need.replicates} versions)")
    return lacks


def judge(claims: Sequence[tuple[Claim, Estimate, NullPanel]]) -> tuple[Finding, ...]:
    """Verdicts on the claims of one study, their p-values corrected together.

    Raises:
        ControlsMissing: a claim's controls were not run.
    """
    for claim, _, panel in claims:
        lacks = missing_controls(claim, panel)
        if lacks:
            raise ControlsMissing(
                f"No verdict on {claim.key!r}: its controls were not run ({', '.join(lacks)})."
            )
    largest = [
        max((c.p for c in panel.controls if c.role == "exceed"), default=1.0)
        for _, _, panel in claims
    ]
    corrected = holm([p if math.isfinite(p) else 1.0 for p in largest])
    return tuple(
        _rule(claim, value, panel, float(p))
        for (claim, value, panel), p in zip(claims, corrected, strict=True)
    )


def _rule(claim: Claim, value: Estimate, panel: NullPanel, p: float) -> Finding:
    """The verdict on one claim, with its reason."""
    least = claim.smallest_effect
    strongest = panel.strongest
    assert (
        strongest is not None and strongest.difference is not None
    )  # `missing_controls` saw to it
    excess = strongest.difference

    def finding(verdict: Verdict, because: str) -> Finding:
        return Finding(claim, value, panel, verdict, p, because)

    if not value.known or not excess.known:
        return finding(
            Verdict.CANNOT_TELL, f"Only {value.n_streams} streams: there is no interval."
        )
    for control in panel.controls:
        if control.role == "capable" and not (control.estimate.low > 0 and control.p < ALPHA):
            return finding(
                Verdict.CANNOT_TELL,
                f"This model cannot be asked the question: {control.name} is {control.estimate}.",
            )
    against = f"excess over the strongest null ({strongest.name}) is {excess}"
    if excess.high < least:
        return finding(
            Verdict.NOT_SUPPORTED, f"The {against}, below the smallest effect {least:g}."
        )
    for control in panel.controls:
        if control.role != "persist" or not control.estimate.known:
            continue
        if control.estimate.high < claim.reference + least:
            return finding(
                Verdict.NOT_SUPPORTED,
                f"The effect is gone under {control.name}: {control.estimate} there, "
                f"against {value} (no effect: {claim.reference:g}).",
            )
    nulls = [c for c in panel.controls if c.role == "exceed"]
    clear = all(c.difference is not None and c.difference.low > 0 for c in nulls) and p < ALPHA
    persists = all(
        c.estimate.low > claim.reference and c.p < ALPHA
        for c in panel.controls
        if c.role == "persist"
    )
    if clear and persists and excess.value >= least:
        return finding(Verdict.SUPPORTED, f"The {against}, corrected p = {p:.2g}.")
    doubts = [
        (not clear, f"the {against}, corrected p = {p:.2g}"),
        (excess.value < least, f"it is smaller than {least:g}, the smallest effect that counts"),
        (not persists, "it is not clearly there in every setting where it should persist"),
    ]
    said = "; ".join(text for holds, text in doubts if holds)
    return finding(Verdict.CANNOT_TELL, said[0].upper() + said[1:] + ".")


def confirmatory(claim: Claim) -> Claim:
    """The same claim, marked as tested on streams that no choice was made on."""
    return replace(claim, status="confirmatory")


# --- names of before -----------------------------------------------------------------------------
_RENAMED = {"Need": "RequiredControl", "Role": "ControlRole", "confirmed": "confirmatory"}


def __getattr__(name: str) -> Any:
    """What studies written for earlier versions import; each is there under one clear name now."""
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"analysis.claims.{name} is called {_RENAMED[name]} now; import that name.",
        DeprecationWarning,
        stacklevel=2,
    )
    return globals()[_RENAMED[name]]

"""A retention policy in a package of its own: keep the keys of ordinary length."""

from __future__ import annotations

from dataclasses import dataclass

from hermes_lab.policies.base import LayerView, Need, Policy, Scores, setting


@dataclass(frozen=True, kw_only=True)
class MedianNorm(Policy):
    """Keep the tokens whose key norm is nearest to a quantile of the layer's norms: s_j = -|‖k_j‖ - q|."""

    quantile: float = setting(0.5, "Which norm counts as ordinary.", minimum=0.0, maximum=1.0)

    name = "median_norm"
    title = "key norms near the median"
    source = "example"
    licence = "Apache-2.0"
    needs = frozenset({Need.KEYS})
    per_head = True

    def score(self, view: LayerView) -> Scores:
        """Minus the distance of each norm from the quantile; one row for each token set of the layer."""
        assert view.keys is not None  # declared in `needs`
        norm = view.keys.float().norm(dim=-1).unflatten(0, (view.ids.shape[0], -1)).mean(1)
        distance = (norm - norm.quantile(self.quantile, dim=-1, keepdim=True)).abs()
        return Scores(-distance, {"norm": norm})

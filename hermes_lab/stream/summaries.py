"""Attention reduced at capture: mass by frame and role, entropy, sinks, age - never a dense dump."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.engine.batches import batches
from hermes_lab.engine.cache import LayerState
from hermes_lab.errors import LabError
from hermes_lab.snapshot import AttentionSummary, FloatArray, IntArray
from hermes_lab.tokens import Role, TokenTable


def rows_wanted(level: str, named: Sequence[int] | None, layers: int) -> tuple[int, ...]:
    """Layers whose full rows are kept: at level "rows" the named ones, None meaning all.

    Raises:
        LabError: the model has no such layer.
    """
    if named is not None and not set(named) <= set(range(layers)):
        raise LabError(
            f"record_rows names layers {sorted(named)}, but the model has layers 0 to {layers - 1}."
        )
    if level != "rows":
        return ()
    return tuple(range(layers) if named is None else named)


class Summarizer:
    """Collects one group of query rows over all layers."""

    def __init__(
        self,
        group: str,
        states: Callable[[int], LayerState],
        table: TokenTable,
        layers: int,
        query_heads: int,
        frames: int,
        now_s: float,
        keep_rows: Sequence[int] = (),
    ) -> None:
        self._group, self._states, self._table = group, states, table
        self._now_s = now_s
        self._keep_rows = frozenset(keep_rows)
        self._layers, self._heads, self._frames = layers, query_heads, max(frames, 1)
        self._mass: dict[int, Tensor] = {}
        self._entropy: dict[int, Tensor] = {}
        self._ids: dict[int, Tensor] = {}
        self._visible = np.zeros(layers, np.int64)
        self._rows: dict[int, FloatArray] = {}

    def add(self, layer: int, rows: Float[Tensor, "query_head row token"]) -> None:
        """Take one layer's rows; columns beyond the cached tokens are the queries' own tokens (role TEXT).

        What is kept stays on the device until `summary`: one transfer for all layers.
        """
        ids = self._states(layer).ids
        rows = rows.float()
        self._mass[layer] = rows.mean(1)
        self._entropy[layer] = _entropy(rows)
        self._ids[layer] = ids[:, : rows.shape[-1]]
        self._visible[layer] = rows.shape[-1]
        if layer in self._keep_rows:
            self._rows[layer] = rows[..., : ids.shape[1]].cpu().numpy()

    def summary(self) -> AttentionSummary:
        """What was collected; layers where nothing was read have `visible` 0."""
        shape = (self._layers, self._heads)
        frame_mass = np.zeros((*shape, self._frames), np.float32)
        role_mass = np.zeros((*shape, len(Role)), np.float32)
        entropy, sink, age = (np.full(shape, np.nan, np.float32) for _ in range(3))
        known = sorted(self._ids)
        shapes = ((self._mass[n].shape, self._ids[n].shape) for n in known)
        for group in batches(shapes):  # layers of one length are reduced together
            layers = [known[place] for place in group]
            where = np.array(layers)
            # [layer, token set, query head of the set, token]
            ids = torch.stack([self._ids[n] for n in layers]).cpu()
            mass = torch.stack([self._mass[n] for n in layers]).cpu()
            mass = mass.reshape(len(layers), ids.shape[1], -1, mass.shape[-1])
            cached = mass[..., : ids.shape[-1]]
            named = ids.clamp(min=0).numpy()
            unknown = (ids < 0)[:, :, None]

            def column(name: str, named: IntArray = named) -> Tensor:
                return torch.from_numpy(self._table.column(name).take(named))[:, :, None]

            frame = column("frame").long().masked_fill_(unknown, -1)
            role = column("role").long().masked_fill_(unknown, int(Role.TEXT))
            heads = (len(layers), self._heads)
            frame_mass[where] = _bin(cached, frame, self._frames).reshape(*heads, -1)
            mean_age, by_role = _age_and_roles(cached, self._now_s - column("time_s"), role)
            by_role[..., Role.TEXT] += mass[..., ids.shape[-1] :].sum(-1)
            role_mass[where] = by_role.reshape(*heads, -1)
            entropy[where] = torch.stack([self._entropy[n] for n in layers]).cpu()
            sink[where] = cached[..., 0].reshape(heads) if cached.shape[-1] else 0.0
            age[where] = mean_age.reshape(heads)
        return AttentionSummary(
            group=self._group,
            frame_mass=frame_mass,
            role_mass=role_mass,
            entropy=entropy,
            visible=self._visible,
            sink_share=sink,
            age_s=age,
            rows=self._rows,
            row_ids={n: self._ids[n].cpu().numpy() for n in self._rows},
        )


def _entropy(rows: Float[Tensor, "query_head row token"]) -> Float[Tensor, " query_head"]:
    """Entropy in nats, the mean over rows."""
    heads, count, _ = rows.shape
    rows = rows.detach().reshape(heads, -1)
    logs = rows.clamp_min(torch.finfo(rows.dtype).tiny)
    if rows.device.type == "cpu":
        # numpy's logarithm and products take a third of the time of torch's
        array = logs.numpy()
        np.log(array, out=array)
        return torch.from_numpy(np.vecdot(rows.numpy(), array)) / -count
    return torch.linalg.vecdot(rows, logs.log_()) / -count


def _age_and_roles(
    mass: Float[Tensor, "layer set head token"],
    age_s: Float[Tensor, "layer set 1 token"],
    role: Int[Tensor, "layer set 1 token"],
) -> tuple[Float[Tensor, "layer set head"], Float[Tensor, "layer set head role"]]:
    """Mean age of what is attended (NaN where nothing that has a time is) and mass by role, in one product."""
    timed = ~age_s.isnan()
    roles = role == torch.arange(len(Role))[:, None]
    columns = torch.cat([age_s.nan_to_num(0.0) * timed, timed.float(), roles.float()], 2)
    summed = mass @ columns.transpose(2, 3)
    weighted, total = summed[..., 0], summed[..., 1]
    return torch.where(total > 0, weighted / total, float("nan")), summed[..., 2:]


def _bin(
    mass: Float[Tensor, "layer set head token"], index: Int[Tensor, "layer set 1 token"], bins: int
) -> Float[Tensor, "layer set head bin"]:
    """Sum mass over tokens of equal index (outside 0 to bins - 1: left out)."""
    index = (index + 1).masked_fill_(index >= bins, 0).expand(mass.shape)
    summed = mass.new_zeros(*mass.shape[:-1], bins + 1).scatter_add_(-1, index, mass)
    return summed[..., 1:]

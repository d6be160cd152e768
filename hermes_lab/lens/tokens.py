"""Picking global token ids by what the tokens are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from hermes_lab.errors import LabError, nearest
from hermes_lab.tokens import Role

if TYPE_CHECKING:
    from hermes_lab.stream.session import StreamSession

Numbers = int | Iterable[int]


def tokens(
    session: StreamSession,
    frames: Numbers | None = None,
    role: Role | str | Iterable[Role | str] | None = None,
    layer: int | None = None,
    rows: Numbers | None = None,
    cols: Numbers | None = None,
    between_s: tuple[float, float] | None = None,
    held: bool = True,
) -> Int[Tensor, " token"]:
    """Global ids of the tokens that meet every condition given, ascending.

    Args:
        frames: global frame indices.
        role: roles, or their names ("visual", "marker", ...).
        layer: tokens that this layer holds now.
        rows, cols: cells of the frames' grids.
        between_s: presentation times [from, to) in seconds.
        held: with no layer named, only tokens that some layer holds now; False: evicted ones too.

    Raises:
        LabError: unknown role or layer.
    """
    table = session.table
    chosen = np.ones(len(table), np.bool_)
    for name, wanted in (("frame", frames), ("row", rows), ("col", cols)):
        if wanted is not None:
            numbers = [wanted] if isinstance(wanted, int) else list(wanted)
            chosen &= np.isin(table.column(name), numbers)
    if role is not None:
        roles = [role] if isinstance(role, str | Role) else list(role)
        chosen &= np.isin(table.column("role"), [int(_role(r)) for r in roles])
    if between_s is not None:
        time_s = table.column("time_s")
        chosen &= (time_s >= between_s[0]) & (time_s < between_s[1])
    if layer is not None:
        chosen &= _held(session, [check_layer(session, layer)], len(table))
    elif held:
        chosen &= _held(session, range(session.engine.layers), len(table))
    return torch.from_numpy(np.flatnonzero(chosen))


def check_layer(session: StreamSession, layer: int) -> int:
    """The layer's number, negative ones counted from the end.

    Raises:
        LabError: the model has no such layer.
    """
    count = session.engine.layers
    if not -count <= layer < count:
        raise LabError(f"There is no layer {layer}; the model has layers 0 to {count - 1}.")
    return layer % count


def check_head(session: StreamSession, head: int) -> int:
    """The query head's number, negative ones counted from the end.

    Raises:
        LabError: the model has no such head.
    """
    count = session.engine.query_heads
    if not -count <= head < count:
        raise LabError(f"There is no query head {head}; the model has heads 0 to {count - 1}.")
    return head % count


def _role(role: Role | str) -> Role:
    if isinstance(role, Role):
        return role
    names = {r.name.lower(): r for r in Role}
    if role.lower() not in names:
        raise LabError(f"There is no token role {role!r}: {nearest(role.lower(), names)}")
    return names[role.lower()]


def _held(session: StreamSession, layers: Iterable[int], count: int) -> npt.NDArray[Any]:
    mask = np.zeros(count, np.bool_)
    for layer in layers:
        ids = session.layer_ids(layer).unique().cpu().numpy()
        mask[ids[ids >= 0]] = True
    return mask

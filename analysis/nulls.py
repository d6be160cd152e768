"""What attention would look like without the thing that is claimed.

Three families. Models: the same architecture with random weights, drawn afresh or made by permuting the
trained ones (which keeps every tensor's distribution and destroys what was learned). Streams: frame order
shuffled, patches shuffled within frames, content shuffled over the whole stream. Arithmetic: uniform over
visible keys, and attention that position alone explains (keys keep their places, their content is permuted).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from analysis.arrays import Array, Mask, Picture
from hermes_lab.engine.upstream import set_attention
from hermes_lab.errors import LabError
from hermes_lab.models.base import Adapter
from hermes_lab.segment import Segment
from hermes_lab.tokens import Role

A = TypeVar("A", bound=Adapter)


# --- models ------------------------------------------------------------------------------------
def random_twin(adapter: A, seed: int) -> A:
    """The same architecture with weights drawn afresh by its own initialisation; the original is untouched."""
    model = adapter.model
    assert isinstance(model, PreTrainedModel)
    reference = next(model.parameters())
    config = copy.deepcopy(model.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = cast(Any, type(model))(config)  # every concrete model takes its configuration
    set_attention(twin, "sdpa")  # as any fresh model has it: the engine prepares it anew
    twin = twin.to(device=reference.device, dtype=reference.dtype).eval().requires_grad_(False)
    return replace(adapter, model=twin, name=f"{adapter.name} (random weights, seed {seed})")


def permuted_twin(adapter: A, seed: int, *, keep_vision: bool = True) -> A:
    """The same weights with the entries of every decoder tensor permuted (and the vision tower's, if asked).

    A stronger null than a fresh initialisation: attention is as sharp as trained norms make it, and with
    `keep_vision` the visual tokens are the trained model's own.
    """
    original = adapter.model
    twin = random_twin(adapter, seed).model
    rng = np.random.default_rng(seed)
    kept = set(map(id, _vision_parameters(adapter))) if keep_vision else set[int]()
    with torch.no_grad():
        for ours, theirs in zip(twin.parameters(), original.parameters(), strict=True):
            if id(theirs) in kept:
                ours.copy_(theirs)
            else:
                order = torch.from_numpy(rng.permutation(theirs.numel())).to(theirs.device)
                ours.copy_(theirs.flatten()[order].view_as(theirs))
    return replace(adapter, model=twin, name=f"{adapter.name} (permuted weights, seed {seed})")


def _vision_parameters(adapter: Adapter) -> list[nn.Parameter]:
    """Everything that is neither decoder nor head: tower and projector."""
    language = {id(p) for module in (adapter.decoder, adapter.head) for p in module.parameters()}
    return [p for p in adapter.model.parameters() if id(p) not in language]


# --- streams -----------------------------------------------------------------------------------
def shuffle_frames(frames: Sequence[Picture], seed: int) -> list[Picture]:
    """The frames of a stream in random order: position and content stay, their order in time goes."""
    order = np.random.default_rng(seed).permutation(len(frames))
    return [frames[i] for i in order]


def shuffle_cells(frames: Sequence[Picture], rows: int, cols: int, seed: int) -> list[Picture]:
    """Each frame cut into rows x cols cells that are put back in random order.

    What did not move now does, while the vision tower still marks where patches are. Border pixels
    that do not fill a cell stay where they are.

    Raises:
        LabError: the frames are smaller than the grid.
    """
    rng = np.random.default_rng(seed)
    out: list[Picture] = []
    for frame in frames:
        height, width = frame.shape[0] // rows, frame.shape[1] // cols
        if height == 0 or width == 0:
            raise LabError(
                f"A frame of {frame.shape[1]}x{frame.shape[0]} pixels cannot be cut into "
                f"{cols}x{rows} cells; use larger frames."
            )
        core = frame[: rows * height, : cols * width]
        cells = rearrange(core, "(r h) (c w) k -> (r c) h w k", r=rows, c=cols)
        mixed = cells[rng.permutation(rows * cols)]
        changed = frame.copy()
        changed[: rows * height, : cols * width] = rearrange(
            mixed, "(r c) h w k -> (r h) (c w) k", r=rows, c=cols
        )
        out.append(changed)
    return out


def shuffle_segments(
    segments: Sequence[Segment], seed: int, *, within: Literal["frame", "stream"] = "frame"
) -> list[Segment]:
    """Visual embeddings of a stream permuted among the places of their frame, or of the whole stream.

    Positions, roles and cells stay; content and the vision tower's marks of place move. A rhythm that
    survives the first, or a forgetting curve that survives the second, comes from positions alone.
    """
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *(len(s) for s in segments)])
    visual = np.concatenate([s.role == Role.VISUAL for s in segments])
    frame = np.concatenate(
        [
            np.where(s.frame >= 0, s.frame + start, -1)
            for s, start in zip(segments, starts, strict=False)
        ]
    )  # a segment's start keeps its frames apart from those of other segments
    order = np.arange(starts[-1])
    groups = [visual & (frame == f) for f in np.unique(frame[visual])]
    for group in groups if within == "frame" else [visual]:
        places = np.flatnonzero(group)
        order[places] = rng.permutation(places)

    def mixed(parts: Sequence[Tensor]) -> list[Tensor]:
        whole = torch.cat(list(parts))
        return list(whole[torch.as_tensor(order, device=whole.device)].split(lengths))

    lengths = [len(s) for s in segments]
    embeds = mixed([s.embeds for s in segments])
    deep = [mixed(list(layer)) for layer in zip(*(s.deepstack for s in segments), strict=True)]
    return [
        replace(s, embeds=embeds[i], deepstack=tuple(layer[i] for layer in deep))
        for i, s in enumerate(segments)
    ]


# --- arithmetic --------------------------------------------------------------------------------
def uniform_rows(visible: Mask) -> Array:
    """Equal weight on every visible key, [..., key]."""
    visible = np.asarray(visible, dtype=float)
    return visible / visible.sum(-1, keepdims=True)


def position_only(
    queries: Float[Tensor, "query_head row dim"],
    keys_unrotated: Float[Tensor, "kv_head token dim"],
    rotate: Callable[[Tensor], Tensor],
    *,
    movable: Mask,
    scaling: float,
    bias: Float[Tensor, "row token"] | None = None,
    permutations: int = 8,
    seed: int = 0,
) -> Float[Tensor, "query_head row token"]:
    """Mean attention when the content of movable keys is permuted among their positions.

    `rotate` gives unrotated keys, in order, the rotations of the cached positions; `movable` marks video
    tokens, [token]; `bias` is added to the scores (causal mask). What remains of a forgetting curve here is
    due to RoPE and to what all keys have in common.
    """
    kv_heads = keys_unrotated.shape[0]
    grouped = rearrange(queries, "(k g) r d -> k g r d", k=kv_heads).float()
    places = np.flatnonzero(movable)
    rng = np.random.default_rng(seed)
    total = torch.zeros(())
    for _ in range(permutations):
        order = np.arange(len(movable))
        order[places] = rng.permutation(places)
        index = torch.as_tensor(order, device=keys_unrotated.device)
        keys = rotate(keys_unrotated[:, index]).float()
        scores = torch.einsum("kgrd,ktd->kgrt", grouped, keys) * scaling
        total = total.to(scores) + (scores if bias is None else scores + bias).softmax(-1)
    return rearrange(total / permutations, "k g r t -> (k g) r t")

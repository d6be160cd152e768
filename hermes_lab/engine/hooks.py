"""TransformerLens hook points on any supported decoder, fired only where somebody listens.

A session owns a `HookBoard`; its names are TransformerLens' (`blocks.{l}.attn.hook_pattern`, ...) and its
points are real `transformer_lens.hook_points.HookPoint`s, so hooks written for TransformerLens work as they
are: `fn(tensor, hook)` may return an edited tensor, which then flows on. Attention-internal points are
fired by `hermes_lab.engine.attention`, the others by module hooks that are installed when somebody first listens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from hermes_lab.engine import upstream
from hermes_lab.errors import LabError, nearest

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint

HookFunction = Callable[..., Tensor | None]
FwdHooks = Sequence[tuple[str | Callable[[str], bool], HookFunction]]

PER_LAYER = (
    "hook_resid_pre",  # [batch, pos, d_model]
    "ln1.hook_normalized",
    "attn.hook_q",  # [batch, pos, head, d_head], before rotation
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_rot_q",  # after rotation
    "attn.hook_rot_k",  # new tokens only, as in TransformerLens' bridges
    "attn.hook_attn_scores",  # [batch, head, query, key], masked, before the softmax
    "attn.hook_pattern",  # [batch, head, query, key]
    "attn.hook_z",  # [batch, pos, head, d_head]
    "hook_attn_out",  # what attention adds to the residual stream
    "hook_resid_mid",
    "ln2.hook_normalized",
    "hook_mlp_out",
    "hook_resid_post",
)
GLOBAL = ("hook_embed", "ln_final.hook_normalized")
_LAYER_NAME = re.compile(r"blocks\.(\d+)\.(.+)")


def layer_of(hook: HookPoint) -> int:
    """The decoder layer of a hook point.

    Raises:
        LabError: it belongs to no layer.
    """
    match = _LAYER_NAME.fullmatch(str(hook.name))
    if match is None:
        raise LabError(
            f"The hook {hook.name!r} belongs to no layer; its name must look like 'blocks.3.hook_resid_pre'."
        )
    return int(match[1])


class HookBoard:
    """The hook points of one session, made on first use."""

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self._points: dict[str, HookPoint] = {}

    def names(self) -> list[str]:
        """Every name that can be listened to."""
        blocks = [f"blocks.{layer}.{name}" for layer in range(self.layers) for name in PER_LAYER]
        return [*blocks, *GLOBAL]

    def point(self, name: str) -> HookPoint:
        """The hook point of that name.

        Raises:
            LabError: there is no such hook; the sentence names the nearest ones.
        """
        found = self._points.get(name)
        if found is not None:
            return found
        match = _LAYER_NAME.fullmatch(name)
        if match:
            if int(match[1]) >= self.layers:
                raise LabError(
                    f"Hook {name!r} asks for layer {match[1]}, but the model has layers "
                    f"0 to {self.layers - 1}."
                )
            if match[2] not in PER_LAYER:
                raise LabError(f"There is no hook {name!r}: {nearest(match[2], PER_LAYER)}")
        elif name not in GLOBAL:
            raise LabError(f"There is no hook {name!r}: {nearest(name, self.names())}")
        from transformer_lens.hook_points import HookPoint

        point = HookPoint()
        point.name = name
        self._points[name] = point
        return point

    def listening(self, name: str) -> bool:
        """Whether anybody listens there."""
        point = self._points.get(name)
        return point is not None and bool(point.fwd_hooks)

    @property
    def quiet(self) -> bool:
        """Whether nobody listens anywhere."""
        return not any(point.fwd_hooks for point in self._points.values())

    def fire(self, name: str, tensor: Tensor) -> Tensor:
        """Pass a tensor through its hook point; edits come back."""
        point = self._points.get(name)
        return tensor if point is None or not point.fwd_hooks else cast(Tensor, point(tensor))

    def resolve(self, name: str | Callable[[str], bool]) -> list[str]:
        """Names meant by a name or, as in TransformerLens, by a predicate over names."""
        if isinstance(name, str):
            self.point(name)
            return [name]
        return [known for known in self.names() if name(known)]

    @contextmanager
    def hooks(self, fwd_hooks: FwdHooks) -> Generator[HookBoard]:
        """Listen inside the block: pairs of (name or predicate, `fn(tensor, hook)`)."""
        handles: list[tuple[HookPoint, Any]] = []
        try:
            for name, function in fwd_hooks:
                for resolved in self.resolve(name):
                    point = self.point(resolved)
                    handles.append((point, point.add_hook(function)))
            yield self
        finally:
            for point, handle in handles:
                handle.hook.remove()
                if handle in point.fwd_hooks:
                    point.fwd_hooks.remove(handle)


class Taps:
    """Module hooks that fire a decoder's residual, norm and projection points on the running pass's board."""

    def __init__(self, board_of: Callable[[], HookBoard | None]) -> None:
        self._board_of = board_of

    def on_output(
        self, module: nn.Module, name: str, view: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Fire `name` on the module's output, in the layout that `view` gives."""

        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            board = self._board_of()
            if board is None or not board.listening(name):
                return None
            tensor = output[0] if isinstance(output, tuple) else output
            edited = _fire(board, name, cast(Tensor, tensor), view)
            return (edited, *output[1:]) if isinstance(output, tuple) else edited

        module.register_forward_hook(hook)

    def on_input(
        self, module: nn.Module, name: str, view: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Fire `name` on the module's first input."""

        def hook(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            board = self._board_of()
            if board is None or not board.listening(name):
                return None
            if args:
                return (_fire(board, name, args[0], view), *args[1:]), kwargs
            key = "hidden_states" if "hidden_states" in kwargs else "inputs_embeds"
            return args, kwargs | {key: _fire(board, name, kwargs[key], view)}

        module.register_forward_pre_hook(hook, with_kwargs=True)


def _fire(
    board: HookBoard, name: str, tensor: Tensor, view: Callable[[Tensor], Tensor] | None
) -> Tensor:
    if view is None:
        return board.fire(name, tensor)
    return board.fire(name, view(tensor)).reshape(tensor.shape)


def tap_decoder(
    decoder: nn.Module, layers: Iterable[nn.Module], board_of: Callable[[], HookBoard | None]
) -> None:
    """Install the taps of one decoder; their order and layout follow the module's own structure."""
    taps = Taps(board_of)
    taps.on_input(decoder, "hook_embed")
    taps.on_output(cast(nn.Module, decoder.norm), "ln_final.hook_normalized")
    for index, layer in enumerate(layers):
        name = f"blocks.{index}."
        block = upstream.block_of(layer)
        attention = cast(Any, block.attention)
        head_dim = upstream.head_dim(block.attention)

        def heads(x: Tensor, dim: int = head_dim) -> Tensor:
            return x.unflatten(-1, (-1, dim))

        taps.on_input(layer, name + "hook_resid_pre")
        taps.on_output(block.attention_norm, name + "ln1.hook_normalized")
        taps.on_output(attention.v_proj, name + "attn.hook_v", heads)
        for letter in "qk":
            norm = upstream.head_norm(block.attention, letter)
            if norm is None:
                projection = getattr(attention, f"{letter}_proj")
                taps.on_output(projection, f"{name}attn.hook_{letter}", heads)
            elif block.attention_out_norm is not None:
                _tap_heads_first(taps, norm, f"{name}attn.hook_{letter}")
            else:
                taps.on_output(norm, f"{name}attn.hook_{letter}")
        projection = upstream.output_projection(block.attention)
        taps.on_input(projection, name + "attn.hook_z", heads)
        # where a norm stands behind attention or the MLP, what it lets through is what they add
        taps.on_output(block.attention_out_norm or block.attention, name + "hook_attn_out")
        taps.on_input(block.mlp_norm, name + "hook_resid_mid")
        taps.on_output(block.mlp_norm, name + "ln2.hook_normalized")
        taps.on_output(block.mlp_out_norm or block.mlp, name + "hook_mlp_out")
        taps.on_output(layer, name + "hook_resid_post")


def _tap_heads_first(taps: Taps, module: nn.Module, name: str) -> None:
    """Gemma 3 normalises queries and keys as [batch, head, pos, d_head]; show them as [batch, pos, head, d_head]."""

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
        board = taps._board_of()
        if board is None or not board.listening(name):
            return None
        return board.fire(name, output.transpose(1, 2)).transpose(1, 2)

    module.register_forward_hook(hook)

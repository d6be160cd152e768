"""Which device a model goes to, and whether it can be used, said before any weights are read."""

from __future__ import annotations

import torch

from hermes_lab.errors import ModelError

_INSTALL = (
    "install the CUDA build with `pip install --force-reinstall torch` (on Windows, with the command that "
    "https://pytorch.org/get-started names)"
)


def default_device() -> str | None:
    """Where a model goes when nobody says so: a CUDA GPU when there is one; None: where transformers puts it."""
    return "cuda" if torch.cuda.is_available() else None


def check_device(device: str) -> None:
    """Refuse a device that is not there, and say what helps.

    Raises:
        ModelError: no such device, or this PyTorch or this machine has none of the kind.
    """
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        problem = "there is no such device; take cpu, or cuda on a machine with an NVIDIA GPU"
    else:
        problem = _missing_cuda(wanted.index) if wanted.type == "cuda" else None
        if wanted.type == "mps" and not torch.backends.mps.is_available():
            problem = "PyTorch sees no Apple GPU here; take cpu"
    if problem is not None:
        raise ModelError(f"The model cannot be moved to device {device!r}: {problem}.")


def _missing_cuda(index: int | None) -> str | None:
    if not torch.backends.cuda.is_built():
        return f"this PyTorch was built without CUDA; {_INSTALL}, or take cpu"
    if not torch.cuda.is_available():
        return "PyTorch sees no GPU; check what `nvidia-smi` says of GPU and driver, or take cpu"
    count = torch.cuda.device_count()
    if index is not None and index >= count:
        return f"PyTorch sees {count} of them, cuda:0 to cuda:{count - 1}"
    return None

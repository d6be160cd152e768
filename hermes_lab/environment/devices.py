"""Where tensors can live: CPU, CUDA, MPS; each is tried with a small product, in float32 and in bfloat16."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

from hermes_lab.environment.checks import Check, first_line, install


def devices() -> list[Check]:
    """The build of torch and every device that it can use or should be able to use."""
    try:
        import torch
    except (
        Exception
    ) as error:  # a broken installation surfaces as ImportError, OSError or RuntimeError
        fix = install("torch")
        return [Check("torch", "broken", first_line(error), "can be imported", fix, True)]
    return [_build(torch), _cpu(torch), *_cuda(torch), _mps(torch)]


def _build(torch: Any) -> Check:
    target = (
        f"CUDA {torch.version.cuda}" if torch.version.cuda
        else f"ROCm {torch.version.hip}" if torch.version.hip
        else "CPU"
    )  # fmt: skip
    facts = {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    return Check("torch build", "ok", f"{torch.__version__}, for {target}", facts=facts)


def _cpu(torch: Any) -> Check:
    cores = (
        len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    )  # a container may have fewer than the machine
    threads = torch.get_num_threads()
    what = f"{cores} cores, {threads} torch threads, {torch.backends.cpu.get_cpu_capability()}"
    return _tried(torch, "CPU", "cpu", what, {"cores": cores, "threads": threads}, needed=True)


def _cuda(torch: Any) -> list[Check]:
    if torch.cuda.is_available():
        return [_gpu(torch, number) for number in range(torch.cuda.device_count())]
    if not _nvidia_driver():
        return [Check("CUDA", "absent", None, "an NVIDIA or ROCm GPU, optional")]
    if torch.version.cuda is None:
        fix = (
            "python -m pip install --force-reinstall torch"
            if sys.platform == "linux"
            else "install a CUDA build of torch (https://pytorch.org/get-started/locally)"
        )
        said = "an NVIDIA driver is here, but this torch is built for CPU only"
        return [Check("CUDA", "broken", said, "a CUDA build of torch", fix)]
    fix = f"update the NVIDIA driver to one that knows CUDA {torch.version.cuda}"
    said = f"an NVIDIA driver is here, but torch cannot use it ({_why_not(torch)})"
    return [Check("CUDA", "broken", said, "a driver that fits torch", fix)]


def _nvidia_driver() -> bool:
    return os.path.exists("/dev/nvidiactl") or shutil.which("nvidia-smi") is not None


def _why_not(torch: Any) -> str:
    try:
        torch.cuda.init()
    except Exception as error:
        return first_line(error)
    return "no device is visible; look at CUDA_VISIBLE_DEVICES"


def _gpu(torch: Any, number: int) -> Check:
    properties = torch.cuda.get_device_properties(number)
    gib = properties.total_memory / 2**30
    capability = f"{properties.major}.{properties.minor}"
    facts = {"name": properties.name, "memory_gib": round(gib, 1), "capability": capability}
    what = f"{properties.name}, {gib:.1f} GiB, compute capability {capability}"
    return _tried(torch, f"CUDA {number}", f"cuda:{number}", what, facts)


def _mps(torch: Any) -> Check:
    if not torch.backends.mps.is_available():
        return Check("MPS", "absent", None, "an Apple GPU, optional")
    return _tried(torch, "MPS", "mps", "Apple GPU", {})


def _tried(
    torch: Any, name: str, device: str, what: str, facts: dict[str, Any], needed: bool = False
) -> Check:
    """A device with what came of multiplying on it."""
    problem = _product_fails(torch, device, torch.float32)
    if problem is not None:
        fix = "install a build of torch for this device (https://pytorch.org/get-started/locally)"
        return Check(name, "broken", f"{what}; {problem}", "multiplies float32", fix, needed, facts)
    bf16 = _bf16(torch, device)
    said = "bfloat16" if bf16 else "no bfloat16: load models with --dtype float32 or float16"
    return Check(name, "ok", f"{what}, {said}", needed=needed, facts={**facts, "bf16": bf16})


def _bf16(torch: Any, device: str) -> bool:
    if device.startswith("cuda"):
        with torch.cuda.device(device):
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                return False
    return _product_fails(torch, device, torch.bfloat16) is None


def _product_fails(torch: Any, device: str, dtype: Any) -> str | None:
    try:
        ones = torch.ones(8, 8, dtype=dtype, device=device)
        right = float((ones @ ones).sum()) == 512.0
    except Exception as error:  # drivers and builds that do not fit raise many types
        return first_line(error)
    return None if right else "a product of ones came out wrong"

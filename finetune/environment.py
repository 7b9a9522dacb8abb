"""The machine: what it can do, what it has installed, and what a run takes of it."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune.errors import SECRET, RecipeError

if TYPE_CHECKING:
    from accelerate import Accelerator

LIBRARIES = (
    "finetune", "torch", "torchvision", "timm", "transformers", "datasets", "accelerate",
    "peft", "evaluate", "scikit-learn", "numpy", "pillow", "safetensors",
)  # fmt: skip


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks instead of returning them to the system after every step.

    Training frees and takes the same large blocks again and again; this is process-wide, so only
    a run calls it. Does nothing where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_threshold, 2**30)
    libc.mallopt(trim_threshold, 2**31 - 1)


def device() -> torch.device:
    """Return the kind of device that a run uses; `accelerate launch --cpu` leaves GPUs alone."""
    barred = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "y", "on")
    return torch.device("cuda" if torch.cuda.is_available() and not barred else "cpu")


def accelerator(precision: str, *, compiled: bool = False) -> Accelerator:
    """Return Accelerate's hold on devices and processes for one run, in that precision."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # It is process-wide, and refuses other settings for the second run of a script.
    AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision=precision,
        # Without it, several processes on a machine without a GPU would not know of each other.
        cpu=device().type == "cpu",
        dynamo_backend="inductor" if compiled else "no",
    )


def wait_for_everyone() -> None:
    """Return when every process of this run has come here."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(cpu=device().type == "cpu").wait_for_everyone()


def precision(asked: str) -> str:
    """Return `no`, `bf16` or `fp16` for `train.precision`; `auto` goes by the hardware.

    Raises RecipeError for fp16 on a CPU, which has no fast half-precision arithmetic.
    """
    if asked == "fp16" and device().type == "cpu":
        raise RecipeError(
            "train.precision=fp16 needs a GPU, and there is none here. Allowed on this machine: "
            "auto, no, bf16."
        )
    if asked != "auto":
        return asked
    return "bf16" if has_fast_bf16() else "no"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the context of a forward pass in `no`, `bf16` or `fp16`, as `precision` returns it."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def has_fast_bf16() -> bool:
    """Return whether matrix products in bfloat16 are quicker here than in float32."""
    if device().type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def peak_memory() -> int:
    """Return the most memory this process has held, in bytes: on the GPU if there is one."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def describe() -> dict[str, Any]:
    """Return versions, devices and the state of the code: what a reader needs to run it again."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "gpus": gpus,
        "versions": versions,
        "git_commit": _git_commit(),
    }


def arguments() -> list[str]:
    """Return what this process was started with; what looks like a token is not told."""
    return ["SECRET" if SECRET.search(word) else word for word in sys.argv[1:]]


def _git_commit() -> str | None:
    """Return the commit of the code that runs, with `+changes` if files differ from it."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = bool(git("status", "--porcelain", "--untracked-files=no"))
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None

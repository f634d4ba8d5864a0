"""The device a run computes on, and what a process has held there and in main memory."""

from __future__ import annotations

import re
import resource
import sys

import torch

from adapt.errors import ConfigError


def pick_device(name: str, gpus: int | None = None) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device; `auto` prefers a GPU.

    gpus: how many there are; torch is asked if it is not given. Raises ConfigError.
    """
    count = torch.cuda.device_count() if gpus is None else gpus
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d{1,4}))?", name)
    if match is None:
        raise ConfigError(f"there is no --device {name}; use auto, cpu, cuda or cuda:N")
    if not count:
        raise ConfigError(f"--device {name}: torch sees no GPU here; use --device cpu")
    if match[1] is not None and int(match[1]) >= count:
        raise ConfigError(f"--device {name}: torch sees GPUs 0 to {count - 1}; use one of them")
    return torch.device(name)


def peak_rss_bytes() -> int:
    """Bytes of main memory that this process held at most so far, mapped files included."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_gpu_bytes(device: torch.device) -> int | None:
    """Bytes of a GPU's memory that this process held in tensors at most so far; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None

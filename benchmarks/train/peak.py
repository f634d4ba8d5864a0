"""What a device multiplies at most."""

from __future__ import annotations

import time

import torch

REPEATS = 5


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Measured operations a second of large square matrix products, the best of a few."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(REPEATS):
        _wait(device)
        start = time.perf_counter()
        a @ b
        _wait(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

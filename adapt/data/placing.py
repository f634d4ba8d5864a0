"""From main memory to the device that computes."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of main memory on a device.

    To a GPU it goes through page-locked memory, and nobody waits for it: work that is queued
    afterwards finds it there.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)

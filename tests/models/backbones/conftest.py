"""Small nets on small images: more threads only wait for each other."""

from __future__ import annotations

from contextlib import suppress

with suppress(ModuleNotFoundError):
    import torch

    torch.set_num_threads(1)

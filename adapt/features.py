"""Extract embeddings of decoded crops, with networks or with an exported bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from adapt.data.transforms import normalise
from models.backbones.net import ReIDNet

EXTRACTION_BATCH = 128


@torch.no_grad()
def extract(
    nets: Sequence[ReIDNet],
    images: NDArray[np.uint8],
    *,
    device: torch.device,
    batch_size: int = EXTRACTION_BATCH,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[NDArray[np.float32], ...]:
    """Embed every crop with every network, in eval mode, without augmentation.

    images: (N, H, W, 3) uint8 RGB. progress: called with the number of crops done.
    Returns one (N, D) float32 matrix of L2-normalised embeddings per network. The networks'
    train or eval modes are as before afterwards.
    """
    if not nets:
        return ()
    modes = [net.training for net in nets]
    tables = [np.empty((len(images), net.dimension), np.float32) for net in nets]
    try:
        for net in nets:
            net.eval()
        for start in range(0, len(images), batch_size):
            rows = slice(start, min(start + batch_size, len(images)))
            batch = normalise(torch.from_numpy(images[rows]).to(device))
            for net, table in zip(nets, tables, strict=True):
                table[rows] = net.embed(batch).cpu().numpy()
            progress(rows.stop)
    finally:
        for net, mode in zip(nets, modes, strict=True):
            net.train(mode)
    return tuple(tables)

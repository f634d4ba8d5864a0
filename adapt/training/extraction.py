"""Extract embeddings of decoded crops with networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from adapt.data.batches.transfer import ahead_of, to_device
from adapt.data.batches.transforms import normalize
from adapt.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from adapt.training.sharding import average_statistics
from adapt.types import FloatAllocator, allocate_floats
from models.backbones.ghost_batch_norm import group_batch_norm
from models.backbones.net import ReIDNet

EXTRACTION_BATCH = 128
_ROWS_SENT = 8192
MIN_CAMERA_CROPS = 32
"""A camera with fewer crops has too few to estimate its own batch-norm statistics."""

Images = NDArray[np.uint8]


@torch.no_grad()
def extract(
    nets: Sequence[ReIDNet],
    images: Images,
    *,
    device: torch.device,
    cameras: NDArray[np.int64] | None = None,
    batch_size: int = EXTRACTION_BATCH,
    progress: Callable[[int], None] = lambda done: None,
    group: ProcessGroup = SINGLE_PROCESS,
    allocate: FloatAllocator = allocate_floats,
) -> tuple[NDArray[np.float32], ...]:
    """Embed every crop with every network, in eval mode, without augmentation.

    images: (N, H, W, 3) uint8 RGB. cameras: (N,) codes; if given, each camera's crops are
    embedded under batch-norm statistics estimated on that camera alone (see
    `with_statistics_of`), which takes most of what differs between cameras out of the features.
    progress: called with the number of crops done. group: whole batches are dealt out to its
    processes; each calls `progress` equally often. allocate: makes the arrays.
    Returns one (N, D) float32 matrix of L2-normalized embeddings per network, whole in the main
    process; the networks stay as they are.
    """
    if not nets:
        return ()
    tables = tuple(allocate((len(images), net.dimension)) for net in nets)
    done = 0
    for rows in _groups(len(images), cameras):
        own = cameras is not None and len(rows) >= MIN_CAMERA_CROPS
        embedders = [
            with_statistics_of(net, images, device, batch_size, rows=rows, group=group)
            if own
            else copy.deepcopy(net).to(device).eval()
            for net in nets
        ]
        turns = [
            rows[i : i + batch_size * group.size]
            for i in range(0, len(rows), batch_size * group.size)
        ]
        parts = [turn[batch_size * group.rank :][:batch_size] for turn in turns]
        batches = ahead_of(device, (_placed(images, part, device) for part in parts))
        for turn, part, batch in zip(turns, parts, batches, strict=True):
            if len(part):
                for net, table in zip(embedders, tables, strict=True):
                    table[part] = net.embed(batch).cpu().numpy()
            done += len(turn)
            progress(done)
    for table in tables:
        _bring_together(table, device, group)
    return tables


@torch.no_grad()
def with_statistics_of(
    net: ReIDNet,
    images: Images,
    device: torch.device,
    batch_size: int = EXTRACTION_BATCH,
    rows: NDArray[np.intp] | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> ReIDNet:
    """Copy a network, its batch-norm statistics replaced by those of some crops.

    Of one camera's crops: camera-based batch normalization (Zhuang et al., ECCV 2020). Of all
    crops of a site: AdaBN (Li et al., 2016). Means and variances are averaged over batches of
    nearly equal size, whole batches also where the network trains in batch-norm groups.
    rows: (M,) which of the crops; all by default. group: its processes share the batches. Returns
    a copy in eval mode; parameters are unchanged.
    """
    copied = copy.deepcopy(net).to(device).train()
    group_batch_norm(copied, 0)
    for module in copied.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # a plain average over the batches
    rows = np.arange(len(images)) if rows is None else rows
    parts = np.array_split(rows, -(-len(rows) // batch_size))
    own = parts[group.rank :: group.size]
    for batch in ahead_of(device, (_placed(images, part, device) for part in own)):
        copied(batch)
    if group.size > 1:
        average_statistics(copied, group, len(own))
    return copied.eval()


def _bring_together(table: NDArray[np.float32], device: torch.device, group: ProcessGroup) -> None:
    """Give the first process the rows of the others, which are 0 in its table."""
    if group.size > 1:
        for start in range(0, len(table), _ROWS_SENT):
            rows = torch.from_numpy(table[start : start + _ROWS_SENT])
            rows.copy_(group.reduce(rows.to(device, copy=True)))


def _placed(images: Images, rows: NDArray[np.intp], device: torch.device) -> Tensor:
    """Some crops as network input on the device."""
    return normalize(to_device(torch.from_numpy(images[rows]), device))


def _groups(count: int, cameras: NDArray[np.int64] | None) -> list[NDArray[np.intp]]:
    if cameras is None:
        return [np.arange(count)]
    return [np.flatnonzero(cameras == code) for code in np.unique(cameras)]

"""Extraction beside the bare forward passes it consists of, and waiting for batches in a step."""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial

import numpy as np
import torch

from adapt.config import Augmentation, BatchShape, Compute
from adapt.data.batches.transforms import normalize
from adapt.data.decoding.decode import DecodedCrops
from adapt.methods.mmt import MMT
from adapt.runtime.compute import set_up
from adapt.training.batches import Draw
from adapt.training.extraction import EXTRACTION_BATCH, extract
from benchmarks.ratios import compare
from benchmarks.train.step import INSTANCES, OurMMT, Setting
from models.backbones.net import ReIDNet


def extraction_table(backbone: str, computes: list[Compute], setting: Setting, crops: int) -> None:
    """Print extraction / raw forward passes of the same network at the same batch."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (crops, setting.height, setting.width, 3), dtype=np.uint8)
    net = ReIDNet(backbone).to(device=setting.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    ready = [
        normalize(torch.from_numpy(images[i : i + EXTRACTION_BATCH]).to(setting.device))
        for i in range(0, crops, EXTRACTION_BATCH)
    ]

    def bare() -> None:
        with torch.no_grad():
            for batch in ready:
                net.embed(batch)
        if setting.device.type == "cuda":
            torch.cuda.synchronize(setting.device)

    print("| extract / bare forward passes | ratio | smallest - largest | crops/s |")
    print("|---|---|---|---|")
    for each in computes:
        set_up([net], each, setting.device, (setting.height, setting.width))
        ours = partial(extract, [net], images, device=setting.device)
        name = f"{backbone} {setting.height}x{setting.width} {each.precision}"
        ratio = compare(name, ours, bare, items=crops, unit="crops", repeats=setting.repeats)
        print(ratio.row())


def waiting_share(
    ours: OurMMT, data: DecodedCrops, labels: np.ndarray, setting: Setting
) -> tuple[float, float]:
    """Median seconds of a step, and share of it that is waiting for the batch.

    On a GPU the step's own time ends when the device is done, so that what is waited for afterwards
    is time in which it has nothing to do.
    """
    shape = BatchShape(identities=setting.batch // INSTANCES, instances=INSTANCES)
    draw = Draw(shape, Augmentation(), MMT.views, MMT.sampling, setting.device)
    waits, wholes = [], []
    with closing(draw.streams([(data, labels)], (0, 0), 0)) as batches:
        for _ in range(setting.repeats * setting.steps + 1):
            start = time.perf_counter()
            (batch,) = next(batches)
            if setting.device.type == "cuda":
                torch.cuda.synchronize(setting.device)
            waited = time.perf_counter()
            ours.step(batch)
            if setting.device.type == "cuda":
                torch.cuda.synchronize(setting.device)
            waits.append(waited - start)
            wholes.append(time.perf_counter() - start)
    shares = np.array(waits[1:]) / np.array(wholes[1:])  # the first one starts the thread
    return float(np.median(wholes[1:])), float(np.median(shares))

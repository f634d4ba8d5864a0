"""A training step of MMT beside one of its public code: same networks, batch and images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from adapt.clustering.clusterer import Clusterer
from adapt.config import Augmentation, BatchShape, Clustering, Compute, OptimizerSettings
from adapt.methods.mmt import MMT, MMTOptions
from adapt.runtime.compute import set_up
from adapt.training.batches import Draw
from adapt.training.optimizer import build_optimizer, train_step
from adapt.types import Batch
from benchmarks.ratios import Ratio, compare
from benchmarks.train.peak import matmul_peak
from benchmarks.train.public import (
    LR,
    SOFT_ID,
    SOFT_TRI,
    WEIGHT_DECAY,
    OneBatch,
    PublicCode,
    PublicMMT,
    public_loader,
)
from benchmarks.train.site import write_site
from models.backbones.net import ReIDNet
from models.backbones.weights import load_weights
from models.image import Preprocessing

CLUSTERS, INSTANCES = 50, 4


@dataclass(frozen=True)
class Setting:
    """What is compared: images of height x width, crops of a batch, steps of a repeat."""

    height: int
    width: int
    batch: int
    steps: int
    repeats: int
    workers: int
    device: torch.device


class OurMMT:
    """Our MMT and its optimizer, started from the public code's own tensors."""

    def __init__(self, public: PublicMMT, compute: Compute, setting: Setting, folder: Path) -> None:
        """folder: where the tensors pass through, as files of the public code."""
        nets = []
        for number, theirs in enumerate(public.nets[:2]):
            file = folder / f"{number}.pth"
            torch.save(theirs.state_dict(), file)
            net = ReIDNet("resnet50_mmt")
            load_weights(net, file)
            weight = theirs.module.classifier.weight.detach().cpu()
            net.reset_classifier(len(weight), weight)
            nets.append(net)
        options = MMTOptions(lambda_id=SOFT_ID, lambda_tri=SOFT_TRI)
        clusterer = Clusterer(Clustering(), identities_per_batch=2, seed=0)
        self.method = MMT(nets, options, clusterer)
        networks = self.method.networks().values()
        set_up(networks, compute, setting.device, (setting.height, setting.width))
        for net in networks:
            net.to(device=setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            net.train()
        settings = OptimizerSettings(lr=LR, weight_decay=WEIGHT_DECAY)
        self._optimizer = build_optimizer(self.method, settings)
        self._done = 0

    def step(self, batch: Batch) -> float:
        """One step of the loop; gives the loss."""
        figures = train_step(self.method, (batch,), self._optimizer)
        self.method.after_step(self._done)
        self._done += 1
        return figures["loss"]


def step_table(clone: Path, setting: Setting, computes: list[Compute], folder: Path) -> None:
    """Print how both compare, alone and with their loading, for each way to compute."""
    torch.manual_seed(0)
    code = PublicCode.load(clone)
    site = write_site(folder / "crops", crops=8 * CLUSTERS, clusters=CLUSTERS)
    data = site.decoded(Preprocessing(height=setting.height, width=setting.width))
    shape = BatchShape(identities=setting.batch // INSTANCES, instances=INSTANCES)
    draw = Draw(shape, Augmentation(), MMT.views, MMT.sampling, setting.device)
    public = PublicMMT(code, CLUSTERS, setting.device)
    ours = {_named(each): OurMMT(public, each, setting, folder) for each in computes}
    loader = public_loader(
        code,
        *(site.files, site.labels.tolist()),
        size=(setting.height, setting.width),
        batch=setting.batch,
        instances=INSTANCES,
        workers=setting.workers,
    )
    with closing(draw.streams([(data, site.labels)], (0, 0), 0)) as batches:
        (batch,) = next(batches)
        work = copy.deepcopy(next(iter(ours.values()))).step
        counter = FlopCounterMode(display=False)
        with counter:
            work(batch)
        first, second = batch.views
        ready = OneBatch(first, second, batch.label)
        print("| ours / public code | ratio | smallest - largest | images/s | share of peak |")
        print("|---|---|---|---|---|")
        for name, mine in ours.items():
            pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
                "step alone": (partial(mine.step, batch), partial(public.steps, ready, 1)),
                "with loading": (
                    partial(_next_step, mine, batches),
                    partial(public.steps, loader, 1),
                ),
            }
            peak = matmul_peak(setting.device, mine.method.students[0].precision)
            for what, (fast, slow) in pairs.items():
                ratio = _compared(f"{name}, {what}", fast, slow, setting)
                share = counter.get_total_flops() * ratio.fast_per_second / setting.batch / peak
                rates = f"{ratio.fast_per_second:.2f} / {ratio.slow_per_second:.2f}"
                spread = f"{ratio.low:.2f} - {ratio.high:.2f}"
                print(
                    f"| {ratio.name} | {ratio.median:.2f}x | {spread} | {rates} | {share:.0%} |",
                    flush=True,
                )


def _next_step(ours: OurMMT, batches: Iterator[tuple[Batch, ...]]) -> None:
    (batch,) = next(batches)
    ours.step(batch)


def _compared(
    name: str, fast: Callable[[], object], slow: Callable[[], object], setting: Setting
) -> Ratio:
    return compare(
        name,
        partial(_repeated, fast, setting),
        partial(_repeated, slow, setting),
        items=setting.steps * setting.batch,
        unit="images",
        repeats=setting.repeats,
    )


def _repeated(work: Callable[[], object], setting: Setting) -> None:
    for _ in range(setting.steps):
        work()
    if setting.device.type == "cuda":
        torch.cuda.synchronize(setting.device)


def _named(compute: Compute) -> str:
    return compute.precision + (", compiled" if compute.compile else "")

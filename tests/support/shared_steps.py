"""Training steps of every method, by one process and by several: what differs between them.

In double precision, so that only a wrong equation makes a difference that can be seen.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adapt.config import BatchShape, Clustering, OptimizerSettings, Recipe
from adapt.methods import AML, METHODS, Method, Source, SourceMethod, students_of
from adapt.methods.source import SourceOptions
from adapt.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from adapt.training.optimizer import build_optimizer, train_step
from adapt.training.sharding import shard_trunks
from adapt.types import Batch, FeatureTable, RoundOf
from adapt.workflows.rehearsal import MadeUpClusterer, separated
from models.backbones import net as built
from models.backbones.ghost_batch_norm import group_batch_norm
from models.backbones.net import ReIDNet
from models.backbones.trunks import IBN

PEOPLE, EACH, STEPS = 4, 2, 2
SIZE = PEOPLE * EACH
WIDTH = 64


@dataclass(frozen=True)
class Case:
    """A method and how it is set.

    ghost: images in a batch-norm group. trunk: a backbone; small is one of two layers, one of them
    with IBN. late: in the last rounds, where a method then does something else.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    ghost: int = 0
    trunk: str = "small"
    late: bool = True

    def __str__(self) -> str:
        said = [f"{k}={v}" for k, v in self.options.items()]
        return "-".join((self.method, *said, self.trunk, f"ghost{self.ghost}"))


@dataclass(frozen=True)
class Differences:
    """Largest ones between one process and several, relative to the largest number of a kind.

    learned: the largest gradient.
    """

    figures: float
    gradients: float
    networks: float
    learned: float


def compare(group: ProcessGroup, case: Case) -> tuple[bytes, Differences | None]:
    """Take the same steps in a group and, in its first process, alone.

    Returns a digest of all networks after the steps that were shared, and what is different.
    """
    together = _steps(case, group)
    all_bits = b"".join(value.numpy().tobytes() for value in together[2].values())
    digest = hashlib.sha256(all_bits).digest()
    if not group.is_main:
        return digest, None
    alone = _steps(case, SINGLE_PROCESS)
    figures, gradients, networks = (_apart(a, b) for a, b in zip(alone, together, strict=True))
    return digest, Differences(figures, gradients, networks, _largest(alone[1]))


def _steps(
    case: Case, group: ProcessGroup
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Figures of all steps, gradients of the last one, and the networks."""
    method = _built(case)
    settings = OptimizerSettings(algorithm="sgd", lr=0.01)
    optimizer = build_optimizer(method, settings)
    sets = 2 if case.method in ("aml", "daal", "nrmt") else 1
    figures: dict[str, Tensor] = {}
    nets = method.networks().values()
    with shard_trunks(nets, optimizer, group, case.ghost):
        for step in range(STEPS):
            batches = tuple(_batch(case.method, n, 10 * step + n) for n in range(sets))
            told = train_step(method, batches, optimizer)
            method.after_step(step + 1)
            figures |= {
                f"{step}/{k}": torch.tensor(v, dtype=torch.float64) for k, v in told.items()
            }
    gradients = {
        f"{n}/{name}": p.grad
        for n, net in enumerate(method.trained())
        for name, p in net.named_parameters()
        if p.grad is not None
    }
    return figures, gradients, _networks(method)


def _built(case: Case) -> Method:
    torch.manual_seed(0)
    if case.method == "source":
        options = SourceOptions(**case.options)
        people = np.arange(SIZE, dtype=np.int64) % PEOPLE
        method: Method = Source(_net(case.trunk), options, people)
    else:
        kind = METHODS[case.method]
        recipe = Recipe(
            method=case.method,
            batch=BatchShape(identities=PEOPLE, instances=EACH, ghost=case.ghost),
            clustering=Clustering(algorithm="dbscan"),
            options=kind.Options(**case.options),
        )
        wanted = students_of(recipe)
        nets = [_net(case.trunk) for _ in range(wanted)]
        method = kind(nets, recipe.options, MadeUpClusterer(recipe, seed=1))
    _label(method, RoundOf(3 if case.late else 0, 4))
    for net in method.networks().values():
        group_batch_norm(net, case.ghost)
        net.double().train()
    return method


def small_net() -> ReIDNet:
    """A network with a trunk of two layers, one of them with IBN."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(built, "build_backbone", lambda name: (_small_trunk(), WIDTH))
        return ReIDNet("resnet18")


def _small_trunk() -> nn.Sequential:
    first = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), IBN(8), nn.ReLU())
    return nn.Sequential(first, nn.Conv2d(8, WIDTH, 1), nn.BatchNorm2d(WIDTH), nn.ReLU())


def _net(trunk: str) -> ReIDNet:
    return small_net() if trunk == "small" else ReIDNet(trunk)


def _label(method: Method, when: RoundOf) -> None:
    """Label made-up features; AML, whose labels need a graph, is told the phase instead."""
    rng = np.random.default_rng(0)
    if isinstance(method, AML):
        method.load_state_dict({"weighted": np.array(2 * when.number >= when.total)})
        for net in method.students:
            net.reset_classifier(PEOPLE, 0.1 * torch.randn(PEOPLE, net.dimension))
        return
    if isinstance(method, SourceMethod):
        method.start_source(separated(PEOPLE, PEOPLE, method.embedder().dimension, rng))
    rows = 10 * PEOPLE
    tables = tuple(separated(rows, PEOPLE, n.dimension, rng) for n in method.extractors())
    method.relabel(FeatureTable(tables, np.arange(rows) // PEOPLE % 2), when)


def _batch(method: str, number: int, seed: int) -> Batch:
    """Two views, or one, as the method wants them; DAAL's second batch is of its source."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(PEOPLE).repeat_interleave(EACH)
    if method == "daal" and number == 0:
        label[1] = -1  # an outlier
    grounds = torch.randn(PEOPLE, 3, 1, 1, generator=generator).double()
    views = tuple(
        grounds.repeat_interleave(EACH, 0)
        + torch.randn(SIZE, 3, 32, 16, generator=generator).double()
        for _ in range(2 if method in ("hli", "mmt") else 1)
    )
    return Batch(views, label, torch.randperm(40, generator=generator)[:SIZE])


def _networks(method: Method) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value.clone().double()
        for name, net in method.networks().items()
        for key, value in net.state_dict().items()
    }


def _apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert set(one) == set(other)
    return _largest({k: other[k] - v for k, v in one.items()}) / _largest(one)


def _largest(tensors: dict[str, Tensor]) -> float:
    return max(float(value.abs().max()) for value in tensors.values())

"""What a round costs is measured on real steps, for every method, without depending on labels."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.config import (  # noqa: E402
    Augmentation,
    BatchShape,
    Clustering,
    Compute,
    OptimizerSettings,
    Recipe,
)
from adapt.data.decoding.decode import DecodedCrops  # noqa: E402
from adapt.methods import METHODS, Method, SiteMethod, students_of  # noqa: E402
from adapt.training.loop import TrainingSession  # noqa: E402
from adapt.training.optimizer import train_step  # noqa: E402
from adapt.types import Batch, CropSet, Sample  # noqa: E402
from adapt.workflows import rehearsal  # noqa: E402
from adapt.workflows.rehearsal import MadeUpClusterer, StepCosts, rehearse, separated  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402
from tests.support.specs import on_cpu  # noqa: E402
from tests.support.thin_trunks import SHARE  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

CROPS, HEIGHT, WIDTH = 20, 32, 16


def recipe(method: str, **changes: object) -> Recipe:
    return Recipe(
        method=method,
        batch=BatchShape(identities=4, instances=2),
        augment=Augmentation(pad=1),
        clustering=Clustering(algorithm="dbscan"),
        options=METHODS[method].Options(),
        **changes,
    )


def crops(count: int = CROPS, people: int = 1) -> DecodedCrops:
    samples = tuple(Sample(Path(), str(n), n % 2, n % people) for n in range(count))
    images = np.random.default_rng(0).integers(0, 256, (count, HEIGHT, WIDTH, 3)).astype(np.uint8)
    return DecodedCrops(CropSet(Path(), samples, ("a", "b")), images)


def nets(method: str, how: Recipe) -> list[ReIDNet]:
    torch.manual_seed(0)
    wanted = students_of(how)
    return [ReIDNet("resnet18") for _ in range(wanted)]


def rehearsed(method: str, **changes: object) -> tuple[StepCosts, SiteMethod]:
    how = recipe(method, **changes)
    clusterer = MadeUpClusterer(how, seed=1)
    built = METHODS[method](nets(method, how), how.options, clusterer)
    return measured(built, clusterer, how), built


def measured(built: SiteMethod, clusterer: MadeUpClusterer, how: Recipe) -> StepCosts:
    source = crops(people=5) if how.options.source_wanted() else None
    session = TrainingSession(built, crops(), source)
    return rehearse(session, how, on_cpu(), clusterer, seed=1, patience=0)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_rehearsed(method: str) -> None:
    """nrmt and aml cluster the crops once for each of two networks, the others once."""
    found, built = rehearsed(method)
    assert found.labellings == (2 if method in ("nrmt", "aml") else 1)
    for seconds in (found.extract_seconds, found.embed_seconds, found.step_seconds):
        assert 0 < seconds < 60
    assert found.extract_seconds >= found.embed_seconds
    assert found.device_peak is None
    weights = sum(v.nbytes for net in built.networks().values() for v in net.state_dict().values())
    assert found.networks == weights


def test_bytes_of_training() -> None:
    """MMT trains two of four networks; the neck's bias stands still in each."""
    adam, built = rehearsed("mmt")
    learned = sum(
        p.numel() * 4 for net in built.trained() for p in net.parameters() if p.requires_grad
    )
    assert (adam.gradients, adam.optimizer) == (learned, 2 * learned)
    sgd, _ = rehearsed("mmt", optimizer=OptimizerSettings(algorithm="sgd"))
    assert sgd.optimizer == sgd.gradients == learned


def test_activations_grow_with_the_batch() -> None:
    """In float32: casts of weights, which bfloat16 keeps, do not grow."""
    compute = Compute(precision="float32")
    small, _ = rehearsed("hli", compute=compute)
    batch = BatchShape(identities=8, instances=2)
    how = recipe("hli").model_copy(update={"batch": batch, "compute": compute})
    clusterer = MadeUpClusterer(how, seed=1)
    built = METHODS["hli"](nets("hli", how), how.options, clusterer)
    large = measured(built, clusterer, how)
    assert large.activations == pytest.approx(2 * small.activations, rel=0.05)
    one_map = 8 * 64 // SHARE * (HEIGHT // 2) * (WIDTH // 2) * 4
    assert small.activations > 4 * one_map, "the stem alone keeps several maps of its size"


def test_steps_are_as_large_as_in_the_first_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the full rate, without warm-up, a rehearsal can diverge where the run does not."""
    rates: list[float] = []

    def noted(method: Method, batches: tuple[Batch, ...], opt: torch.optim.Optimizer) -> object:
        rates.append(opt.param_groups[0]["lr"])
        return train_step(method, batches, opt)

    monkeypatch.setattr(rehearsal, "train_step", noted)
    rehearsed("hli", optimizer=OptimizerSettings(lr=0.5, warmup_rounds=10))
    assert set(rates) == {0.5 * 0.01}


def test_made_up_people_take_turns() -> None:
    how = recipe("mmt")
    clusterer = MadeUpClusterer(how, seed=1)
    features = separated(80, 4, 16, np.random.default_rng(0))
    cameras = np.arange(80) % 2
    assert copy.copy(clusterer)(features, cameras).labels.tolist() == [n % 4 for n in range(80)]
    graph = clusterer.graph(features, cameras)
    assert clusterer.label(graph).clusters == 4
    assert clusterer.asked == [80, 80], "what a copy was asked counts, too"


def test_separated_people_are_apart() -> None:
    features = separated(60, 3, 32, np.random.default_rng(1))
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    similar = features @ features.T
    same = np.arange(60)[:, None] % 3 == np.arange(60) % 3
    assert similar[same].min() > similar[~same].max()

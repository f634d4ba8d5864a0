"""The loop's own business: order, learning rate, reproducibility, faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402

from adapt.config import Augmentation, BatchShape, OptimizerSettings, Schedule  # noqa: E402
from adapt.data.decoding.decode import DecodedCrops  # noqa: E402
from adapt.errors import ClusteringError, TrainingError  # noqa: E402
from adapt.methods import Source  # noqa: E402
from adapt.methods.source import SourceOptions  # noqa: E402
from adapt.runtime.timing import Stages  # noqa: E402
from adapt.training.extraction import MIN_CAMERA_CROPS, extract  # noqa: E402
from adapt.training.optimizer import build_optimizer  # noqa: E402
from adapt.training.state import NoCheckpointer, Snapshot  # noqa: E402
from adapt.types import (  # noqa: E402
    OUTLIER,
    Batch,
    CropSet,
    FeatureTable,
    Losses,
    PseudoLabels,
    RoundOf,
    Sample,
    Term,
)
from models.backbones.net import ReIDNet  # noqa: E402
from tests.support.loop import run_loop  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

CPU = torch.device("cpu")


def crops(persons: int = 4, each: int = 3) -> DecodedCrops:
    rng = np.random.default_rng(0)
    samples = tuple(
        Sample(Path(f"{p}_{i}.png"), f"{p}_{i}.png", camera=i % 2, person=p)
        for p in range(persons)
        for i in range(each)
    )
    images = rng.integers(0, 256, (len(samples), 32, 16, 3), dtype=np.uint8)
    return DecodedCrops(CropSet(Path(), samples, ("a", "b")), images)


def source(data: DecodedCrops, kind: type[Source] = Source) -> Source:
    torch.manual_seed(0)
    return kind(ReIDNet("resnet18"), SourceOptions(), data.crops.persons)


def run(method: Source, data: DecodedCrops, *, seed: int = 0, **changes: object):  # type: ignore[no-untyped-def]
    settings = {
        "schedule": Schedule(rounds=2, iterations=2),
        "batch": BatchShape(identities=2, instances=2),
        "augment": Augmentation(pad=2),
        "optimizer": OptimizerSettings(lr=1e-3),
        **changes,
    }
    return list(run_loop(method, data, seed=seed, **settings))  # type: ignore[arg-type]


def state(method: Source) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in method.net.state_dict().items()}


@pytest.mark.slow
def test_same_seed_same_network_other_seed_other_network() -> None:
    results = []
    for seed in (1, 1, 2):
        data = crops()
        method = source(data)
        run(method, data, seed=seed)
        results.append(state(method))
    one, again, other = results
    assert all(torch.equal(one[k], again[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


@pytest.mark.slow
def test_it_learns() -> None:
    data = crops(persons=3, each=4)
    rounds = run(
        source(data),
        data,
        schedule=Schedule(rounds=6, iterations=6),
        augment=Augmentation(flip=0, pad=0, erase=0),
        batch=BatchShape(identities=3, instances=4),
    )
    assert rounds[-1].metrics["loss"] < 0.7 * rounds[0].metrics["loss"]
    assert rounds[-1].metrics["accuracy"] > 0.9


def test_rounds_report_their_figures() -> None:
    data = crops()
    first, second = run(source(data), data)
    assert (first.number, second.number) == (1, 2)
    named = {"loss", "loss_id", "loss_tri", "accuracy", "active", "lr", "seconds_train"}
    assert named <= set(first.metrics)
    assert all(np.isfinite(value) for value in first.metrics.values())
    assert 1e7 < first.metrics["memory_bytes"] <= second.metrics["memory_bytes"]
    assert "memory_gpu_bytes" not in first.metrics


class _Slow(Source):
    """Labels in two stages and something besides."""

    stages = Stages()

    def label_seconds(self) -> Mapping[str, float]:
        return self.stages.seconds

    def relabel(self, table: FeatureTable, when: RoundOf) -> tuple[PseudoLabels, ...]:
        with self.stages("jaccard"):
            time.sleep(0.05)
        with self.stages("clusters"):
            time.sleep(0.02)
        time.sleep(0.03)
        return super().relabel(table, when)


@pytest.mark.slow
def test_stages_of_labelling_are_told_apart_and_add_up() -> None:
    data = crops()
    start = time.perf_counter()
    rounds = run(source(data, _Slow), data)
    whole = time.perf_counter() - start
    for each in rounds:
        m = each.metrics
        assert 0.05 <= m["seconds_jaccard"] < m["seconds_jaccard"] + m["seconds_clusters"] < whole
        assert m["seconds_clusters"] >= 0.02
        assert m["seconds_relabel"] >= 0.03
    seconds = [v for r in rounds for k, v in r.metrics.items() if k.startswith("seconds_")]
    assert sum(seconds) <= whole


class _EveryStep(NoCheckpointer):
    """Keeps the state after each step."""

    def __init__(self) -> None:
        self.states: list[Snapshot] = []

    def is_due(self) -> bool:
        return True

    def save(self, make_snapshot: Callable[[], Snapshot]) -> None:
        self.states.append(make_snapshot())


class _EveryRound(NoCheckpointer):
    """Notes which rounds were over, and how many steps of the next were taken, at each state."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, int]] = []

    def save(self, make_snapshot: Callable[[], Snapshot]) -> None:
        notes = make_snapshot().notes
        self.kept.append((notes["round"], notes["steps_in_round"]))


def test_a_state_is_saved_at_the_start_and_after_each_round_but_the_last() -> None:
    data, every = crops(), _EveryRound()
    run(source(data), data, schedule=Schedule(rounds=3, iterations=1), checkpointer=every)
    assert every.kept == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.slow
def test_a_round_that_goes_on_tells_the_times_of_before_the_stop_too() -> None:
    data, kept = crops(), _EveryStep()
    run(source(data, _Slow), data, checkpointer=kept)
    (state,) = (s for s in kept.states if (s.notes["round"], s.notes["steps_in_round"]) == (1, 1))
    before = state.notes["stages"]
    notes = {**state.notes, "stages": {**before, "seconds_train": 1000.0}}
    (rest,) = run(source(data, _Slow), data, resume=Snapshot(state.tensors, notes))
    assert 1000 < rest.metrics["seconds_train"] < 2000
    told = {name: v for name, v in rest.metrics.items() if name.startswith("seconds_")}
    assert {**told, "seconds_train": before["seconds_train"]} == before


class _Broken(Source):
    def step(self, batches: tuple[Batch, ...]) -> Losses:
        losses = super().step(batches)
        return Losses({k: Term(v.value * float("nan"), v.weight) for k, v in losses.terms.items()})


def test_a_loss_that_is_not_finite_stops_the_run_before_the_step() -> None:
    data = crops()
    method = source(data, _Broken)
    before = {k: p.clone() for k, p in method.net.named_parameters()}
    with pytest.raises(TrainingError, match=r"lower optimizer\.lr"):
        run(method, data)
    assert all(torch.equal(before[k], p) for k, p in method.net.named_parameters())


class _Idle(Source):
    """Every other batch holds nothing to learn from."""

    steps = 0

    def step(self, batches: tuple[Batch, ...]) -> Losses:
        self.steps += 1
        if self.steps % 2:
            return Losses({"kept": Term(torch.zeros(()), 1.0)})
        return Losses({"kept": Term(self.net.neck.weight.sum(), 1.0)})


def test_a_batch_without_anything_to_learn_from_is_skipped() -> None:
    data = crops()
    method = source(data, _Idle)
    optimizer = OptimizerSettings(algorithm="sgd", lr=0.1, momentum=0, weight_decay=0)
    schedule = Schedule(rounds=1, iterations=4)
    run(method, data, schedule=schedule, optimizer=optimizer)
    assert float(method.net.neck.weight.detach().mean()) == pytest.approx(1 - 2 * 0.1)


def test_too_few_identities_stop_the_run() -> None:
    data = crops(persons=2)
    with pytest.raises(ClusteringError):
        run(source(data), data, batch=BatchShape(identities=3, instances=2))


class _Recorder:
    """A method that writes down what the loop does to it, and when."""

    Options = SourceOptions
    views = 2
    fresh_optimizer = True
    sampling = "identities"

    def __init__(self, data: DecodedCrops) -> None:
        torch.manual_seed(0)
        self.student, self.teacher = ReIDNet("resnet18"), ReIDNet("resnet18")
        self.teacher.requires_grad_(False)
        self.labels = PseudoLabels(data.crops.persons, "true")
        self.events: list[str] = []
        self.tables: list[FeatureTable] = []
        self.batches: list[Batch] = []
        self.classifiers: list[torch.Tensor] = []

    def networks(self) -> dict[str, ReIDNet]:
        return {"student": self.student, "teacher": self.teacher}

    def trained(self) -> tuple[ReIDNet, ...]:
        return (self.student,)

    def extractors(self) -> tuple[ReIDNet, ...]:
        return (self.teacher,)

    def relabel(self, table: FeatureTable, when: RoundOf) -> tuple[PseudoLabels, ...]:
        self.events.append(f"relabel {when.number} of {when.total}")
        self.tables.append(table)
        self.student.reset_classifier(self.labels.clusters)
        self.teacher.reset_classifier(self.labels.clusters)
        return (self.labels,)

    def label_seconds(self) -> dict[str, float]:
        return {}

    def _classifier(self) -> torch.Tensor:
        assert self.student.classifier is not None
        return self.student.classifier.weight.detach().clone()

    def step(self, batches: tuple[Batch, ...]) -> Losses:
        (batch,) = batches
        modes = {name: net.training for name, net in self.networks().items()}
        assert modes == {"student": True, "teacher": True}, "all networks are in train mode"
        self.events.append("step")
        self.batches.append(batch)
        self.classifiers.append(self._classifier())
        out = self.student(batch.views[0])
        assert out.logits is not None
        loss = torch.nn.functional.cross_entropy(out.logits, batch.label)
        return Losses({"id": Term(loss, 1.0)})

    def after_step(self, step: int) -> None:
        moved = not torch.equal(self._classifier(), self.classifiers[-1])
        assert moved, "the optimizer has stepped, and it knows this round's classifier"
        self.events.append(f"after {step}")

    def after_round(self, figures: Mapping[str, float]) -> tuple[str, ...]:
        self.events.append("look back")
        return (f"the loss was {figures['loss']:.6f}",)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        pass

    def embedder(self) -> ReIDNet:
        return self.student


@pytest.mark.slow
def test_the_loop_keeps_its_word_to_a_method() -> None:
    data = crops()
    method = _Recorder(data)
    rounds = run(method, data)  # type: ignore[arg-type]
    assert method.events == [
        *("relabel 0 of 2", "step", "after 0", "step", "after 1", "look back"),
        *("relabel 1 of 2", "step", "after 2", "step", "after 3", "look back"),
    ]
    for each in rounds:
        assert each.warnings == (f"the loss was {each.metrics['loss']:.6f}",)
    for batch in method.batches:
        first, second = batch.views
        assert not torch.equal(first, second), "each view is augmented on its own"
        assert torch.equal(batch.label, torch.from_numpy(data.crops.persons[batch.index]))


@pytest.mark.slow
def test_the_extractors_features_are_labelled_camera_by_camera_if_asked() -> None:
    data = crops(persons=4, each=2 * MIN_CAMERA_CROPS // 4)
    plain, by_camera = _Recorder(data), _Recorder(data)
    once = Schedule(rounds=1, iterations=1)
    (expected,) = extract([plain.teacher], data.images, device=CPU)
    run(plain, data, schedule=once)  # type: ignore[arg-type]
    run(by_camera, data, schedule=once, camera_statistics=True)  # type: ignore[arg-type]
    np.testing.assert_allclose(plain.tables[0].features[0], expected, atol=1e-5)
    (apart,) = extract(
        [_Recorder(data).teacher], data.images, device=CPU, cameras=data.crops.camera_codes
    )
    np.testing.assert_allclose(by_camera.tables[0].features[0], apart, atol=1e-5)
    assert not np.allclose(apart, expected, atol=1e-3)


@pytest.mark.slow
def test_a_kept_optimizer_remembers_and_a_fresh_one_does_not() -> None:
    """Adam's first step from fresh moments is lr in size for every weight with a gradient."""
    data = crops()
    steps = {}
    for fresh in (True, False):
        method = _Recorder(data)
        method.fresh_optimizer = fresh
        kept = method.student.backbone.conv1.weight
        before = []
        optimizer = OptimizerSettings(lr=1e-3, weight_decay=0)
        schedule = Schedule(rounds=2, iterations=1)
        for _ in run_loop(
            method,  # type: ignore[arg-type]
            data,
            augment=Augmentation(pad=2),
            optimizer=optimizer,
            schedule=schedule,
            batch=BatchShape(identities=2, instances=2),
        ):
            before.append(kept.detach().clone())
        moved = (before[1] - before[0]).abs()
        steps[fresh] = float(moved.median())
    assert steps[True] == pytest.approx(1e-3, rel=0.05)
    assert steps[False] < 0.95e-3


@pytest.mark.parametrize("algorithm", ["adam", "sgd"])
def test_a_kept_optimizer_goes_on_as_if_the_round_had_not_ended(algorithm: str) -> None:
    """Two rounds of one step end where one round of two does: a constant gradient, same rate."""
    ends = []
    for rounds, iterations in ((2, 1), (1, 2)):
        data = crops()
        method = source(data, _Linear)
        run(
            method,
            data,
            schedule=Schedule(rounds=rounds, iterations=iterations),
            optimizer=OptimizerSettings(algorithm=algorithm, lr=0.1),
        )
        ends.append(method.net.neck.weight.detach())
    assert torch.equal(*ends)


@pytest.mark.slow
def test_batch_norm_works_in_the_groups_that_the_batch_says() -> None:
    states = []
    for ghost in (0, 2, 4):
        data = crops()
        method = source(data)
        shape = BatchShape(identities=2, instances=2, ghost=ghost)
        run(method, data, batch=shape, schedule=Schedule(rounds=1, iterations=2))
        states.append(state(method))
    whole, pairs, four = states
    assert list(whole) == list(pairs)
    assert all(torch.equal(whole[k], four[k]) for k in whole), "one group is the whole batch"
    assert not torch.equal(whole["backbone.bn1.running_var"], pairs["backbone.bn1.running_var"])


class _Linear(Source):
    """A loss whose gradient is 1 for every scale of the neck, and nothing else."""

    def step(self, batches: tuple[Batch, ...]) -> Losses:
        return Losses({"sum": Term(self.net.neck.weight.sum(), 1.0)})


def test_each_step_is_one_gradient_at_the_rounds_learning_rate() -> None:
    data = crops()
    method = source(data, _Linear)
    scale = method.net.neck.weight
    rounds = run_loop(
        method,
        data,
        schedule=Schedule(rounds=3, iterations=2),
        batch=BatchShape(identities=2, instances=2),
        augment=Augmentation(pad=2),
        optimizer=OptimizerSettings(
            algorithm="sgd",
            lr=1.0,
            momentum=0,
            weight_decay=0,
            warmup_rounds=1,
            milestones=(2,),
            decay=0.1,
        ),
    )
    places = [(result.metrics["lr"], float(scale.detach().mean())) for result in rounds]
    expected = [(0.01, 1 - 2 * 0.01), (1.0, 1 - 2 * 1.01), (0.1, 1 - 2 * 1.11)]
    for place, by_hand in zip(places, expected, strict=True):
        assert place == pytest.approx(by_hand, abs=1e-5)


class _Both(Source):
    """A loss whose gradient is 1 for a layer of the backbone and for one outside."""

    def step(self, batches: tuple[Batch, ...]) -> Losses:
        loss = self.net.backbone.bn1.weight.sum() + self.net.neck.weight.sum()
        return Losses({"sum": Term(loss, 1.0)})


@pytest.mark.parametrize("factor", [1.0, 5.0])
def test_new_layers_have_their_own_learning_rate_and_every_round_drops_anew(factor: float) -> None:
    data = crops()
    method = source(data, _Both)
    old, new = method.net.backbone.bn1.weight, method.net.neck.weight
    run(
        method,
        data,
        schedule=Schedule(rounds=2, iterations=4),
        optimizer=OptimizerSettings(
            algorithm="sgd",
            lr=0.1,
            momentum=0,
            weight_decay=0,
            new_layers=factor,
            drops=(0.5,),
            decay=0.1,
        ),
    )
    way = 2 * (0.1 + 0.1 + 0.01 + 0.01)  # two rounds of four steps
    assert float(old.detach().mean()) == pytest.approx(1 - way, abs=1e-5)
    assert float(new.detach().mean()) == pytest.approx(1 - factor * way, abs=1e-5)


@pytest.mark.parametrize("algorithm", ["adam", "sgd"])
def test_weights_decay_as_the_settings_say(algorithm: str) -> None:
    """A loss that wants nothing leaves decay alone: it pulls every weight toward 0."""
    method = source(crops())
    settings = OptimizerSettings(algorithm=algorithm, lr=1e-2, weight_decay=0.5)
    opt = build_optimizer(method, settings)
    weight = method.net.backbone.conv1.weight
    before = weight.detach().abs().mean()
    (0 * weight.sum()).backward()
    opt.step()
    assert weight.detach().abs().mean() < 0.999 * before


class _Changing(_Linear):
    """Two clusters in the first round, all persons from then on."""

    def relabel(self, table: FeatureTable, when: RoundOf) -> tuple[PseudoLabels, ...]:
        if when.number:
            return (self.labels,)
        return (PseudoLabels(self.labels.labels % 2, "halves"),)


def test_labels_are_compared_with_those_of_the_round_before() -> None:
    data = crops(persons=6)
    first, second, third = run(
        source(data, _Changing), data, schedule=Schedule(rounds=3, iterations=1)
    )
    assert not {"agreement", "changed_share"} & set(first.metrics)
    assert not first.warnings
    assert second.metrics["changed_share"] == pytest.approx(2 / 3)
    assert second.metrics["agreement"] < 1
    assert any("from 2 to 6" in warning for warning in second.warnings)
    assert third.metrics["agreement"] == 1
    assert third.metrics["changed_share"] == 0
    assert not third.warnings


class _Two(_Linear):
    """Two sets of labels: all persons, and thirds of them with one image left out."""

    def __init__(self, *start: object) -> None:
        super().__init__(*start)  # type: ignore[arg-type]
        self.seen: list[tuple[Batch, ...]] = []

    def relabel(self, table: FeatureTable, when: RoundOf) -> tuple[PseudoLabels, ...]:
        thirds = self.labels.labels % 3
        thirds[0] = OUTLIER
        return self.labels, PseudoLabels(thirds, "thirds")

    def step(self, batches: tuple[Batch, ...]) -> Losses:
        self.seen.append(batches)
        return super().step(batches)


def test_each_set_of_labels_has_its_own_batches_and_figures() -> None:
    data = crops(persons=6)
    method = source(data, _Two)
    assert isinstance(method, _Two)
    first, second = run(method, data)
    for whole, third in method.seen:
        assert torch.equal(whole.label, torch.from_numpy(data.crops.persons[whole.index]))
        assert torch.equal(third.label, torch.from_numpy(data.crops.persons[third.index] % 3))
        assert not torch.equal(whole.index, third.index), "drawn independently"
    assert [result.metrics["clusters_1"] for result in (first, second)] == [6, 6]
    assert [result.metrics["clusters_2"] for result in (first, second)] == [3, 3]
    assert second.metrics["outlier_share_2"] == pytest.approx(1 / 18)
    assert second.metrics["agreement_1"] == second.metrics["agreement_2"] == 1
    assert "clusters" not in first.metrics
    assert [labels.rule for labels in first.labels] == ["6 true identities", "thirds"]


class _Same(_Two):
    """Both sets of labels are equal."""

    def relabel(self, table: FeatureTable, when: RoundOf) -> tuple[PseudoLabels, ...]:
        return self.labels, self.labels


def test_batches_differ_from_set_to_set_and_from_round_to_round() -> None:
    data = crops(persons=6)
    method = source(data, _Same)
    assert isinstance(method, _Same)
    run(method, data, schedule=Schedule(rounds=2, iterations=1))
    drawn = {tuple(batch.index.tolist()) for batches in method.seen for batch in batches}
    assert len(drawn) == 2 * 2, "two networks with the same clusters still see other crops"


class _Watcher(_Recorder):
    """Keeps the batches and learns nothing."""

    def __init__(self, data: DecodedCrops, drawn: list[tuple[Batch, ...]]) -> None:
        super().__init__(data)
        self.drawn = drawn

    def step(self, batches: tuple[Batch, ...]) -> Losses:
        self.drawn.append(batches)
        return Losses({"none": Term(0 * self.student.neck.weight.sum(), 1.0)})

    def after_step(self, step: int) -> None:
        """Nothing moved."""


@pytest.mark.slow
def test_a_method_with_one_set_of_labels_draws_the_same_batches_beside_a_source() -> None:
    data, other = crops(persons=6), crops(persons=3, each=4)
    shifted = CropSet(
        Path(),
        tuple(replace(s, person=10 * s.person + 5) for s in other.crops.samples),
        other.crops.cameras,
    )
    drawn: list[tuple[Batch, ...]] = []
    for labelled in (None, DecodedCrops(shifted, other.images)):
        method = _Watcher(data, drawn)
        run(method, data, source=labelled)  # type: ignore[arg-type]
    alone, beside = drawn[:4], drawn[4:]
    assert [len(batches) for batches in drawn] == [1] * 4 + [2] * 4
    for (one,), (target, labelled_batch) in zip(alone, beside, strict=True):
        assert torch.equal(one.index, target.index)
        assert torch.equal(one.views[0], target.views[0])
        persons = other.crops.persons[labelled_batch.index]
        assert torch.equal(labelled_batch.label, torch.from_numpy(persons)), "0..K-1, not 5, 15, 25"


@pytest.mark.parametrize("across", [True, False])
def test_cameras_of_an_identity_are_mixed_where_the_batch_says_so(across: bool) -> None:
    data = crops(persons=4, each=6)
    drawn: list[tuple[Batch, ...]] = []
    shape = BatchShape(identities=4, instances=2, across_cameras=across)
    run(_Watcher(data, drawn), data, batch=shape, schedule=Schedule(rounds=1, iterations=6))  # type: ignore[arg-type]
    cameras = [data.crops.camera_codes[batch.index].reshape(4, 2) for (batch,) in drawn]
    assert all((pair[:, 0] != pair[:, 1]).all() for pair in cameras) == across


class _AnyImage(_Two):
    """Draws outliers, too, and needs no P clusters."""

    sampling = "images"

    def relabel(self, table: FeatureTable, when: RoundOf) -> tuple[PseudoLabels, ...]:
        return super().relabel(table, when)[1:]


def test_images_are_drawn_whether_clustered_or_not() -> None:
    data = crops(persons=6, each=4)
    method = source(data, _AnyImage)
    assert isinstance(method, _AnyImage)
    run(
        method,
        data,
        schedule=Schedule(rounds=1, iterations=3),
        batch=BatchShape(identities=4, instances=2),
    )
    rows = torch.cat([batch.index for (batch,) in method.seen])
    assert rows.sort().values.tolist() == list(range(24)), "each once in a pass"
    labels = torch.cat([batch.label for (batch,) in method.seen])
    assert labels[rows == 0].item() == OUTLIER


def test_passes_over_the_clusters_instead_of_iterations() -> None:
    data = crops(persons=5)
    method = source(data, _Two)
    assert isinstance(method, _Two)
    run(method, data, schedule=Schedule(rounds=1, iterations=99, passes=3))
    assert len(method.seen) == 3 * 3  # 5 clusters in batches of 2


def test_passes_over_the_crops_where_images_are_drawn() -> None:
    data = crops(persons=6)
    method = source(data, _AnyImage)
    assert isinstance(method, _AnyImage)
    run(method, data, schedule=Schedule(rounds=1, iterations=99, passes=3))
    assert len(method.seen) == 3 * 5  # 18 crops in batches of 4

"""MMT step by step against slow, obvious versions of its paper's equations."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from torch.nn import functional as F  # noqa: E402

from adapt.clustering.clusterer import Clusterer  # noqa: E402
from adapt.config import (  # noqa: E402
    Augmentation,
    BatchShape,
    Clustering,
    OptimizerSettings,
    Schedule,
)
from adapt.data.decoding.decode import DecodedCrops  # noqa: E402
from adapt.errors import ClusteringError, ConfigError  # noqa: E402
from adapt.methods import MMT  # noqa: E402
from adapt.methods.mmt import MMTOptions  # noqa: E402
from adapt.methods.parts.ema import ema_momentum  # noqa: E402
from adapt.recipes import load_recipe  # noqa: E402
from adapt.training.loop import RoundResult  # noqa: E402
from adapt.training.optimizer import build_optimizer  # noqa: E402
from adapt.types import (  # noqa: E402
    Batch,
    CropSet,
    FeatureTable,
    PseudoLabels,
    RoundOf,
    Sample,
)
from models.backbones.net import ReIDNet  # noqa: E402
from tests.support.loop import run_loop  # noqa: E402
from tests.support.loss_terms import term_values, term_weights  # noqa: E402
from tests.support.thin_trunks import SHARE  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

D = 512 // SHARE
P, S = 3, 2


@cache
def built() -> tuple[ReIDNet, ...]:
    torch.manual_seed(0)
    return tuple(ReIDNet("resnet18", classes=5) for _ in range(2))


def nets() -> list[ReIDNet]:
    return copy.deepcopy(list(built()))


def mmt(**options: object) -> MMT:
    chosen = MMTOptions(**options)
    return MMT(nets()[: chosen.networks], chosen, clusterer())


def clusterer(**changes: object) -> Clusterer:
    settings = Clustering(algorithm="kmeans", clusters=P, camera_centering=False)
    return Clusterer(settings.model_copy(update=changes), identities_per_batch=P, seed=0)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    views = tuple(torch.randn(P * S, 3, 32, 16, generator=generator) for _ in range(2))
    return Batch(views, torch.arange(P).repeat_interleave(S), torch.arange(P * S))


def labelled(method: MMT) -> MMT:
    """Give the method its classifiers, as a round does."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(P, method.students[0].dimension)) * 5
    features = np.repeat(centers, 4, axis=0) + rng.normal(size=(P * 4, centers.shape[1])) * 0.1
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    table = FeatureTable((features,) * len(method.students), np.zeros(len(features), np.int64))
    method.relabel(table, RoundOf(0, 1))
    for net in method.networks().values():
        net.train()
    return method


def test_losses_equal_the_equations_written_out() -> None:
    method = labelled(MMT(nets(), MMTOptions(), clusterer()))
    with torch.no_grad():  # make the averages differ from the students
        for teacher in method.teachers:
            for parameter in teacher.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    data = batch()
    losses = method.step((data,))
    y = data.label
    with torch.no_grad():
        f = [net(view).pooled for net, view in zip(method.students, data.views, strict=True)]
        z = [net(view).logits for net, view in zip(method.students, data.views, strict=True)]
        mf = [net(view).pooled for net, view in zip(method.teachers, data.views, strict=True)]
        mz = [net(view).logits for net, view in zip(method.teachers, data.views, strict=True)]
    for k, peer in ((0, 1), (1, 0)):
        hard_id = soft_id = tri = soft_tri = 0.0
        for i in range(P * S):
            log_p = F.log_softmax(z[k][i], 0)
            target = torch.full((P,), 0.1 / P)
            target[y[i]] += 0.9
            hard_id -= float((target * log_p).sum()) / (P * S)
            soft_id -= float((F.softmax(mz[peer][i], 0) * log_p).sum()) / (P * S)
            d = [float((f[k][i] - f[k][j]).norm()) for j in range(P * S)]
            p = max((j for j in range(P * S) if y[j] == y[i] and j != i), key=lambda j: d[j])
            n = min((j for j in range(P * S) if y[j] != y[i]), key=lambda j: d[j])
            big_t = np.exp(d[n]) / (np.exp(d[p]) + np.exp(d[n]))
            t_p = float((mf[peer][i] - mf[peer][p]).norm())
            t_n = float((mf[peer][i] - mf[peer][n]).norm())
            soft = np.exp(t_n) / (np.exp(t_p) + np.exp(t_n))
            tri -= np.log(big_t) / (P * S)
            soft_tri -= (soft * np.log(big_t) + (1 - soft) * np.log(1 - big_t)) / (P * S)
        expected = {"id": hard_id, "soft_id": soft_id, "tri": tri, "soft_tri": soft_tri}
        for name, value in expected.items():
            assert term_values(losses)[f"{name}_{k + 1}"].item() == pytest.approx(
                value, rel=1e-3
            ), name


def test_weights_are_equation_9() -> None:
    losses = labelled(MMT(nets(), MMTOptions(lambda_id=0.3, lambda_tri=0.8), clusterer())).step(
        (batch(),)
    )
    for k in (1, 2):
        assert term_weights(losses)[f"id_{k}"] == pytest.approx(0.7)
        assert term_weights(losses)[f"soft_id_{k}"] == pytest.approx(0.3)
        assert term_weights(losses)[f"tri_{k}"] == pytest.approx(0.2)
        assert term_weights(losses)[f"soft_tri_{k}"] == pytest.approx(0.8)


def test_each_student_learns_from_the_other_average_only() -> None:
    """Changing E_2 changes the soft losses of theta_1 and nothing of theta_2."""
    method = labelled(MMT(nets(), MMTOptions(), clusterer()))
    before = {k: float(v) for k, v in term_values(method.step((batch(),))).items()}
    with torch.no_grad():
        for parameter in method.teachers[1].parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    after = {k: float(v) for k, v in term_values(method.step((batch(),))).items()}
    changed = {k for k in before if before[k] != after[k]}
    assert changed == {"soft_id_1", "soft_tri_1"}


def test_teachers_get_no_gradient_and_students_do() -> None:
    method = labelled(MMT(nets(), MMTOptions(), clusterer()))
    method.step((batch(),)).total().backward()
    assert all(p.grad is None for net in method.teachers for p in net.parameters())
    for net in method.students:
        missing = [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing


def test_teachers_normalize_by_the_batch_and_keep_their_own_statistics() -> None:
    method = labelled(MMT(nets(), MMTOptions(), clusterer()))
    before = method.teachers[0].neck.running_mean.clone()
    method.step((batch(),))
    assert not torch.equal(before, method.teachers[0].neck.running_mean)
    assert not torch.equal(
        method.teachers[0].neck.running_mean, method.students[1].neck.running_mean
    )


def test_relabel_clusters_the_mean_and_starts_all_classifiers_from_the_centers() -> None:
    method = MMT(nets(), MMTOptions(), clusterer())
    rng = np.random.default_rng(3)
    dimension = method.students[0].dimension
    truth = np.repeat(np.arange(P), 5)
    centers = rng.normal(size=(P, dimension))
    a, b = (
        (centers[truth] + 0.05 * rng.normal(size=(15, dimension))).astype(np.float32)
        for _ in range(2)
    )
    a, b = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (a, b))
    (labels,) = method.relabel(FeatureTable((a, b), np.zeros(15, np.int64)), RoundOf(0, 1))
    assert labels.clusters == P
    assert len({(t, c) for t, c in zip(truth, labels.labels, strict=True)}) == P
    mean = (a + b) / 2
    for k in range(P):
        center = mean[labels.labels == k].mean(0)
        center /= np.linalg.norm(center)
        for net in method.networks().values():
            assert net.classifier is not None
            np.testing.assert_allclose(net.classifier.weight[k].detach().numpy(), center, atol=1e-5)
    assert not any(p.requires_grad for net in method.teachers for p in net.parameters())


def test_after_step_averages_parameters_but_not_statistics() -> None:
    method = labelled(MMT(nets(), MMTOptions(ema=0.9), clusterer()))
    with torch.no_grad():
        for student in method.students:
            student.neck.weight.fill_(3.0)
            student.neck.running_mean.fill_(7.0)
    method.after_step(0)
    assert torch.equal(method.teachers[0].neck.weight, method.students[0].neck.weight)
    with torch.no_grad():
        method.students[0].neck.weight.fill_(1.0)
    method.after_step(10_000)
    assert method.teachers[0].neck.weight.tolist() == pytest.approx(
        [0.9 * 3 + 0.1 * 1] * method.teachers[0].dimension
    )
    assert not (method.teachers[0].neck.running_mean == 7.0).any()


def test_the_averages_are_what_is_clustered_and_the_students_what_is_trained() -> None:
    method = MMT(nets(), MMTOptions(), clusterer())
    assert method.extractors() == method.teachers
    assert method.trained() == method.students
    assert method.fresh_optimizer
    assert MMT.views == 2


def test_kept_network() -> None:
    for keep in (1, 2):
        method = MMT(nets(), MMTOptions(keep=keep), clusterer())
        assert method.embedder() is method.teachers[keep - 1]


def test_wants_two_networks() -> None:
    with pytest.raises(ValueError, match="networks given: 1; MMT trains 2 "):
        MMT(nets()[:1], MMTOptions(), clusterer())


def test_pinned_first_step() -> None:
    """A change of any number here is a change of the method: say so in the changelog."""
    method = labelled(MMT(nets(), MMTOptions(), clusterer()))
    total = float(method.step((batch(),)).total())
    assert total == pytest.approx(3.8057, rel=1e-3)


def test_the_clusterer_knows_which_camera_saw_what() -> None:
    seen = []

    def cluster(features: np.ndarray, cameras: np.ndarray) -> PseudoLabels:
        seen.append(cameras)
        return PseudoLabels(np.repeat(np.arange(P), 2), "given")

    method = MMT(nets(), MMTOptions(), cluster)  # type: ignore[arg-type]
    features = np.eye(2 * P, method.students[0].dimension, dtype=np.float32)
    cameras = np.array([0, 1, 2, 0, 1, 2])
    method.relabel(FeatureTable((features, features), cameras), RoundOf(0, 1))
    np.testing.assert_array_equal(seen[0], cameras)


def test_outliers_only_are_left_to_the_loop_to_refuse() -> None:
    def cluster(features: np.ndarray, cameras: np.ndarray) -> PseudoLabels:
        return PseudoLabels(np.full(len(features), -1), "none")

    method = MMT(nets(), MMTOptions(), cluster)  # type: ignore[arg-type]
    features = np.eye(6, method.students[0].dimension, dtype=np.float32)
    (labels,) = method.relabel(FeatureTable((features, features), np.zeros(6, int)), RoundOf(0, 1))
    assert labels.outlier_share == 1
    assert method.students[0].classifier is not None
    assert method.students[0].classifier.out_features == 5, "as it was"


def shaken(method: MMT) -> MMT:
    """Averages that differ from their networks in every parameter."""
    torch.manual_seed(3)
    with torch.no_grad():
        for teacher in method.teachers:
            for parameter in teacher.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    return method


def soft_id(pupil: torch.Tensor, teacher: torch.Tensor) -> float:
    return float(-(teacher.softmax(1) * pupil.log_softmax(1)).sum(1).mean())


@pytest.mark.slow
def test_without_averages_the_peer_itself_teaches() -> None:
    """Table 2, w/o E: alpha = 0 in (4), so each average is its network, statistics included."""
    method = labelled(mmt(ema=0.0))
    opt = build_optimizer(method, OptimizerSettings(lr=1e-3))
    for step in range(2):
        opt.zero_grad()
        method.step((batch(),)).total().backward()
        opt.step()
        method.after_step(step)
    for student, teacher in zip(method.students, method.teachers, strict=True):
        for name, value in student.state_dict().items():
            torch.testing.assert_close(teacher.state_dict()[name], value, msg=name)
    data = batch()
    losses = method.step((data,))
    with torch.no_grad():
        z = [net(view).logits for net, view in zip(method.students, data.views, strict=True)]
    assert term_values(losses)["soft_id_1"].item() == pytest.approx(soft_id(z[0], z[1]), rel=1e-4)
    assert term_values(losses)["soft_id_2"].item() == pytest.approx(soft_id(z[1], z[0]), rel=1e-4)


def test_without_a_second_network_its_own_average_teaches() -> None:
    """Table 2, w/o theta_2."""
    method = shaken(labelled(mmt(networks=1)))
    assert list(method.networks()) == ["theta_1", "E_1"]
    assert len(method.trained()) == len(method.extractors()) == 1
    assert method.embedder() is method.teachers[0]
    data = batch()
    losses = method.step((data,))
    assert set(term_values(losses)) == {"id_1", "soft_id_1", "tri_1", "soft_tri_1"}
    with torch.no_grad():
        pupil = method.students[0](data.views[0])
        teacher = method.teachers[0](data.views[1])
    expected = soft_id(pupil.logits, teacher.logits)
    assert term_values(losses)["soft_id_1"].item() == pytest.approx(expected, rel=1e-4)
    losses.total().backward()
    assert method.students[0].backbone.conv1.weight.grad is not None
    assert method.teachers[0].backbone.conv1.weight.grad is None


def test_one_network_is_wanted_then_and_no_second_can_be_kept() -> None:
    assert MMTOptions().students_wanted(MMT.max_students) == 2
    assert MMTOptions(networks=1).students_wanted(MMT.max_students) == 1
    with pytest.raises(ValueError, match="networks given: 2; MMT trains 1 "):
        MMT(nets(), MMTOptions(networks=1), clusterer())
    with pytest.raises(ConfigError, match="keep = 2 needs networks = 2"):
        load_recipe("mmt", method="mmt", overrides=["options.networks=1", "options.keep=2"])


@pytest.mark.parametrize(("share", "term"), [("lambda_id", "soft_id"), ("lambda_tri", "soft_tri")])
def test_without_a_soft_loss_nothing_of_it_reaches_a_network(share: str, term: str) -> None:
    """Table 2, w/o L_sid and w/o L_stri: only the other soft loss hears of the averages."""
    method = labelled(mmt(**{share: 0.0}))
    losses = method.step((batch(),))
    assert term_weights(losses)[f"{term}_1"] == term_weights(losses)[f"{term}_2"] == 0
    rest = sum(
        term_weights(losses)[k] * v
        for k, v in term_values(losses).items()
        if not k.startswith(term)
    )
    weight = method.students[0].backbone.conv1.weight
    (whole,) = torch.autograd.grad(losses.total(), weight, retain_graph=True)
    (without,) = torch.autograd.grad(rest, weight)
    torch.testing.assert_close(whole, without)


@pytest.mark.parametrize("step", [0, 1, 20])
def test_the_ramp_can_be_left_out(step: int) -> None:
    for ramp, momentum in ((True, ema_momentum(step, 0.9)), (False, 0.9)):
        method = mmt(ema=0.9, ema_ramp=ramp)
        with torch.no_grad():
            method.students[1].neck.weight.fill_(3.0)  # the average starts from 1
        method.after_step(step)
        moved = float(method.teachers[1].neck.weight[0])
        assert moved == pytest.approx(momentum + (1 - momentum) * 3)


def test_averaged_statistics_are_what_the_averages_look_through() -> None:
    method = shaken(labelled(mmt(average_statistics=True, ema=0.5)))
    data, teacher, student = batch(), method.teachers[1], method.students[1]
    with torch.no_grad():
        expected = teacher.eval()(data.views[1]).logits
        pupil = copy.deepcopy(method.students[0])(data.views[0]).logits
    teacher.train()  # as the loop leaves it
    start = teacher.neck.running_mean.clone()
    losses = method.step((data,))
    assert term_values(losses)["soft_id_1"].item() == pytest.approx(
        soft_id(pupil, expected), rel=1e-4
    )
    assert torch.equal(teacher.neck.running_mean, start), "it keeps no statistics of its own"
    method.after_step(10)
    torch.testing.assert_close(
        teacher.neck.running_mean, 0.5 * start + 0.5 * student.neck.running_mean
    )


def test_the_networks_themselves_can_be_clustered() -> None:
    method = mmt(clustered="students")
    assert method.extractors() == method.students
    assert method.embedder() is method.teachers[0]


@pytest.mark.parametrize(("normalize", "length"), [(False, 0.5**0.5), (True, 1.0)])
def test_the_mean_is_clustered_as_it_is_or_scaled(normalize: bool, length: float) -> None:
    """Two unit vectors at a right angle have a mean of length sqrt(1/2)."""
    seen = []

    def cluster(features: np.ndarray, cameras: np.ndarray) -> PseudoLabels:
        seen.append(features)
        return PseudoLabels(np.repeat(np.arange(P), 2), "given")

    method = MMT(nets(), MMTOptions(normalize_mean=normalize), cluster)  # type: ignore[arg-type]
    one = np.eye(2 * P, method.students[0].dimension, dtype=np.float32)
    other = np.roll(one, 100, axis=1)
    method.relabel(FeatureTable((one, other), np.zeros(2 * P, np.int64)), RoundOf(0, 1))
    (features,) = seen
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), length, rtol=1e-6)
    np.testing.assert_allclose(features / length, (one + other) / 2**0.5, rtol=1e-6)


def test_classifiers_can_start_at_random() -> None:
    method = labelled(mmt(classifier="random"))
    weights = [net.classifier.weight.detach() for net in method.networks().values()]
    theta_1, theta_2, average_1, average_2 = weights
    assert theta_1.shape == (P, method.students[0].dimension)
    assert 0.0008 < float(theta_1.std()) < 0.0012
    assert not torch.equal(theta_1, theta_2)
    assert torch.equal(theta_1, average_1), "(4) starts with E = theta"
    assert torch.equal(theta_2, average_2)
    assert [net.classifier.weight.requires_grad for net in method.networks().values()] == [
        *(True, True, False, False),
    ]


def test_the_recipe_names_every_option() -> None:
    path = Path(__file__).parents[3] / "adapt" / "recipes" / "mmt.toml"
    named = tomllib.loads(path.read_text())["options"]
    assert set(named) == set(MMTOptions.model_fields)
    assert MMTOptions(**named) == MMTOptions(), "the defaults are those of the full-size recipe"


def people(persons: int = 6, each: int = 4) -> DecodedCrops:
    """Crops of plain colors under noise; two cameras."""
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (persons, 3))
    samples, images = [], []
    for person in range(persons):
        for i in range(each):
            name = f"{person}_{i}.png"
            samples.append(Sample(Path(name), name, camera=i % 2, person=person))
            noise = rng.integers(-20, 21, (32, 16, 3))
            images.append(np.clip(colors[person] + noise, 0, 255).astype(np.uint8))
    return DecodedCrops(CropSet(Path(), tuple(samples), ("a", "b")), np.stack(images))


def training(method: MMT, rounds: int = 2, steps: int = 1) -> Iterator[RoundResult]:
    return run_loop(
        method,
        people(),
        schedule=Schedule(rounds=rounds, iterations=steps),
        batch=BatchShape(identities=P, instances=2, ghost=2),
        augment=Augmentation(pad=2),
        optimizer=OptimizerSettings(),
        camera_statistics=True,
    )


@pytest.mark.slow
def test_two_rounds_on_density_labels_move_every_ibn_network() -> None:
    torch.manual_seed(0)
    students = [ReIDNet("resnet18_ibn_a") for _ in range(2)]
    density = clusterer(algorithm="dbscan", radius=0.5, k1=4, k2=2, min_samples=2)
    method = MMT(students, MMTOptions(), density)
    start = {name: copy.deepcopy(net.state_dict()) for name, net in method.networks().items()}
    first, second = training(method)
    assert (first.number, second.number) == (1, 2)
    terms = {f"loss_{t}_{k}" for t in ("id", "soft_id", "tri", "soft_tri") for k in (1, 2)}
    assert {"accuracy_1", "accuracy_2", "clusters", *terms} <= set(second.metrics)
    assert all(np.isfinite(value) for value in second.metrics.values())
    for name, net in method.networks().items():
        moved = net.state_dict()["backbone.conv1.weight"]
        assert not torch.equal(moved, start[name]["backbone.conv1.weight"]), name
        assert all(bool(v.isfinite().all()) for v in net.state_dict().values())


ABLATIONS: dict[str, dict[str, Any]] = {
    "w/o E": {"ema": 0.0},
    "w/o theta_2": {"networks": 1},
    "w/o L_sid": {"lambda_id": 0.0},
    "w/o L_stri": {"lambda_tri": 0.0},
    "hard labels only": {"lambda_id": 0.0, "lambda_tri": 0.0, "networks": 1, "ema": 0.0},
}


@pytest.mark.slow
def test_every_ablation_trains_and_ends_elsewhere() -> None:
    """Three steps: the average copies its network in the first and is its equal in the second."""
    ends = {}
    for name, options in {"all": {}, **ABLATIONS}.items():
        method = mmt(**options)
        (only,) = training(method, rounds=1, steps=3)
        assert np.isfinite(only.metrics["loss"]), name
        ends[name] = method.students[0].backbone.layer4[0].conv1.weight.detach().clone()
    names = list(ends)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not torch.equal(ends[one], ends[other]), (one, other)


@pytest.mark.slow
def test_features_that_collapse_stop_the_run_with_the_networks_of_the_round_before() -> None:
    """Networks that see no difference any more: one cluster holds all, and nothing is trained."""
    method = mmt()
    going = training(method)
    next(going)
    for net in method.networks().values():
        torch.nn.init.zeros_(net.backbone.conv1.weight)
    before = {name: copy.deepcopy(net.state_dict()) for name, net in method.networks().items()}
    with pytest.raises(ClusteringError, match="these labels cannot be trained on"):
        next(going)
    for name, net in method.networks().items():
        for key, value in net.state_dict().items():
            if not key.startswith("classifier."):
                assert torch.equal(value, before[name][key]), (name, key)


def embedded(spread: float, seed: int) -> FeatureTable:
    """Both networks see eight crops of each person, the more alike the smaller the spread."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.normal(size=(P, D)), 8, axis=0)
    rows = rows + spread * rng.normal(size=rows.shape)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return FeatureTable((rows, rows), np.zeros(len(rows), np.int64))


def test_memory_is_what_a_later_round_needs() -> None:
    """A radius found in the first round labels the second one in another process, too."""

    def fresh() -> MMT:
        found = clusterer(algorithm="dbscan", radius="pairs", pairs_per_image=2.0, k1=4, k2=1)
        return MMT(nets(), MMTOptions(), found)

    one, other, forgetful = fresh(), fresh(), fresh()
    one.relabel(embedded(0.05, seed=3), RoundOf(0, 2))
    memory = one.state_dict()
    assert list(memory) == ["radius"]
    other.load_state_dict(memory)
    assert other.state_dict() == memory
    later = embedded(0.8, seed=4)
    labels, again, anew = (
        method.relabel(later, RoundOf(1, 2))[0] for method in (one, other, forgetful)
    )
    assert again.rule == labels.rule != anew.rule
    np.testing.assert_array_equal(again.labels, labels.labels)

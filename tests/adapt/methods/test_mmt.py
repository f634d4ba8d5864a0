"""MMT step by step against slow, obvious versions of its paper's equations."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from torch.nn import functional as F  # noqa: E402

from adapt.clustering import Clusterer  # noqa: E402
from adapt.config import Clustering  # noqa: E402
from adapt.methods import METHODS, MMT  # noqa: E402
from adapt.methods.mmt import MMTOptions  # noqa: E402
from adapt.types import Batch, FeatureTable, PseudoLabels, RoundOf  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402

P, S = 3, 2


def nets() -> list[ReIDNet]:
    torch.manual_seed(0)
    return [ReIDNet("resnet18", classes=5) for _ in range(2)]


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
    method.relabel(
        FeatureTable((features, features), np.zeros(len(features), np.int64)), RoundOf(0, 1)
    )
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
            assert losses.terms[f"{name}_{k + 1}"].item() == pytest.approx(value, rel=1e-3), name


def test_weights_are_equation_9() -> None:
    losses = labelled(MMT(nets(), MMTOptions(lambda_id=0.3, lambda_tri=0.8), clusterer())).step(
        (batch(),)
    )
    for k in (1, 2):
        assert losses.weights[f"id_{k}"] == pytest.approx(0.7)
        assert losses.weights[f"soft_id_{k}"] == pytest.approx(0.3)
        assert losses.weights[f"tri_{k}"] == pytest.approx(0.2)
        assert losses.weights[f"soft_tri_{k}"] == pytest.approx(0.8)


def test_each_student_learns_from_the_other_average_only() -> None:
    """Changing E_2 changes the soft losses of theta_1 and nothing of theta_2."""
    method = labelled(MMT(nets(), MMTOptions(), clusterer()))
    before = {k: float(v) for k, v in method.step((batch(),)).terms.items()}
    with torch.no_grad():
        for parameter in method.teachers[1].parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    after = {k: float(v) for k, v in method.step((batch(),)).terms.items()}
    changed = {k for k in before if before[k] != after[k]}
    assert changed == {"soft_id_1", "soft_tri_1"}


def test_teachers_get_no_gradient_and_students_do() -> None:
    method = labelled(MMT(nets(), MMTOptions(), clusterer()))
    method.step((batch(),)).total().backward()
    assert all(p.grad is None for net in method.teachers for p in net.parameters())
    for net in method.students:
        missing = [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing


def test_teachers_normalise_by_the_batch_and_keep_their_own_statistics() -> None:
    method = labelled(MMT(nets(), MMTOptions(), clusterer()))
    before = method.teachers[0].neck.running_mean.clone()
    method.step((batch(),))
    assert not torch.equal(before, method.teachers[0].neck.running_mean)
    assert not torch.equal(
        method.teachers[0].neck.running_mean, method.students[1].neck.running_mean
    )


def test_relabel_clusters_the_mean_and_starts_all_classifiers_from_the_centres() -> None:
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
    assert MMT.fresh_optimizer
    assert MMT.views == 2


def test_kept_network() -> None:
    for keep in (1, 2):
        method = MMT(nets(), MMTOptions(keep=keep), clusterer())
        assert method.embedder() is method.teachers[keep - 1]


def test_wants_two_networks() -> None:
    with pytest.raises(ValueError, match="two networks, got 1"):
        MMT(nets()[:1], MMTOptions(), clusterer())


def test_pinned_first_step() -> None:
    """A change of any number here is a change of the method: say so in the changelog."""
    method = labelled(MMT(nets(), MMTOptions(), clusterer()))
    total = float(method.step((batch(),)).total())
    assert total == pytest.approx(4.1074, rel=1e-3)


def test_every_method_is_tested() -> None:
    from pathlib import Path

    here = Path(__file__).parent
    for name in METHODS:
        assert (here / f"test_{name}.py").exists(), f"method {name} has no test"


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

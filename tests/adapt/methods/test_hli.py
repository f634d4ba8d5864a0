"""HLI step by step against slow, obvious versions of its paper's equations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from pydantic import ValidationError  # noqa: E402
from torch import nn  # noqa: E402
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
from adapt.errors import ClusteringError  # noqa: E402
from adapt.methods import HLI  # noqa: E402
from adapt.methods.hli import HLIOptions  # noqa: E402
from adapt.training.loop import RoundResult  # noqa: E402
from adapt.types import Batch, CropSet, FeatureTable, Losses, RoundOf, Sample  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402
from tests.support.loop import run_loop  # noqa: E402
from tests.support.loss_terms import float_stats, term_values, term_weights  # noqa: E402
from tests.support.thin_trunks import SHARE  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

D = 512 // SHARE
P, S = 3, 2
PLAIN = {"erase": 0.0}


def nets(count: int) -> list[ReIDNet]:
    torch.manual_seed(0)
    return [ReIDNet("resnet18", classes=5) for _ in range(count)]


def clusterer(clusters: int = P) -> Clusterer:
    settings = Clustering(algorithm="kmeans", clusters=clusters, camera_centering=False)
    return Clusterer(settings, identities_per_batch=P, seed=0)


def build(**options: object) -> HLI:
    """A method with its classifiers of a first round, its averages away from its students."""
    settings = HLIOptions(**options)
    method = HLI(nets(settings.peers), settings, clusterer())
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(P, method.students[0].dimension)) * 5
    features = np.repeat(centers, 4, axis=0) + rng.normal(size=(P * 4, centers.shape[1])) * 0.1
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    table = FeatureTable((features,) * settings.peers, np.zeros(len(features), np.int64))
    method.relabel(table, RoundOf(0, 1))
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for teacher in method.teachers:
            for parameter in teacher.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=noise))
    for net in method.networks().values():
        net.train()
    return method


def batch(seed: int = 1, first: int = 0, height: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shape = (P * S, 3, height, height // 2)
    views = tuple(torch.randn(shape, generator=generator) for _ in range(2))
    rows = torch.arange(first, first + P * S)
    return Batch(views, torch.arange(P).repeat_interleave(S), rows)


def values(losses: Losses) -> dict[str, float]:
    return {name: term.item() for name, term in term_values(losses).items()}


def written_out(method: HLI, data: Batch) -> dict[str, float]:
    """Equations (2) to (6) and MMT's four terms, image by image."""
    pairs = {1: [(0, 0, 0, 1)], 2: [(0, 0, 1, 1), (1, 1, 0, 0)]}[method.options.peers]
    y, size = data.label.tolist(), P * S
    expected: dict[str, float] = {}
    for n, (student, view, teacher, other) in enumerate(pairs, start=1):
        with torch.no_grad():
            s_out = method.students[student](data.views[view])
            t_out = method.teachers[teacher](data.views[other])
        f, z, mf, mz = s_out.pooled, s_out.logits, t_out.pooled, t_out.logits
        s = [row / row.norm() for row in s_out.neck]
        t = [row / row.norm() for row in t_out.neck]
        sums = dict.fromkeys(("id", "soft_id", "tri", "soft_tri"), 0.0)
        right = [int(mz[i].argmax()) == y[i] for i in range(size)]
        mim, repel, attract, relation = [], [], [], []
        for i in range(size):
            log_p = F.log_softmax(z[i], 0)
            target = torch.full((P,), 0.1 / P)
            target[y[i]] += 0.9
            sums["id"] -= float((target * log_p).sum()) / size
            sums["soft_id"] -= float((F.softmax(mz[i], 0) * log_p).sum()) / size
            d = [float((f[i] - f[j]).norm()) for j in range(size)]
            p = max((j for j in range(size) if y[j] == y[i] and j != i), key=d.__getitem__)
            q = min((j for j in range(size) if y[j] != y[i]), key=d.__getitem__)
            big_t = math.exp(d[q]) / (math.exp(d[p]) + math.exp(d[q]))
            t_p, t_q = float((mf[i] - mf[p]).norm()), float((mf[i] - mf[q]).norm())
            soft = math.exp(t_q) / (math.exp(t_p) + math.exp(t_q))
            sums["tri"] -= math.log(big_t) / size
            sums["soft_tri"] -= (soft * math.log(big_t) + (1 - soft) * math.log(1 - big_t)) / size
            apart = float((s[i] - t[i]).square().sum())
            if right[i]:
                mim.append(apart)
            else:
                repel.append(apart)
                helpers = [t[j] for j in range(size) if right[j] and y[j] == y[i]]
                if helpers:
                    m = torch.stack(helpers).mean(0)
                    attract.append(float((s[i] - m).square().sum()))
            for j in range(size):
                of_s, of_t = (1 / (1 + float((v[i] - v[j]).norm())) for v in (s, t))
                relation.append((of_s - of_t) ** 2)
        assert mim, "the case has images that the teacher gets right"
        assert repel, "and images that it gets wrong"
        assert attract, "and help for these"
        sums |= {
            "mim": float(np.mean(mim)),
            "repel": -float(np.mean(repel)),
            "attract": float(np.mean(attract)),
            "sd": float(np.mean(relation)),
        }
        expected |= {f"{name}_{n}": value for name, value in sums.items()}
    return expected


# --- the equations and the step


@pytest.mark.parametrize("peers", [1, 2])
def test_losses_equal_the_equations_written_out(peers: int) -> None:
    method = build(peers=peers, **PLAIN)
    data = batch(seed=3)
    losses = method.step((data,))
    assert values(losses) == pytest.approx(written_out(method, data), rel=1e-3, abs=1e-5)


def test_accuracies_are_of_the_student_and_of_the_teacher_it_listens_to() -> None:
    method, data = build(peers=2, **PLAIN), batch(seed=11)
    stats = method.step((data,)).stats
    with torch.no_grad():
        logits = {
            "accuracy_1": method.students[0](data.views[0]).logits,
            "accuracy_2": method.students[1](data.views[1]).logits,
            "teacher_accuracy_1": method.teachers[1](data.views[1]).logits,
            "teacher_accuracy_2": method.teachers[0](data.views[0]).logits,
        }
    right = {name: float((z.argmax(1) == data.label).float().mean()) for name, z in logits.items()}
    assert {name: stats[name] for name in right} == pytest.approx(right)
    assert right["accuracy_1"] != right["teacher_accuracy_1"]
    assert right["accuracy_2"] != right["teacher_accuracy_2"]


def test_weights_are_equation_7_with_4() -> None:
    losses = build(
        lambda_id=0.3, lambda_tri=0.9, lambda_imi=0.6, alpha=0.5, beta=0.2, lambda_sd=1.2
    ).step((batch(),))
    assert term_weights(losses) == pytest.approx(
        {
            "id_1": 0.7,
            "soft_id_1": 0.3,
            "tri_1": 0.1,
            "soft_tri_1": 0.9,
            "mim_1": 0.3,
            "repel_1": 0.12,
            "attract_1": 0.12,
            "sd_1": 1.2,
        }
    )


def test_raw_features_give_the_mean_square_error() -> None:
    method, data = build(features="raw", **PLAIN), batch()
    losses = method.step((data,))
    with torch.no_grad():
        student = method.students[0](data.views[0])
        teacher = method.teachers[0](data.views[1])
    right = teacher.logits.argmax(1) == data.label
    expected = F.mse_loss(student.pooled[right], teacher.pooled[right])
    torch.testing.assert_close(term_values(losses)["mim_1"].detach(), expected)


def test_named_relations_change_the_structure_only() -> None:
    plain = values(build(**PLAIN).step((batch(),)))
    for relation in ("relative", "softmax"):
        other = values(build(relation=relation, **PLAIN).step((batch(),)))
        assert {name for name in plain if plain[name] != other[name]} == {"sd_1"}


@pytest.mark.slow
def test_each_student_listens_to_its_own_teacher_only() -> None:
    for peers, moved, listeners in ((1, 0, {1}), (2, 1, {1}), (2, 0, {2})):
        method = build(peers=peers, **PLAIN)
        before = values(method.step((batch(),)))
        with torch.no_grad():
            for parameter in method.teachers[moved].parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        after = values(method.step((batch(),)))
        changed = {name for name in before if before[name] != after[name]}
        assert {int(name[-1]) for name in changed} == listeners
        assert not {f"{name}_{n}" for name in ("id", "tri") for n in (1, 2)} & changed


@pytest.mark.parametrize("peers", [1, 2])
def test_teachers_get_no_gradient_and_students_do(peers: int) -> None:
    method = build(peers=peers)
    method.step((batch(),)).total().backward()
    assert all(p.grad is None for net in method.teachers for p in net.parameters())
    for net in method.students:
        assert not [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.slow
def test_the_ablation_switches_of_table_3() -> None:
    """Base, +ALMS, +AULM and all: what is added shows, what is not has weight 0."""
    base = {"lambda_imi": 0.0, "lambda_sd": 0.0, "erase": 0.0}
    rows: list[dict[str, float]] = [{}, {"lambda_sd": 1.0}, {"erase": 0.4}, {"lambda_imi": 0.5}]
    for number in range(len(rows)):
        options = base | {k: v for row in rows[: number + 1] for k, v in row.items()}
        losses = build(**options).step((batch(),))
        active = {name.rsplit("_", 1)[0] for name, weight in term_weights(losses).items() if weight}
        assert active == {"id", "soft_id", "soft_tri"} | ({"sd"} if number > 0 else set()) | (
            {"mim", "repel", "attract"} if number > 2 else set()
        )
        assert ("erased_share" in losses.stats) == (number > 1)


# --- adaptive erasing


class _Brightness(nn.Module):
    """A trunk whose first channel is the red of each 8 x 8 block."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(F.avg_pool2d(x[:, :1], 8), (0, 0, 0, 0, 0, D - 1))


class _Watched(nn.Module):
    """Writes down what a trunk sees in train mode."""

    def __init__(self, trunk: nn.Module, seen: list[torch.Tensor]) -> None:
        super().__init__()
        self.trunk, self.seen = trunk, seen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(x)
        return self.trunk(x)


def watch(method: HLI) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    for net in method.students + method.teachers:
        net.backbone = _Watched(net.backbone, seen)  # type: ignore[assignment]
    return seen


def looking_at_red(**options: object) -> HLI:
    """A method whose networks look at the reddest block of each view, whatever the class."""
    method = build(**{"erase": 1.0, "erase_area_min": 0.031, "erase_area_max": 0.032} | options)
    for net in method.students + method.teachers:
        net.backbone = _Brightness()  # type: ignore[assignment]
        assert net.classifier is not None
        with torch.no_grad():
            net.neck.weight[0] = 1.0
            net.classifier.weight[:, 0] = 1.0
    return method


def test_what_is_looked_at_most_is_erased_and_follows_the_view() -> None:
    """Each view has its own place, as after a flip or a crop: the box is there in each."""
    method = looking_at_red()
    seen = watch(method)
    plain = batch(height=64)
    first = torch.full_like(plain.views[0], 0.1)
    first[:, 0, 8:16, 0:8] = 5.0  # block (1, 0)
    second = first.flip(3)  # mirrored: block (1, 3)
    losses = method.step((Batch((first, second), plain.label, plain.index),))
    student_saw, teacher_saw = seen
    for image in student_saw:
        assert float(image[0, 12, 4]) == 0, "the block's center"
        assert bool((image[:, :, 16:] != 0).all())
    for image in teacher_saw:
        assert float(image[0, 12, 28]) == 0
        assert bool((image[:, :, :16] != 0).all())
    assert losses.stats["peak_row"] == pytest.approx(12 / 64)
    assert losses.stats["peak_column"] == pytest.approx((4 + 28) / 2 / 32)
    assert losses.stats["flat_share"] == 0
    assert 0.01 < losses.stats["erased_share"] < 0.04


def test_the_box_has_the_shape_asked_for() -> None:
    """Each box has 64 of 64 x 32 pixels: 8 x 8 where aspect is 1, else of many shapes."""
    plain = batch(height=64)
    view = torch.full_like(plain.views[0], 0.1)
    view[:, 0, 24:32, 16:24] = 5.0
    shapes = {}
    for aspect in (1.0, 0.3):
        method = looking_at_red(erase_aspect=aspect)
        seen = watch(method)
        method.step((Batch((view, view), plain.label, plain.index),))
        gone = (torch.cat(seen) == 0).all(1)
        shapes[aspect] = {(int(g.any(1).sum()), int(g.any(0).sum())) for g in gone}
    assert shapes[1.0] == {(8, 8)}
    assert len(shapes[0.3]) > 3


def test_losses_are_those_of_the_erased_views() -> None:
    method, data = build(erase=0.7), batch(seed=1)
    seen = watch(method)
    losses = method.step((data,))
    erased = Batch(tuple(seen[:2]), data.label, data.index)
    assert not torch.equal(erased.views[0], data.views[0])
    assert not torch.equal(erased.views[1], data.views[1])
    expected = written_out(method, erased)
    assert values(losses) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_share_of_erased_images_is_the_probability() -> None:
    method = looking_at_red(erase=0.4)
    seen = watch(method)
    untouched = []
    for number in range(30):
        data = batch(seed=number, first=number)
        method.step((data,))
        for view, after in zip(data.views, seen[-2:], strict=True):
            untouched += (view == after).flatten(1).all(1).tolist()
    assert 0.5 < np.mean(untouched) < 0.7


@pytest.mark.slow
def test_with_two_peers_each_view_is_read_by_its_own_average() -> None:
    seen = []
    for sign in (1.0, -1.0):
        method = build(peers=2, erase=1.0)
        with torch.no_grad():
            assert method.teachers[1].classifier is not None
            method.teachers[1].classifier.weight.mul_(sign)
        seen.append(watch(method))
        method.step((batch(seed=2, height=64),))
    plain, turned = seen
    assert torch.equal(plain[0], plain[3]), "theta_1 and E_1 see view 1"
    assert torch.equal(plain[1], plain[2]), "theta_2 and E_2 see view 2"
    assert torch.equal(plain[0], turned[0])
    assert not torch.equal(plain[1], turned[1]), "E_2 looks for the places in view 2"


def test_erasing_leaves_modes_and_statistics_to_the_step() -> None:
    """Two forwards in eval mode do not count: statistics move as they do without erasing."""
    blank = Batch((torch.zeros(P * S, 3, 32, 16),) * 2, batch().label, batch().index)
    moved = []
    for erase in (0.0, 1.0):  # erasing nothing from nothing
        method = build(erase=erase)
        method.step((blank,))
        assert all(m.training for net in method.networks().values() for m in net.modules())
        moved.append(method.teachers[0].state_dict())
    assert all(torch.equal(moved[0][name], moved[1][name]) for name in moved[0])


@pytest.mark.slow
def test_erasing_follows_from_the_batch_alone() -> None:
    def erased(seed: int, first: int) -> list[torch.Tensor]:
        method = build(erase=1.0)
        seen = watch(method)
        torch.manual_seed(seed)
        method.step((batch(first=first),))
        return seen

    one, again, other = erased(1, first=0), erased(2, first=0), erased(1, first=7)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- rounds


def test_relabel_clusters_the_averages_and_starts_all_classifiers_from_the_centers() -> None:
    rng = np.random.default_rng(3)
    truth = np.repeat(np.arange(P), 5)
    centers = rng.normal(size=(P, D))
    tables = [
        (centers[truth] + 0.05 * rng.normal(size=(15, D))).astype(np.float32) for _ in range(2)
    ]
    tables = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in tables]
    for peers in (1, 2):
        method = HLI(nets(peers), HLIOptions(peers=peers), clusterer())
        (labels,) = method.relabel(
            FeatureTable(tuple(tables[:peers]), np.zeros(15, np.int64)), RoundOf(0, 1)
        )
        assert len({(t, c) for t, c in zip(truth, labels.labels, strict=True)}) == P
        mean = np.mean(tables[:peers], axis=0)
        for k in range(P):
            center = mean[labels.labels == k].mean(0)
            center /= np.linalg.norm(center)
            for net in method.networks().values():
                assert net.classifier is not None
                row = net.classifier.weight[k].detach().numpy()
                np.testing.assert_allclose(row, center, atol=1e-5)
        assert not any(p.requires_grad for net in method.teachers for p in net.parameters())


def test_after_step_averages_parameters_but_not_statistics() -> None:
    method = build(ema=0.9)
    student, teacher = method.students[0], method.teachers[0]
    with torch.no_grad():
        student.neck.weight.fill_(3.0)
        student.neck.running_mean.fill_(7.0)
        method.after_step(0)
        assert torch.equal(teacher.neck.weight, student.neck.weight)
        student.neck.weight.fill_(1.0)
    method.after_step(10_000)
    assert teacher.neck.weight.tolist() == pytest.approx([0.9 * 3 + 0.1 * 1] * D)
    assert not bool((teacher.neck.running_mean == 7.0).any())


def test_networks_and_what_is_kept() -> None:
    one, two = build(), build(peers=2, keep=2)
    assert HLI.fresh_optimizer
    assert HLI.views == 2
    assert list(one.networks()) == ["theta", "E"]
    assert list(two.networks()) == ["theta_1", "theta_2", "E_1", "E_2"]
    for method, kept in ((one, 0), (two, 1)):
        assert method.embedder() is method.teachers[kept]
        assert method.extractors() == method.teachers
        assert method.trained() == method.students
        assert method.options.students_wanted(HLI.max_students) == len(method.students)


def test_wrong_options_and_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="networks given: 1; HLI trains 2 "):
        HLI(nets(1), HLIOptions(peers=2), clusterer())
    with pytest.raises(ValidationError, match="keep = 2 of 1"):
        HLIOptions(keep=2)
    with pytest.raises(ValidationError, match="must not exceed"):
        HLIOptions(erase_area_min=0.3)


def test_pinned_first_step() -> None:
    """A change of any number here is a change of the method: say so in the changelog."""
    for peers, pinned in ((1, 2.2722), (2, 4.6613)):
        total = build(peers=peers).step((batch(),)).total().item()
        assert total == pytest.approx(pinned, rel=1e-3)


# --- whole runs, and what goes wrong


def crops() -> DecodedCrops:
    """Four people of one color each, six noisy crops, two cameras."""
    rng = np.random.default_rng(0)
    samples = tuple(
        Sample(Path(f"{p}_{i}.png"), f"{p}_{i}.png", camera=i % 2)
        for p in range(4)
        for i in range(6)
    )
    colors = np.repeat(rng.integers(40, 216, (4, 1, 1, 3)), 6, axis=0)
    noise = rng.integers(-30, 31, (24, 32, 16, 3))
    return DecodedCrops(CropSet(Path(), samples, ("a", "b")), (colors + noise).astype(np.uint8))


def rounds(method: HLI, seed: int = 0, lr: float = 1e-3):  # type: ignore[no-untyped-def]
    return run_loop(
        method,
        crops(),
        schedule=Schedule(rounds=2, iterations=2),
        batch=BatchShape(identities=P, instances=S),
        augment=Augmentation(pad=2, erase=0),
        optimizer=OptimizerSettings(lr=lr),
        seed=seed,
    )


@pytest.mark.slow
@pytest.mark.parametrize("peers", [1, 2])
def test_two_rounds_through_the_loop(peers: int) -> None:
    def run(seed: int) -> tuple[list[RoundResult], dict[str, torch.Tensor]]:
        method = HLI(nets(peers), HLIOptions(peers=peers), clusterer(4))
        before = {k: v.clone() for k, v in method.students[0].named_parameters()}
        results = list(rounds(method, seed))
        after = dict(method.students[0].named_parameters())
        assert not any(torch.equal(before[k], after[k]) for k in before if k.endswith("1.weight"))
        return results, method.embedder().state_dict()

    (first, second), kept = run(seed=1)
    assert first.labels[0].clusters == 4
    wanted = {f"loss_{n}_{peers}" for n in ("mim", "repel", "attract", "sd", "soft_tri")}
    wanted |= {f"teacher_accuracy_{peers}", "peak_row", "flat_share", "erased_share"}
    assert wanted <= set(second.metrics)
    assert all(math.isfinite(value) for value in second.metrics.values())
    if peers == 1:
        _, again = run(seed=1)
        assert all(torch.equal(kept[k], again[k]) for k in kept)


def test_a_map_that_is_flat_everywhere_gives_random_places_and_a_finite_step() -> None:
    """A trunk that went dead: the map has no maximum, and erasing does not settle in a corner."""
    method = build(erase=1.0)
    seen = watch(method)
    with torch.no_grad():
        for net in method.students + method.teachers:
            for parameter in net.backbone.parameters():
                parameter.zero_()
    losses = method.step((batch(height=64),))
    assert losses.stats["flat_share"] == 1
    assert math.isfinite(losses.total().item())
    centers = [(image == 0).all(0).nonzero().float().mean(0) for image in seen[0]]
    assert float(torch.stack(centers).std(0).min()) > 4


def test_a_dead_network_ends_the_run_and_keeps_the_round_before() -> None:
    method = HLI(nets(1), HLIOptions(), clusterer(4))
    stream = rounds(method)
    next(stream)
    with torch.no_grad():
        for parameter in method.teachers[0].backbone.parameters():
            parameter.zero_()
    kept = {k: v.clone() for k, v in method.students[0].named_parameters()}
    with pytest.raises(ClusteringError, match="cannot be trained on"):
        next(stream)
    after = dict(method.students[0].named_parameters())
    assert all(torch.equal(kept[k], after[k]) for k in kept if "classifier" not in k)


@pytest.mark.slow
def test_a_teacher_that_is_wrong_everywhere_repels_no_farther_than_the_bound() -> None:
    """The run-away of equation (3): raw features, trained on nothing but the repelling half."""

    def driven(bound: float) -> list[float]:
        method, data = build(features="raw", bound=bound, **PLAIN), batch()
        named = method.teachers[0](data.views[1]).logits.argmax(1)
        wrong = (named + 1 + torch.arange(P * S) % 2) % P
        opt = torch.optim.SGD(method.students[0].parameters(), lr=300.0)
        repelled = []
        for _ in range(8):
            losses = method.step((Batch(data.views, wrong, data.index),))
            assert losses.stats["teacher_accuracy_1"] == 0
            terms = term_values(losses)
            assert terms["attract_1"].item() == terms["mim_1"].item() == 0
            opt.zero_grad()
            terms["repel_1"].backward()
            opt.step()
            repelled.append(terms["repel_1"].item())
        return repelled

    free, bounded = driven(bound=1e9), driven(bound=2.0)
    assert free[-1] < -1e3
    assert min(bounded) >= -2.0


def test_memory_is_what_a_later_round_needs() -> None:
    """A radius found in the first round labels the second one in another process, too."""

    def people(spread: float, seed: int) -> FeatureTable:
        rng = np.random.default_rng(seed)
        rows = np.repeat(rng.normal(size=(P, D)), 8, axis=0)
        rows = rows + spread * rng.normal(size=rows.shape)
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return FeatureTable((rows,), np.zeros(len(rows), np.int64))

    def fresh() -> HLI:
        settings = Clustering(
            algorithm="dbscan",
            radius="pairs",
            pairs_per_image=2.0,
            k1=4,
            k2=1,
            camera_centering=False,
        )
        found = Clusterer(settings, identities_per_batch=P, seed=0)
        return HLI(nets(1), HLIOptions(), found)

    one, other, forgetful = fresh(), fresh(), fresh()
    one.relabel(people(0.05, seed=3), RoundOf(0, 2))
    memory = one.state_dict()
    assert list(memory) == ["radius"]
    other.load_state_dict(memory)
    assert other.state_dict() == memory
    later = people(0.8, seed=4)
    labels, again, anew = (
        method.relabel(later, RoundOf(1, 2))[0] for method in (one, other, forgetful)
    )
    assert again.rule == labels.rule != anew.rule
    np.testing.assert_array_equal(again.labels, labels.labels)


@pytest.mark.parametrize(("flat", "warned"), [(1.0, True), (0.9, True), (0.89, False)])
def test_maps_without_a_maximum_are_warned_of(flat: float, warned: bool) -> None:
    found = build().after_round({"flat_share": flat})
    assert bool(found) == warned
    for warning in found:
        assert f"{flat:.0%} of the activation maps are flat" in warning
        assert "larger --height and --width" in warning
        assert "the network is dead" in warning


@pytest.mark.slow
def test_a_map_of_one_cell_is_flat_and_said_so() -> None:
    """16 x 8 pixels are one cell of a ResNet; without erasing nobody looks."""
    figures = float_stats(build().step((batch(height=16),)))
    assert figures["flat_share"] == 1
    assert build().after_round(figures)
    assert not build(**PLAIN).after_round(float_stats(build(**PLAIN).step((batch(height=16),))))
    assert not build().after_round(float_stats(build().step((batch(height=64),))))

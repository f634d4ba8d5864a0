"""NRMT step by step against slow, obvious versions of its paper's equations."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.clustering.clusterer import Clusterer  # noqa: E402
from adapt.config import (  # noqa: E402
    Augmentation,
    BatchShape,
    Clustering,
    OptimizerSettings,
    Schedule,
)
from adapt.data.decoding.decode import DecodedCrops  # noqa: E402
from adapt.errors import ConfigError, NothingLearnedError  # noqa: E402
from adapt.losses.distance import pairwise_distance  # noqa: E402
from adapt.losses.triplet import margin_triplet, mine_hard_triplets  # noqa: E402
from adapt.methods import NRMT  # noqa: E402
from adapt.methods.nrmt import NRMTOptions  # noqa: E402
from adapt.training.loop import RoundResult  # noqa: E402
from adapt.types import Batch, CropSet, FeatureTable, RoundOf, Sample  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402
from tests.support.loop import run_loop  # noqa: E402
from tests.support.loss_terms import float_stats, term_values, term_weights  # noqa: E402
from tests.support.thin_trunks import SHARE  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

D = 512 // SHARE
P, S = 3, 3


@cache
def seeded() -> list[ReIDNet]:
    torch.manual_seed(0)
    return [ReIDNet("resnet18") for _ in range(2)]


def nets() -> list[ReIDNet]:
    return copy.deepcopy(seeded())


def clusterer(**changes: object) -> Clusterer:
    settings = Clustering(algorithm="kmeans", clusters=P, camera_centering=False)
    return Clusterer(settings.model_copy(update=changes), identities_per_batch=P, seed=0)


def nrmt(*, selecting: bool = True, **options: object) -> NRMT:
    """Networks in train mode, before half time or after it, as a round begins."""
    method = NRMT(nets(), NRMTOptions(**options), clusterer())
    method.relabel(site(), RoundOf(1, 2) if selecting else RoundOf(0, 2))
    for net in method.students:
        net.train()
    return method


def groups(seed: int, each: int = 4, spread: float = 0.05) -> np.ndarray:
    """P tight groups of unit vectors, one after the other."""
    rng = np.random.default_rng(seed)
    centers = np.repeat(rng.normal(size=(P, D)), each, axis=0)
    features = centers + spread * rng.normal(size=centers.shape)
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def site() -> FeatureTable:
    return FeatureTable((groups(0), groups(0)), np.zeros(4 * P, np.int64))


def batches() -> tuple[Batch, Batch]:
    """One of Y_f, one of Y_g: other crops, and other people are one person."""
    generator = torch.Generator().manual_seed(1)
    of_f, of_g = (torch.randn(P * S, 3, 32, 16, generator=generator) for _ in range(2))
    labels = torch.arange(P).repeat_interleave(S), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 1])
    rows = torch.arange(P * S)
    return Batch((of_f,), labels[0], rows), Batch((of_g,), labels[1], rows)


def written_out(method: NRMT, *, selecting: bool) -> dict[str, list[float]]:
    """Equations (2) to (11) with Python's own numbers: the margin loss of each kept triplet."""
    o = method.options
    found: dict[str, list[float]] = {}
    with torch.no_grad():
        points = [[net(b.views[0]).pooled for b in batches()] for net in method.students]
    for k, peer in ((0, 1), (1, 0)):
        for s, b in enumerate(batches()):
            h, other = points[k][s], points[peer][s]
            d = [[float((u - v).norm()) for v in h] for u in h]
            e = [[float((u - v).norm()) for v in other] for u in other]
            y = b.label.tolist()
            kept = found.setdefault(f"tri_{'own' if s == k else 'peer'}_{k + 1}", [])
            for i in range(P * S):
                n = min((j for j in range(P * S) if y[j] != y[i]), key=lambda j: d[i][j])
                for p in range(i + 1, P * S):
                    if y[p] != y[i]:
                        continue
                    mine, peers = d[i][p] - d[i][n], e[i][p] - e[i][n]
                    reliable = peers < o.confidence
                    informative = abs(mine - peers) > o.disagreement and mine > peers
                    if not selecting or (reliable and informative):
                        kept.append(max(0.0, mine + o.margin))
    return found


@pytest.mark.parametrize("selecting", [False, True])
def test_losses_equal_the_equations_written_out(selecting: bool) -> None:
    thresholds = {"confidence": 0.3, "disagreement": 0.2}  # some triplets on each side of both
    method = nrmt(selecting=selecting, **thresholds)
    losses = method.step(batches())
    found = written_out(method, selecting=selecting)
    assert (
        set(term_values(losses))
        == set(found)
        == {"tri_own_1", "tri_peer_1", "tri_own_2", "tri_peer_2"}
    )
    for name, kept in found.items():
        assert term_values(losses)[name].item() == pytest.approx(np.mean(kept), rel=1e-3), name
    mined = 2 * P * S * (S - 1) // 2
    for k in (1, 2):
        share = (len(found[f"tri_own_{k}"]) + len(found[f"tri_peer_{k}"])) / mined
        assert losses.stats[f"kept_{k}"] == pytest.approx(share)
        assert share == 1 if not selecting else 0 < share < losses.stats[f"confident_{k}"] < 1


def test_both_losses_count_once() -> None:
    assert set(term_weights(nrmt().step(batches())).values()) == {1.0}


@pytest.mark.slow
def test_components_are_the_papers_table_4() -> None:
    """Each step of the ladder takes triplets away; before half time nothing is selected."""
    options: dict[str, Any] = {"confidence": 0.5, "disagreement": 0.2}
    kept = {}
    for components in ("separate", "cc", "cc+sc", "cc+sc+sd"):
        stats = nrmt(components=components, **options).step(batches()).stats
        kept[components] = stats["kept_1"]
        if components == "cc+sc":
            assert stats["kept_1"] == stats["confident_1"]
        early = nrmt(components=components, selecting=False, **options).step(batches()).stats
        assert early["kept_1"] == 1
    assert kept["separate"] == kept["cc"] == 1
    assert 1 > kept["cc+sc"] > kept["cc+sc+sd"] > 0


def test_separate_training_shares_nothing() -> None:
    method = nrmt(components="separate")
    first, second = batches()
    before = method.students[0].backbone.bn1.running_mean.clone()
    terms = term_values(method.step((first, second)))
    assert set(terms) == {"tri_own_1", "tri_own_2"}
    seen_once = method.students[0].backbone.bn1.num_batches_tracked
    assert seen_once.item() == 1, "f sees its own batch only"
    assert not torch.equal(before, method.students[0].backbone.bn1.running_mean)
    changed = Batch((second.views[0] + 1,), second.label, second.index)
    again = term_values(method.step((first, changed)))
    assert torch.equal(again["tri_own_1"], terms["tri_own_1"])
    assert not torch.equal(again["tri_own_2"], terms["tri_own_2"])


def test_each_batch_is_normalized_by_itself() -> None:
    """Other crops in the batch of Y_g change the losses on Y_g and no loss on Y_f."""
    method = nrmt(selecting=False)
    first, second = batches()
    before = term_values(method.step((first, second)))
    other = Batch((second.views[0].flip(0) * 2,), second.label, second.index)
    after = term_values(method.step((first, other)))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"tri_own_2", "tri_peer_1"}


def test_the_peer_chooses_and_gets_no_gradient_from_what_it_chose() -> None:
    method = nrmt(confidence=0.3, disagreement=0.2)
    terms = term_values(method.step(batches()))
    weights = [list(net.backbone.parameters()) for net in method.students]
    for k, peer in ((0, 1), (1, 0)):
        loss = terms[f"tri_own_{k + 1}"] + terms[f"tri_peer_{k + 1}"]
        of_peer = torch.autograd.grad(loss, weights[peer], allow_unused=True, retain_graph=True)
        assert all(gradient is None for gradient in of_peer)
        of_own = torch.autograd.grad(loss, weights[k], retain_graph=True)
        assert all(float(gradient.norm()) > 0 for gradient in of_own)
    with torch.no_grad():  # another g selects other triplets for f
        for parameter in method.students[1].parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    moved = method.step(batches())
    assert not torch.equal(term_values(moved)["tri_own_1"], terms["tri_own_1"])


def test_hard_mining_is_the_margin_loss_on_the_hardest_triplets() -> None:
    method = nrmt(selecting=False, mining="hard")
    terms = term_values(method.step(batches()))
    (view,), label = batches()[0].views, batches()[0].label
    with torch.no_grad():
        dist = pairwise_distance(method.students[0](view).pooled)
    expected = margin_triplet(dist, mine_hard_triplets(dist, label), 0.5)
    torch.testing.assert_close(terms["tri_own_1"], expected)


@pytest.mark.slow
def test_relative_thresholds_do_not_see_the_scale_of_the_networks() -> None:
    """The same features at half their size."""
    kept = {}
    for thresholds in ("raw", "relative"):
        for width in (1.0, 0.5):
            method = nrmt(thresholds=thresholds, confidence=0.3, disagreement=0.2, reference=3.0)
            for net in method.students:
                net.backbone.layer4[-1].register_forward_hook(lambda m, i, out, w=width: out * w)
            stats = method.step(batches()).stats
            kept[thresholds, width] = (stats["kept_1"], stats["kept_2"])
    assert kept["relative", 1.0] == pytest.approx(kept["relative", 0.5])
    assert kept["raw", 1.0] != pytest.approx(kept["raw", 0.5])
    assert 0 < kept["relative", 1.0][0] < 1
    uneven = nrmt(thresholds="relative", confidence=0.3, disagreement=0.2, reference=3.0)
    uneven.students[1].backbone.layer4[-1].register_forward_hook(lambda m, i, out: out * 0.5)
    stats = uneven.step(batches()).stats
    assert (stats["kept_1"], stats["kept_2"]) == pytest.approx(kept["relative", 1.0])
    options: dict[str, Any] = {
        "confidence": 0.6,
        "disagreement": 0.4,
    }  # twice as much of twice the reference
    stats = nrmt(thresholds="relative", reference=6.0, **options).step(batches()).stats
    assert (stats["kept_1"], stats["kept_2"]) == pytest.approx(kept["relative", 1.0])


def test_relabel_clusters_each_networks_own_features() -> None:
    method = NRMT(nets(), NRMTOptions(), clusterer())
    tight = groups(3)
    shuffled = tight[np.random.default_rng(0).permutation(len(tight))]
    cameras = np.zeros(len(tight), np.int64)
    of_f, of_g = method.relabel(FeatureTable((tight, shuffled), cameras), RoundOf(0, 2))
    np.testing.assert_array_equal(of_f.labels, clusterer()(tight, cameras).labels)
    np.testing.assert_array_equal(of_g.labels, clusterer()(shuffled, cameras).labels)
    assert len({*zip(of_f.labels, np.repeat(range(P), 4), strict=True)}) == P
    assert method.step(batches()).stats["agreement_of_nets"] < 0.9
    method.relabel(FeatureTable((tight, tight), cameras), RoundOf(1, 2))
    assert method.step(batches()).stats["agreement_of_nets"] == 1


def test_each_network_has_its_own_radius() -> None:
    found = clusterer(algorithm="dbscan", radius="pairs", pairs_per_image=2.0, k1=4, k2=1)
    method = NRMT(nets(), NRMTOptions(), found)
    near, far = groups(3, each=8), groups(4, each=8, spread=0.6)
    table = FeatureTable((near, far), np.zeros(len(near), np.int64))
    method.relabel(table, RoundOf(0, 2))
    radii = [each.radius for each in method.clusterers]
    assert None not in radii
    assert radii[0] != radii[1]
    assert found.radius is None


@pytest.mark.parametrize(
    ("number", "total", "selecting"),
    [(14, 30, False), (15, 30, True), (1, 3, False), (2, 3, True), (1, 2, True), (0, 1, False)],
)
def test_selection_starts_at_half_time(number: int, total: int, selecting: bool) -> None:
    method = NRMT(nets(), NRMTOptions(), clusterer())
    method.relabel(site(), RoundOf(number, total))
    assert method.selecting == selecting


def test_two_networks_are_clustered_trained_and_one_kept() -> None:
    method = NRMT(nets(), NRMTOptions(), clusterer())
    assert method.extractors() == method.trained() == method.students
    assert method.networks() == {"f": method.students[0], "g": method.students[1]}
    assert not NRMT.fresh_optimizer
    assert NRMT.views == 1
    for keep in (1, 2):
        method = NRMT(nets(), NRMTOptions(keep=keep), clusterer())
        assert method.embedder() is method.students[keep - 1]


def test_wants_two_networks_that_differ() -> None:
    with pytest.raises(ValueError, match="networks given: 1; NRMT trains 2 "):
        NRMT(nets()[:1], NRMTOptions(), clusterer())
    one, other = nets()
    other.backbone.load_state_dict(one.backbone.state_dict())
    with pytest.raises(ConfigError, match="pre-train a second one with another seed"):
        NRMT([one, other], NRMTOptions(), clusterer())


@pytest.mark.slow
def test_memory_is_what_the_rest_of_a_round_needs() -> None:
    """Another process that takes it over selects the same triplets and keeps each radius."""

    def fresh() -> NRMT:
        found = clusterer(algorithm="dbscan", radius="pairs", pairs_per_image=2.0, k1=4, k2=1)
        options = NRMTOptions(confidence=0.3, disagreement=0.2)
        method = NRMT(nets(), options, found)
        for net in method.students:
            net.train()
        return method

    one, other, forgetful = fresh(), fresh(), fresh()
    near, far = groups(3, each=8), groups(4, each=8, spread=0.6)
    cameras = np.zeros(len(near), np.int64)
    one.relabel(FeatureTable((near, far), cameras), RoundOf(1, 2))
    memory = one.state_dict()
    assert memory["selecting"]
    assert {"radius_0", "radius_1", "agreement_of_nets"} <= set(memory)
    other.load_state_dict(memory)
    assert other.state_dict() == memory
    step, again, all_kept = (method.step(batches()) for method in (one, other, forgetful))
    assert again.stats == step.stats
    assert 0 < step.stats["kept_1"] < 1 == all_kept.stats["kept_1"]
    assert {name: term.item() for name, term in term_values(again).items()} == {
        name: term.item() for name, term in term_values(step).items()
    }
    later = FeatureTable((far, near), cameras)
    rules = [
        [each.rule for each in method.relabel(later, RoundOf(1, 2))]
        for method in (one, other, forgetful)
    ]
    assert rules[0] == rules[1] != rules[2]


# Collapse: the networks become one, or the thresholds let nothing through.


def test_networks_that_have_become_equal_learn_nothing_and_do_not_crash() -> None:
    method = nrmt()
    method.students[1].load_state_dict(method.students[0].state_dict())
    losses = method.step(batches())
    assert losses.stats["kept_1"] == losses.stats["kept_2"] == 0
    assert losses.total().item() == 0
    losses.total().backward()
    for net in method.students:
        assert not any(p.grad.any() for p in net.backbone.parameters())


def test_a_round_that_kept_nothing_is_refused() -> None:
    stats = float_stats(nrmt(disagreement=1e6).step(batches()))
    with pytest.raises(NothingLearnedError, match=r"no triplet was kept .*thresholds to relative"):
        nrmt().after_round(stats)


def test_a_network_that_keeps_next_to_nothing_is_told_of() -> None:
    """f brings all crops together, so it is sure of nothing and g gets nothing from it."""
    method = nrmt(confidence=-0.1, disagreement=0.0)
    method.students[0].backbone.layer4[-1].register_forward_hook(lambda m, i, out: out * 1e-3)
    stats = float_stats(method.step(batches()))
    assert stats["kept_2"] == 0 < stats["kept_1"]
    (warning,) = method.after_round(stats)
    assert warning.startswith("g kept 0 of its triplets")
    both = method.after_round({"kept_1": 0.0099, "kept_2": 0.0002})
    assert [each[:14] for each in both] == ["f kept 0.0099 ", "g kept 0.0002 "]
    assert method.after_round({"kept_1": 0.01, "kept_2": 1.0}) == ()


def crops(persons: int = 4, each: int = 8) -> DecodedCrops:
    rng = np.random.default_rng(0)
    samples = tuple(
        Sample(Path(f"{p}_{i}.png"), f"{p}_{i}.png", camera=i % 2)
        for p in range(persons)
        for i in range(each)
    )
    colors = rng.integers(0, 256, (persons, 1, 1, 1, 3))
    noise = rng.normal(0, 12, (persons, each, 32, 16, 3))
    images = np.clip(colors + noise, 0, 255).astype(np.uint8).reshape(-1, 32, 16, 3)
    return DecodedCrops(CropSet(Path(), samples, ("a", "b")), images)


def rounds(method: NRMT, total: int) -> Iterator[RoundResult]:
    return run_loop(
        method,
        crops(),
        schedule=Schedule(rounds=total, iterations=1),
        batch=BatchShape(identities=2, instances=3),
        augment=Augmentation(pad=0, erase=0),
        optimizer=OptimizerSettings(algorithm="sgd", lr=1e-3, momentum=0, weight_decay=0),
    )


def by_color(**options: object) -> NRMT:
    found = clusterer(algorithm="hdbscan", min_samples=2, min_cluster_size=3, k1=5, k2=1)
    return NRMT(nets(), NRMTOptions(**options), found)


@pytest.mark.slow
def test_two_rounds_through_the_loop() -> None:
    method = by_color(thresholds="relative", disagreement=0.0)
    start = [p.detach().clone() for net in method.students for p in net.backbone.parameters()]
    first, second = rounds(method, 2)
    assert {"loss_tri_own_1", "loss_tri_peer_2", "gap_1", "confident_2"} <= set(first.metrics)
    assert first.metrics["clusters_1"] >= 2
    assert first.metrics["clusters_2"] >= 2
    assert first.metrics["kept_1"] == 1
    assert 0 < second.metrics["kept_1"] < 1
    assert all(np.isfinite(value) for value in second.metrics.values())
    now = [p for net in method.students for p in net.backbone.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(start, now, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("total", "good"), [(4, 2), (2, 1)])
def test_a_round_that_keeps_nothing_does_not_count_be_it_the_last(total: int, good: int) -> None:
    run = rounds(by_color(disagreement=1e6), total)
    assert [next(run).number for _ in range(good)] == list(range(1, good + 1))
    with pytest.raises(NothingLearnedError, match="no triplet was kept"):
        next(run)


def test_pinned_first_step() -> None:
    """A change of any number here is a change of the method: say so in the changelog."""
    losses = nrmt(confidence=0.3, disagreement=0.2).step(batches())
    assert losses.total().item() == pytest.approx(6.8089, rel=1e-3)

"""AML step by step against slow, obvious versions of its paper's equations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

torch = pytest.importorskip("torch", reason="adapt needs torch")

from torch.nn import functional as F  # noqa: E402

from adapt.clustering.clusterer import Clusterer  # noqa: E402
from adapt.clustering.graph.jaccard import jaccard_distance  # noqa: E402
from adapt.clustering.graph.rows import AverageGraph  # noqa: E402
from adapt.clustering.labels.dbscan import cluster_dbscan  # noqa: E402
from adapt.clustering.labels.guards import check_labels  # noqa: E402
from adapt.config import (  # noqa: E402
    Augmentation,
    BatchShape,
    Clustering,
    OptimizerSettings,
    Schedule,
)
from adapt.data.decoding.decode import DecodedCrops  # noqa: E402
from adapt.errors import ClusteringError, ConfigError  # noqa: E402
from adapt.methods import AML  # noqa: E402
from adapt.methods.aml import AMLOptions  # noqa: E402
from adapt.types import (  # noqa: E402
    OUTLIER,
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
PEOPLE, CAMERAS, EACH = 4, 2, 6
K1, K2 = 4, 2
RADIUS = 0.6
ONLY = RoundOf(0, 1)


def nets() -> list[ReIDNet]:
    torch.manual_seed(0)
    return [ReIDNet("resnet18", classes=P) for _ in range(2)]


def clusterer(**changes: object) -> Clusterer:
    settings = Clustering(
        algorithm="dbscan",
        radius=RADIUS,
        k1=K1,
        k2=K2,
        min_samples=3,
        camera_centering=False,
    )
    return Clusterer(settings.model_copy(update=changes), identities_per_batch=P, seed=0)


def aml(**options: object) -> AML:
    settings = {"merge_nearest": 1, "merge_cross_camera": 3, **options}
    return AML(nets(), AMLOptions(**settings), clusterer())


def site(shift: float = 0.6) -> tuple[FeatureTable, NDArray[np.int64]]:
    """Each person looks alike within a camera, somewhat alike across them; and who is who."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(PEOPLE), CAMERAS * EACH)
    camera = np.tile(np.repeat(np.arange(CAMERAS), EACH), PEOPLE)
    who = rng.normal(size=(PEOPLE, D))
    where = rng.normal(size=(PEOPLE, CAMERAS, D)) * shift
    features = []
    for _ in range(2):
        noise = rng.normal(size=(len(person), D)) * 0.2
        rows = who[person] + where[person, camera] + noise
        features.append((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    return FeatureTable(tuple(features), camera), person


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    view = torch.randn(P * S, 3, 32, 16, generator=generator)
    return Batch((view,), torch.arange(P).repeat_interleave(S), torch.arange(P * S))


def phase(method: AML, number: int) -> AML:
    """Put the method into phase 1 or 2 with the classifiers of P clusters."""
    method._weighted = number == 2
    for net in method.students:
        net.train()
    return method


def same_partition(one: NDArray[np.int64], other: NDArray[np.int64]) -> bool:
    pairs = {*zip(one.tolist(), other.tolist(), strict=True)}
    return len(pairs) == len(set(one.tolist())) == len(set(other.tolist()))


def at_odds() -> FeatureTable:
    """What two networks see when they do not agree."""
    rng = np.random.default_rng(0)
    who = np.repeat(rng.normal(size=(PEOPLE, 8)), 12, axis=0)
    pair = (who + rng.normal(size=who.shape) * 0.9 for _ in range(2))
    return FeatureTable(
        tuple((f / np.linalg.norm(f, axis=1, keepdims=True)).astype(np.float32) for f in pair),
        np.tile([0, 1], len(who) // 2),
    )


def test_the_averaged_distance_is_clustered() -> None:
    table = at_odds()
    method = AML(nets(), AMLOptions(labels="original"), clusterer(k1=6))
    method.students = tuple(_EightDimensional() for _ in range(2))  # type: ignore[misc]
    labels, _ = method.relabel(table, ONLY)
    one, two = (jaccard_distance(f, k1=6, k2=K2, variant="classic") for f in table.features)
    average = (dense(one) + dense(two)) / 2
    assert labels.labels.tolist() == dbscan(average).tolist()
    for alone in (dense(one), dense(two)):
        assert labels.labels.tolist() != dbscan(alone).tolist(), "not one network's"


def test_neighbors_are_listed_by_the_average_then_by_the_original_distance_of_both() -> None:
    table, nearest, across = at_odds(), 4, 20
    method = aml(merge_nearest=nearest, merge_cross_camera=across)
    graphs = [clusterer(k1=6).graph(f, table.cameras) for f in table.features]
    lists = method._lists(graphs, AverageGraph(*graphs), table.cameras, alone=False)
    ranked = [dense(jaccard_distance(f, k1=6, k2=K2, variant="classic")) for f in table.features]
    original = [((f[:, None] - f[None]) ** 2).sum(2) for f in table.features]
    average, fallback = ((one + two) / 2 for one, two in (ranked, original))
    # In the order of lists: first what is below 1, then the rest by the original distance. Ties
    # within rounding may stand either way round.
    place = np.where(average < 1, average, 1 + fallback)
    for i, camera in enumerate(table.cameras):
        others = np.arange(len(table)) != i
        for listed, allowed in (
            (lists.nearest[i], others),
            (lists.cross_camera[i], table.cameras != camera),
        ):
            assert allowed[listed].all()
            wanted = np.sort(place[i, allowed])[: len(listed)]
            np.testing.assert_allclose(place[i, listed], wanted, atol=1e-5)
    assert (np.take_along_axis(average, lists.cross_camera, axis=1) == 1).sum() > len(table)


@pytest.mark.parametrize(("threshold", "merges"), [(0.25, 2), (0.5, 0)])
def test_a_lower_threshold_merges_more(threshold: float, merges: int) -> None:
    method = aml(merge_cross_camera=2, merge_threshold=threshold)
    method.clusterer = clusterer(k1=6, min_samples=2, radius=0.45)
    method.students = tuple(_EightDimensional() for _ in range(2))  # type: ignore[misc]
    method.relabel(at_odds(), ONLY)
    assert method._figures["merges"] == merges


class _EightDimensional:
    """Stands where a network would get its classifier."""

    def reset_classifier(self, classes: int, weight: torch.Tensor) -> None:
        assert weight.shape == (classes, 8)


def dense(matrix: csr_array) -> NDArray[np.float32]:
    """1 where nothing is stored."""
    whole = np.ones(matrix.shape, np.float32)
    coo = matrix.tocoo()
    whole[coo.row, coo.col] = coo.data
    return whole


def dbscan(distances: NDArray[np.floating]) -> NDArray[np.int64]:
    row, column = np.nonzero(distances <= RADIUS)
    near = csr_array((distances[row, column], (row, column)), distances.shape)
    return cluster_dbscan(near, RADIUS, 3).labels


def test_one_network_learns_from_clusters_the_other_from_merged_ones() -> None:
    table, person = site()
    method = aml()
    original, merged = method.relabel(table, ONLY)
    camera = table.cameras
    kept = original.labels != OUTLIER
    assert kept.mean() > 0.8
    assert original.clusters == PEOPLE * CAMERAS, "DBSCAN splits people by camera"
    assert same_partition(original.labels[kept], (person * CAMERAS + camera)[kept])
    assert merged.clusters == PEOPLE, "their cross-camera neighbors put them together"
    assert same_partition(merged.labels[kept], person[kept])
    np.testing.assert_array_equal(merged.labels == OUTLIER, ~kept)
    assert merged.rule == f"{original.rule}, 8 clusters merged to 4"


@pytest.mark.parametrize(
    ("labels", "clusters"), [("asymmetric", (8, 4)), ("original", (8, 8)), ("merged", (4, 4))]
)
def test_ablation_switches(labels: str, clusters: tuple[int, int]) -> None:
    method = aml(labels=labels)
    found = method.relabel(site()[0], ONLY)
    assert tuple(each.clusters for each in found) == clusters
    for net, each in zip(method.students, found, strict=True):
        assert net.classifier is not None
        assert net.classifier.out_features == each.clusters


def test_classifiers_start_from_the_networks_own_centers() -> None:
    table, _ = site()
    method = aml()
    found = method.relabel(table, ONLY)
    for net, features, own in zip(method.students, table.features, found, strict=True):
        for k in range(own.clusters):
            center = features[own.labels == k].mean(axis=0)
            center /= np.linalg.norm(center)
            assert net.classifier is not None
            np.testing.assert_allclose(net.classifier.weight[k].detach().numpy(), center, atol=1e-5)


def test_merging_looks_at_the_features_as_they_are_clustered() -> None:
    """Camera-centered where the recipe says so: the offsets of cameras are gone, people remain."""
    table, person = site(shift=0.0)
    offset = np.random.default_rng(1).normal(size=(CAMERAS, D)).astype(np.float32)
    moved = FeatureTable(
        tuple(
            (f + offset[table.cameras]) / np.linalg.norm(f + offset[table.cameras], axis=1)[:, None]
            for f in table.features
        ),
        table.cameras,
    )
    method = AML(
        nets(),
        AMLOptions(merge_nearest=1, merge_cross_camera=3),
        clusterer(camera_centering=True, k1=8),
    )
    original, merged = method.relabel(moved, ONLY)
    kept = original.labels != OUTLIER
    assert same_partition(merged.labels[kept], person[kept])


def test_without_cameras_the_nearest_of_all_are_listed_and_a_warning_given() -> None:
    table, _ = site()
    blind = FeatureTable(table.features, np.zeros_like(table.cameras))
    method = aml(merge_nearest=2, merge_cross_camera=3)
    for own in method.relabel(blind, RoundOf(0, 2)):
        assert any("--camera-pattern" in warning for warning in own.warnings)
    for own in method.relabel(blind, RoundOf(1, 2)):
        assert not own.warnings, "once is enough"
    few = method._figures["merges"]
    graphs = [clusterer().graph(f, blind.cameras) for f in blind.features]
    lists = method._lists(graphs, AverageGraph(*graphs), blind.cameras, alone=True)
    assert (lists.nearest.shape, lists.cross_camera.shape) == ((48, 2 + 3), (48, 0))
    method.relabel(table, ONLY)
    assert few < method._figures["merges"], "the nearest are images of the own camera"


@pytest.mark.parametrize(
    ("share", "first"), [(0.0, 6), (1 / 3, 4), (0.3333, 4), (0.5, 3), (1.0, 0)]
)
def test_phase_2_is_the_last_share_of_the_rounds(share: float, first: int) -> None:
    method = aml(weighted_share=share, labels="original")
    phases = []
    for number in range(6):
        method.relabel(site()[0], RoundOf(number, 6))
        phases.append(method._figures["phase"])
    assert phases == [1.0] * first + [2.0] * (6 - first)


@pytest.mark.parametrize(("number", "similarity"), [(1, "pooled"), (2, "pooled"), (2, "neck")])
@pytest.mark.parametrize(("margin", "beta", "smoothing"), [(0.3, 0.7, 0.1), (1.5, 0.9, 0.3)])
def test_losses_equal_the_equations_written_out(
    number: int, similarity: str, margin: float, beta: float, smoothing: float
) -> None:
    options = {"margin": margin, "beta": beta, "label_smoothing": smoothing}
    method = phase(aml(similarity=similarity, **options), number)
    for net in method.students:
        with torch.no_grad():
            net.classifier.weight.mul_(50)  # logits of about 1: smoothing shows
    data = (batch(1), batch(2))
    losses = method.step(data)
    for n, (net, each) in enumerate(zip(method.students, data, strict=True), start=1):
        y = each.label
        with torch.no_grad():
            out = net(each.views[0])
        f, z = out.pooled, out.logits
        compared = f if similarity == "pooled" else out.neck
        tri = ident = mean = 0.0
        active = {"active": 0.0, "active_weighted": 0.0}
        for a in range(P * S):
            d = [float((f[a] - f[j]).norm()) for j in range(P * S)]
            positives = [j for j in range(P * S) if y[j] == y[a] and j != a]
            d_p = max(d[j] for j in positives)
            d_n = min(d[j] for j in range(P * S) if y[j] != y[a])
            cosines = [
                float(F.cosine_similarity(compared[a], compared[j], dim=0)) for j in positives
            ]
            s_p = max(0.0, sum(cosines) / len(cosines))
            log_p = F.log_softmax(z[a], 0)
            target = torch.full((P,), smoothing / P)
            target[y[a]] += 1 - smoothing
            one = -float((target * log_p).sum())
            weight = s_p if number == 2 else 1.0
            tri += max(0.0, d_p - weight * d_n + margin) / (P * S)
            ident += one / (max(beta, s_p) if number == 2 else 1.0) / (P * S)
            mean += s_p / (P * S)
            active["active"] += (d_p - d_n + margin > 0) / (P * S)
            active["active_weighted"] += (d_p - s_p * d_n + margin > 0) / (P * S)
        assert term_values(losses)[f"tri_{n}"].item() == pytest.approx(tri, rel=1e-3)
        assert term_values(losses)[f"id_{n}"].item() == pytest.approx(ident, rel=1e-3)
        assert losses.stats[f"similarity_{n}"] == pytest.approx(mean, rel=1e-3, abs=1e-6)
        for name, value in active.items():
            assert losses.stats[f"{name}_{n}"] == pytest.approx(value)


def test_weights_are_equations_9_and_10() -> None:
    for number in (1, 2):
        losses = phase(aml(lambda_id=0.02), number).step((batch(1), batch(2)))
        assert term_weights(losses) == {"tri_1": 1, "id_1": 0.02, "tri_2": 1, "id_2": 0.02}


def test_each_network_learns_from_its_own_batch_only() -> None:
    method = phase(aml(), 2)
    before = {
        k: float(v.detach()) for k, v in term_values(method.step((batch(1), batch(2)))).items()
    }
    after = {
        k: float(v.detach()) for k, v in term_values(method.step((batch(1), batch(3)))).items()
    }
    assert {k for k in before if before[k] != after[k]} == {"tri_2", "id_2"}
    losses = method.step((batch(1), batch(2)))
    (term_values(losses)["tri_1"] + term_values(losses)["id_1"]).backward()
    first, second = method.students
    assert all(p.grad is None for p in second.parameters())
    missing = [n for n, p in first.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


def test_the_similarity_is_a_weight_unless_gradients_are_asked_for() -> None:
    gradients = []
    for sw_grad in (False, True):
        method = phase(aml(sw_grad=sw_grad), 2)
        losses = method.step((batch(1), batch(2)))
        term_values(losses)["tri_1"].backward()
        weight = method.students[0].backbone.conv1.weight
        assert weight.grad is not None
        gradients.append((float(term_values(losses)["tri_1"].detach()), weight.grad.clone()))
    (plain, without), (same, through) = gradients
    assert plain == same
    assert not torch.allclose(without, through, rtol=1e-2)


def test_what_is_trained_clustered_and_kept() -> None:
    for keep in (1, 2):
        method = aml(keep=keep)
        assert tuple(method.networks()) == ("theta_1", "theta_2")
        assert method.extractors() == method.trained() == method.students
        assert method.embedder() is method.students[keep - 1]
    assert (AML.views, AML.fresh_optimizer, AML.sampling) == (1, True, "identities")


def test_wants_two_networks() -> None:
    with pytest.raises(ValueError, match="networks given: 1; AML trains 2 "):
        AML(nets()[:1], AMLOptions(), clusterer())


def test_k_means_has_no_distances_to_average() -> None:
    """Said before any crop is embedded."""
    with pytest.raises(ConfigError, match=r"set clustering\.algorithm to dbscan or hdbscan"):
        AML(nets(), AMLOptions(), clusterer(algorithm="kmeans"))
    AML(nets(), AMLOptions(), clusterer(algorithm="hdbscan"))


def test_pinned_first_steps() -> None:
    """A change of any number here is a change of the method: say so in the changelog."""
    for number, pinned in ((1, 1.9527), (2, 7.9871)):
        total = float(phase(aml(), number).step((batch(1), batch(2))).total().detach())
        assert total == pytest.approx(pinned, rel=1e-3)


def test_a_merge_chain_stops_the_round() -> None:
    """Lists longer than people have images reach strangers, and strangers' strangers."""
    method = aml(merge_cross_camera=15)
    with pytest.raises(ClusteringError, match="chain of merges makes 8 of 8 clusters one"):
        method.relabel(site()[0], ONLY)


def test_without_cameras_a_person_of_few_crops_is_chained_to_strangers() -> None:
    """12 crops of each, and 24 listed; the error names all that helps."""
    table, _ = site()
    blind = FeatureTable(table.features, np.zeros_like(table.cameras))
    wanted = r"merge_cross_camera .*options\.merge_threshold.*options\.labels=original"
    with pytest.raises(ClusteringError, match=wanted):
        aml(merge_nearest=3, merge_cross_camera=21).relabel(blind, ONLY)
    first, _ = aml(merge_nearest=3, merge_cross_camera=2).relabel(blind, ONLY)
    (warning,) = first.warnings
    assert "lists the 5 nearest crops" in warning
    assert "where people have fewer, strangers are merged" in warning
    assert "options.labels=original" in warning
    for labels in aml(labels="original", merge_cross_camera=21).relabel(blind, ONLY):
        assert not labels.warnings


def test_features_that_fell_together_stop_the_round() -> None:
    """d_p, d_n -> 0 is the stationary point of (6): all images the same."""
    one = np.zeros((48, D), np.float32)
    one[:, 0] = 1
    for radius in (RADIUS, "pairs", "auto"):
        method = AML(nets(), AMLOptions(), clusterer(radius=radius))
        table = FeatureTable((one, one), site()[0].cameras)
        with pytest.raises(ClusteringError):
            check(method.relabel(table, ONLY), table)


def check(labels: tuple[PseudoLabels, ...], table: FeatureTable) -> None:
    for each in labels:
        check_labels(each, table.cameras, identities_per_batch=P)


def test_only_outliers_stop_the_round() -> None:
    method = AML(nets(), AMLOptions(), clusterer(radius=1e-3))
    table, _ = site()
    labels = method.relabel(table, ONLY)
    with pytest.raises(ClusteringError, match=r"100\.0% of 48 images are outliers"):
        check(labels, table)


def crops() -> DecodedCrops:
    """Six people in two colors each; cameras differ in brightness."""
    rng = np.random.default_rng(0)
    people, each = 6, 8
    colors = rng.integers(40, 200, (people, 2, 3))
    samples, images = [], []
    for p in range(people):
        for i in range(each):
            image = np.repeat(colors[p], 16, axis=0)[:, None].repeat(16, axis=1)
            noise = rng.integers(-20, 21, image.shape)
            images.append((image + noise + 15 * (i % 2)).clip(0, 255).astype(np.uint8))
            samples.append(Sample(Path(f"{p}_{i}.png"), f"{p}_{i}.png", camera=i % 2, person=p))
    return DecodedCrops(CropSet(Path(), tuple(samples), ("a", "b")), np.stack(images))


def rounds(method: AML, data: DecodedCrops):  # type: ignore[no-untyped-def]
    return run_loop(
        method,
        data,
        schedule=Schedule(rounds=2, iterations=2),
        batch=BatchShape(identities=P, instances=S),
        augment=Augmentation(pad=2),
        optimizer=OptimizerSettings(lr=1e-4),
    )


@pytest.mark.slow
def test_two_rounds_through_the_loop() -> None:
    data = crops()
    method = AML(
        nets(),
        AMLOptions(weighted_share=0.5, merge_nearest=1, merge_cross_camera=2),
        clusterer(camera_centering=True),
    )
    start = [net.backbone.conv1.weight.clone() for net in method.students]
    first, second = rounds(method, data)
    assert (first.metrics["phase"], second.metrics["phase"]) == (1, 2)
    for result in (first, second):
        m = result.metrics
        assert m["clusters_1"] - m["clusters_2"] == m["merges"] >= 0
        assert 0 <= m["cross_camera_hits"] <= 1
        assert m["longest_chain"] >= 1
        for n in (1, 2):
            assert 0 <= m[f"active_{n}"] <= m[f"active_weighted_{n}"] <= 1
            assert 0 <= m[f"similarity_{n}"] <= 1
            assert m[f"distance_{n}"] > 0
        assert all(np.isfinite(value) for value in m.values())
        assert "merged to" in result.labels[1].rule
    for before, net in zip(start, method.students, strict=True):
        assert not torch.equal(before, net.backbone.conv1.weight)


@pytest.mark.slow
def test_a_run_that_chains_ends_with_the_networks_of_the_round_before() -> None:
    method = AML(
        nets(),
        AMLOptions(merge_nearest=1, merge_cross_camera=2),
        clusterer(camera_centering=True),
    )
    running = rounds(method, crops())
    next(running)
    good = {k: v.clone() for k, v in method.embedder().state_dict().items()}
    method.options = AMLOptions(merge_nearest=1, merge_cross_camera=20, merge_threshold=0.0)
    with pytest.raises(ClusteringError, match="chain of merges"):
        next(running)
    assert all(torch.equal(good[k], v) for k, v in method.embedder().state_dict().items())


def test_with_cameras_there_is_nothing_to_warn_of() -> None:
    assert not any(labels.warnings for labels in aml().relabel(site()[0], ONLY))


@pytest.mark.slow
def test_memory_is_what_the_rest_of_a_round_needs() -> None:
    """Another process that takes it over is in the second phase, too, and keeps the radius."""

    def fresh() -> AML:
        options = AMLOptions(merge_nearest=1, merge_cross_camera=3)
        return AML(nets(), options, clusterer(radius="pairs", pairs_per_image=4.0))

    one, other, forgetful = fresh(), fresh(), fresh()
    one.relabel(site()[0], RoundOf(2, 3))
    memory = one.state_dict()
    assert memory["weighted"]
    assert {"radius", "figures/phase", "figures/merges", "figures/longest_chain"} <= set(memory)
    other.load_state_dict(memory)
    assert other.state_dict() == memory
    for method in (other, forgetful):
        for net, trained in zip(method.students, one.students, strict=True):
            net.reset_classifier(trained.classifier.out_features)
            net.load_state_dict(trained.state_dict())
    step, again, unweighted = (m.step((batch(1), batch(2))) for m in (one, other, forgetful))
    assert again.stats == step.stats
    assert step.stats["phase"] == 2
    found = [[term.item() for term in term_values(s).values()] for s in (step, again, unweighted)]
    assert found[0] == found[1] != found[2]
    later = at_odds().features[0]
    later = np.pad(later, ((0, 0), (0, D - 8)))
    table = FeatureTable((later, later), site()[0].cameras)
    rules = [m.relabel(table, RoundOf(0, 3))[0].rule for m in (one, other, forgetful)]
    assert rules[0] == rules[1] != rules[2]

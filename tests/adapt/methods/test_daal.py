"""DAAL step by step against slow, obvious versions of its paper's equations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from pydantic import ValidationError  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from adapt.clustering.clusterer import Clusterer  # noqa: E402
from adapt.clustering.labels.centers import cluster_centers  # noqa: E402
from adapt.config import (  # noqa: E402
    Augmentation,
    BatchShape,
    Clustering,
    OptimizerSettings,
    Schedule,
)
from adapt.data.decoding.decode import DecodedCrops  # noqa: E402
from adapt.errors import AttentionError, ClusteringError, ConfigError  # noqa: E402
from adapt.methods import DAAL, METHODS, MMT, SourceMethod  # noqa: E402
from adapt.methods.daal import DAALOptions  # noqa: E402
from adapt.methods.parts.attention_watch import MAX_STUCK_STEPS  # noqa: E402
from adapt.runs.tensor_files import load_network, save_network  # noqa: E402
from adapt.runtime.timing import Stages  # noqa: E402
from adapt.training.extraction import extract  # noqa: E402
from adapt.types import OUTLIER, Batch, CropSet, FeatureTable, PseudoLabels, RoundOf, Sample  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402
from tests.support.loop import run_loop  # noqa: E402
from tests.support.loss_terms import float_stats, term_values, term_weights  # noqa: E402
from tests.support.thin_trunks import SHARE  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

D = 512 // SHARE
CPU = torch.device("cpu")
K, SOURCE_PEOPLE, B = 3, 4, 6
LABELS = np.array([0, 1, 2, 0, OUTLIER, 1, 2, 0, 1, 2])


def net() -> ReIDNet:
    torch.manual_seed(0)
    return ReIDNet("resnet18")


class Given:
    """A clusterer whose answer is known."""

    def __init__(self, labels: np.ndarray) -> None:
        self.stages = Stages()
        self._labels = labels

    def __call__(self, features: FeatureTable, cameras: np.ndarray) -> PseudoLabels:
        return PseudoLabels(self._labels, "given")


def unit(rows: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(rows, D))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def daal(clusters: np.ndarray = LABELS, **options: object) -> DAAL:
    """A method in the middle of a round, all its classifiers in place."""
    chosen = DAALOptions(**options)
    method = DAAL([net()], chosen, Given(clusters))  # type: ignore[arg-type]
    if method.options.source_wanted():
        method.start_source(unit(SOURCE_PEOPLE, 5))
    table = FeatureTable((unit(len(clusters), 1),), np.zeros(len(clusters), np.int64))
    method.relabel(table, RoundOf(0, 1))
    for each in method.networks().values():
        each.train()
    return method


def batches(labels: np.ndarray = LABELS, *, source: bool = True) -> tuple[Batch, ...]:
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(B, 3, 32, 16, generator=generator) for _ in range(2)]
    rows = torch.tensor([0, 1, 4, 9, 2, 3])
    target = Batch((views[0],), torch.from_numpy(labels)[rows], rows)
    people = torch.arange(B) % SOURCE_PEOPLE
    both = (target, Batch((views[1],), people, torch.arange(B)))
    return both if source else both[:1]


def in_the_middle_of_training(method: DAAL) -> DAAL:
    """Move what starts nearly constant away from there."""
    with torch.no_grad():
        for parameter in method.net.attention.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        method.heads["domain"].classifier.weight.mul_(20)
    return method


@pytest.mark.parametrize(("epsilon", "normalize"), [(0.9, False), (0.4, False), (0.4, True)])
def test_losses_equal_the_equations_written_out(epsilon: float, normalize: bool) -> None:
    method = in_the_middle_of_training(daal(epsilon=epsilon, normalize=normalize))
    target, source = data = batches()
    losses = method.step(data)
    with torch.no_grad():
        maps = method.net.backbone(torch.cat([target.views[0], source.views[0]]))
        attention = method.net.attention(maps)  # type: ignore[misc]
        shared = (attention * maps).flatten(2).mean(2)
        specific = ((1 - attention) * maps).flatten(2).mean(2)
        f = (shared - shared.mean(0)) / (shared.var(0, unbiased=False) + method.net.neck.eps).sqrt()
        W_t, W_s = method.heads["target"].weight, method.heads["source"].weight
        domain = method.heads["domain"].classifier
    stored, centers = unit(len(LABELS), 1), cluster_centers(unit(10, 1), LABELS, normalize=True)
    id_target = id_source = of_domain = 0.0
    W_t, W_s = W_t.detach(), W_s.detach()
    for i in range(B):
        y, row = int(target.label[i]), int(target.index[i])
        log_p = F.log_softmax(W_t @ f[i], 0)
        w = [1 / (K * ((stored[row] - centers[k]) ** 2).sum()) for k in range(K)]
        w = [w[k] + epsilon * (k == y) for k in range(K)]
        total = sum(w) if normalize else 1.0
        for k in range(K):
            id_target -= float(w[k] / total * log_p[k]) * (y != OUTLIER) / B
        id_source -= float(F.log_softmax(W_s @ f[B + i], 0)[source.label[i]]) / B
    for i in range(2 * B):
        log_p = F.log_softmax(domain.weight @ specific[i] + domain.bias, 0).detach()
        of_domain -= float(log_p[int(i >= B)]) / (2 * B)
    expected = {"id_target": id_target, "id_source": id_source, "domain": of_domain}
    assert {k: v.item() for k, v in term_values(losses).items()} == pytest.approx(
        expected, rel=1e-3
    )


def test_their_sum_is_equation_7_averaged_over_the_images_of_both_domains() -> None:
    losses = daal().step(batches())
    assert term_weights(losses) == {"id_target": 0.5, "id_source": 0.5, "domain": 1.0}
    target, source = batches()
    fewer = Batch((source.views[0][:2],), source.label[:2], source.index[:2])
    assert term_weights(daal().step((target, fewer))) == {
        "id_target": 0.75,
        "id_source": 0.25,
        "domain": 1.0,
    }
    alone = daal(source="none").step(batches(source=False))
    assert dict(term_weights(alone)) == {"id_target": 1.0}


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_ablation_hard_and_lsr(smoothing: float) -> None:
    """Table 4: the target's loss is cross-entropy over the clustered images."""
    kind = {"labels": "lsr", "label_smoothing": smoothing} if smoothing else {"labels": "hard"}
    method = daal(attention="none", **kind)
    target, _ = data = batches()
    loss = term_values(method.step(data))["id_target"]
    with torch.no_grad():
        images = torch.cat([batch.views[0] for batch in data])
        logits = method.heads["target"](method.net(images).neck[:B])
        loss = loss.detach()
    kept = target.label != OUTLIER
    expected = F.cross_entropy(logits[kept], target.label[kept], label_smoothing=smoothing)
    assert float(loss) == pytest.approx(float(expected) * int(kept.sum()) / B, rel=1e-4)


@pytest.mark.slow
def test_ablation_of_branches() -> None:
    """Rows of table 4: nothing, + DSP, + DAAM, + DSP + IA, all."""
    rows = {
        ("none", False): (False, set()),
        ("none", True): (False, {"domain"}),
        ("residual", False): (True, set()),
        ("independent", True): (True, {"domain"}),
        ("residual", True): (True, {"domain"}),
    }
    seen = set()
    for (attention, branch), (has_attention, heads) in rows.items():
        method = daal(attention=attention, domain_branch=branch)
        losses = method.step(batches())
        assert (method.net.attention is not None) == has_attention
        assert set(term_values(losses)) == {"id_target", "id_source"} | heads
        assert ("attention_std" in losses.stats) == has_attention
        assert ("accuracy_domain" in losses.stats) == bool(heads)
        seen.add(round(float(losses.total()), 5))
    assert len(seen) == len(rows)
    with pytest.raises(ValidationError, match="belongs to the domain branch"):
        DAALOptions(attention="independent", domain_branch=False)


def test_both_domains_pass_the_network_as_one_batch() -> None:
    """Batch norm sees a mixture: other source images change the target's loss."""
    target, source = batches()
    other = replace(source, views=(source.views[0] * 2 + 1,))
    one, two = (float(term_values(daal().step((target, b)))["id_target"]) for b in (source, other))
    assert one != pytest.approx(two, rel=1e-4)


def test_outliers_have_a_domain_loss_and_no_identity_loss() -> None:
    alone = np.full(10, OUTLIER)
    alone[[5, 6, 7]] = [0, 1, 2]  # nobody of the batch
    method = daal(alone)
    losses = method.step(batches(alone))
    assert float(term_values(losses)["id_target"]) == 0
    assert "accuracy_target" not in losses.stats
    assert "own_share" not in losses.stats
    assert losses.stats["accuracy_domain"] >= 0
    losses.total().backward()
    assert not method.heads["target"].weight.grad.any()
    assert method.heads["domain"].classifier.weight.grad.any()


def test_who_learns_from_what() -> None:
    """Each term reaches the trunk and its own head; the domain loss reaches the attention, too."""
    for term, head in (("id_target", "target"), ("id_source", "source"), ("domain", "domain")):
        method = daal()
        term_values(method.step(batches()))[term].backward()
        for name, module in method.heads.items():
            learns = [p.grad is not None and bool(p.grad.any()) for p in module.parameters()]
            assert all(learns) if name == head else not any(learns), (term, name)
        assert method.net.backbone.conv1.weight.grad.any()
        assert all(p.grad.any() for p in method.net.attention.parameters())
        neck = method.net.neck.weight.grad
        assert (neck is None) == (term == "domain"), "the specific branch has no neck"


@pytest.mark.slow
def test_the_domain_branch_learns_to_tell_the_domains_apart() -> None:
    method = daal()
    target, source = batches()
    data = (target, replace(source, views=(source.views[0] + 2,)))
    opt = torch.optim.Adam([p for m in method.trained() for p in m.parameters()], lr=1e-2)
    figures = []
    for _ in range(16):
        losses = method.step(data)
        opt.zero_grad()
        losses.total().backward()
        opt.step()
        figures.append((float(term_values(losses)["domain"]), losses.stats["accuracy_domain"]))
    assert figures[-1][0] < 0.5 * figures[0][0], figures
    assert figures[-1][1] == 1


def test_relabel_keeps_what_equation_4_needs_and_starts_a_new_classifier() -> None:
    seen = []

    def cluster(features: np.ndarray, cameras: np.ndarray) -> PseudoLabels:
        seen.append((features, cameras))
        return PseudoLabels(LABELS, "given")

    method = DAAL([net()], DAALOptions(start_logit=3.0), cluster)  # type: ignore[arg-type]
    method.start_source(unit(SOURCE_PEOPLE, 5))
    source_row = method.heads["source"].weight[1].detach().numpy()
    np.testing.assert_allclose(source_row * D**0.5 / 3, unit(SOURCE_PEOPLE, 5)[1], atol=1e-5)
    features, cameras = unit(10, 7), np.arange(10) % 2
    (labels,) = method.relabel(FeatureTable((features,), cameras), RoundOf(0, 2))
    assert labels.labels is LABELS
    assert seen[0][0] is features
    np.testing.assert_array_equal(seen[0][1], cameras)
    for k in range(K):
        center = features[k == LABELS].mean(0)
        row = method.heads["target"].weight[k].detach().numpy()
        unit_row = row * D**0.5 / 3  # a new neck gives features of length sqrt(D)
        np.testing.assert_allclose(unit_row, center / np.linalg.norm(center), atol=1e-5)


def test_weights_follow_the_rounds_features_not_the_networks() -> None:
    method = daal()
    first = method.step(batches()).stats
    with torch.no_grad():
        for parameter in method.net.parameters():
            parameter.mul_(1.1)
    again = method.step(batches()).stats
    assert first["weight_sum"] == again["weight_sum"]
    assert first["own_share"] == again["own_share"]
    other = FeatureTable((unit(10, 2),), np.zeros(10, np.int64))
    method.relabel(other, RoundOf(0, 1))
    assert method.step(batches()).stats["weight_sum"] != first["weight_sum"]


def test_logged_weights_by_hand() -> None:
    method = daal(labels="lsr", label_smoothing=0.3)
    stats = method.step(batches()).stats
    assert stats["weight_sum"] == pytest.approx(1)
    assert stats["own_share"] == pytest.approx(0.7 + 0.3 / K)


def test_what_is_trained_extracted_and_kept(tmp_path: Path) -> None:
    method = daal()
    assert method.extractors() == (method.net,)
    assert method.embedder() is method.net
    held = {id(p) for module in method.trained() for p in module.parameters()}
    assert {id(p) for p in method.net.parameters()} <= held
    assert {id(p) for p in method.heads.parameters()} <= held
    assert set(method.heads) == {"target", "source", "domain"}
    save_network(method.embedder(), tmp_path / "kept")
    kept = ReIDNet("resnet18", attention=True)
    load_network(kept, tmp_path / "kept")
    image = torch.randn(2, 3, 32, 16)
    with torch.no_grad():
        torch.testing.assert_close(kept.eval().embed(image), method.net.eval().embed(image))
    trunk_neck_attention = {key.split(".")[0] for key in kept.state_dict()}
    assert trunk_neck_attention == {"backbone", "neck", "attention"}


def test_only_daal_learns_from_source_crops() -> None:
    assert isinstance(daal(), SourceMethod)
    assert daal().options.source_wanted()
    assert not daal(source="none").options.source_wanted()
    mmt = MMT([net(), net()], MMT.Options(), Given(LABELS))  # type: ignore[arg-type]
    assert not isinstance(mmt, SourceMethod)
    assert METHODS["daal"] is DAAL


def test_start_from_a_network_that_has_an_attention() -> None:
    start = ReIDNet("resnet18", attention=True)
    own = start.attention
    method = DAAL([start], DAALOptions(), Given(LABELS))  # type: ignore[arg-type]
    assert method.net.attention is own
    with pytest.raises(ConfigError, match=r"options\.attention"):
        DAAL([start], DAALOptions(attention="none"), Given(LABELS))  # type: ignore[arg-type]


def test_pinned_first_step() -> None:
    """A change of any number here is a change of the method: say so in the changelog."""
    assert float(daal().step(batches()).total()) == pytest.approx(2.7212, rel=1e-3)


def crops(people: int, each: int, seed: int, shade: int = 0) -> DecodedCrops:
    rng = np.random.default_rng(seed)
    samples = tuple(
        Sample(Path(f"{p}_{i}.png"), f"{p}_{i}.png", camera=i % 2, person=p)
        for p in range(people)
        for i in range(each)
    )
    colors = rng.integers(0, 200, (people, 1, 1, 3)).repeat(each, axis=0)
    images = (colors + rng.integers(0, 40, (len(samples), 32, 16, 3)) + shade).astype(np.uint8)
    return DecodedCrops(CropSet(Path(), samples, ("a", "b")), images)


def loop(method: DAAL, *, source: bool = True, lr: float = 1e-3, **schedule: int):  # type: ignore[no-untyped-def]
    site, labelled = crops(6, 4, seed=0, shade=15), crops(4, 4, seed=1)
    if source:
        (features,) = extract([method.net], labelled.images, device=CPU)
        method.start_source(cluster_centers(features, labelled.crops.persons, normalize=True))
    return run_loop(
        method,
        site,
        source=labelled if source else None,
        schedule=Schedule(**{"rounds": 2, "iterations": 3, **schedule}),
        batch=BatchShape(identities=4, instances=2),
        augment=Augmentation(pad=2),
        optimizer=OptimizerSettings(lr=lr, new_layers=2.0),
    )


def clusterer() -> Clusterer:
    settings = Clustering(algorithm="kmeans", clusters=6, camera_centering=False)
    return Clusterer(settings, identities_per_batch=4, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["given", "none"])
def test_two_rounds_of_the_loop(source: str) -> None:
    method = DAAL([net()], DAALOptions(source=source), clusterer())
    before = {k: v.clone() for k, v in method.net.state_dict().items()}
    rounds = list(loop(method, source=source == "given"))
    assert [each.number for each in rounds] == [1, 2]
    logged = {"attention_mean", "attention_std", "weight_sum", "own_share", "accuracy_target"}
    with_source = {"accuracy_domain", "accuracy_source", "loss_domain", "loss_id_source"}
    for each in rounds:
        assert logged <= set(each.metrics)
        assert (with_source <= set(each.metrics)) == (source == "given")
        assert all(np.isfinite(value) for value in each.metrics.values())
    after = method.net.state_dict()
    for part in ("backbone.conv1.weight", "attention.spatial.0.weight", "neck.weight"):
        assert not torch.equal(before[part], after[part])


@pytest.mark.slow
def test_same_seed_same_network() -> None:
    kept = []
    for _ in range(2):
        method = DAAL([net()], DAALOptions(), clusterer())
        list(loop(method, rounds=1, iterations=2))
        kept.append(method.net.state_dict())
    assert all(torch.equal(kept[0][key], kept[1][key]) for key in kept[0])


@pytest.mark.slow
def test_stuck_attention_ends_the_run_after_its_last_good_round() -> None:
    """A is 1 everywhere: the specific branch starves. The first round is done before it is sure."""
    method = DAAL([net()], DAALOptions(attention_start=0.9999), clusterer())
    rounds = loop(method, lr=1e-9, iterations=MAX_STUCK_STEPS - 2)
    first = next(rounds)
    assert first.metrics["attention_mean"] > 0.999
    with pytest.raises(AttentionError, match=r"mean 0\.9999.*attention_start"):
        next(rounds)


@pytest.mark.parametrize("labels", [np.full(24, OUTLIER), np.zeros(24, np.int64)])
def test_collapsed_clusters_stop_the_run(labels: np.ndarray) -> None:
    method = DAAL([net()], DAALOptions(), Given(labels))  # type: ignore[arg-type]
    with pytest.raises(ClusteringError):
        next(loop(method))


def people(spread: float, seed: int) -> FeatureTable:
    """Eight crops of each of K people, the more alike the smaller the spread."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.normal(size=(K, D)), 8, axis=0)
    rows = rows + spread * rng.normal(size=rows.shape)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return FeatureTable((rows,), np.zeros(len(rows), np.int64))


@pytest.mark.slow
def test_memory_is_what_the_rest_of_a_round_needs() -> None:
    """Another process that takes it over weighs as before, and loses patience at the same step."""

    def fresh() -> DAAL:
        settings = Clustering(
            algorithm="dbscan",
            radius="pairs",
            pairs_per_image=2.0,
            k1=4,
            k2=1,
            camera_centering=False,
        )
        found = Clusterer(settings, identities_per_batch=2, seed=0)
        return DAAL([net()], DAALOptions(attention_start=0.9999), found)

    def steps(method: DAAL, count: int) -> list[tuple[dict[str, float], float]]:
        done = (method.step(batches(labels)) for _ in range(count))
        return [(float_stats(losses), losses.total().item()) for losses in done]

    one, other = fresh(), fresh()
    one.start_source(unit(SOURCE_PEOPLE, 5))
    (found,) = one.relabel(people(0.05, seed=3), RoundOf(0, 2))
    labels = found.labels[: len(LABELS)]
    for module in one.networks().values():
        module.train()
    steps(one, 3)
    memory = one.state_dict()
    assert int(memory["stuck_steps"]) == 3
    other.load_state_dict(memory)
    assert set(other.state_dict()) == set(memory)
    for name, value in other.state_dict().items():
        np.testing.assert_array_equal(value, memory[name], err_msg=name)
    for name, module in other.networks().items():
        module.load_state_dict(one.networks()[name].state_dict())
        module.train()
    assert steps(other, MAX_STUCK_STEPS - 4) == steps(one, MAX_STUCK_STEPS - 4)
    for method in (one, other):
        with pytest.raises(AttentionError, match=f"for {MAX_STUCK_STEPS} steps"):
            method.step(batches(labels))
    later = people(0.8, seed=4)
    rules = [m.relabel(later, RoundOf(1, 2))[0].rule for m in (one, other, fresh())]
    assert rules[0] == rules[1] != rules[2]


def test_soft_labels_that_drown_the_other_losses_are_warned_of() -> None:
    """Crops on their centers: each weighs 1000/K there, and only the sum says so."""
    method = daal(source="none")
    copies = np.repeat(unit(K, 3), 4, axis=0)[: len(LABELS)]
    method.clusterer = Given(np.repeat(np.arange(K), 4)[: len(LABELS)])  # type: ignore[assignment]
    method.relabel(FeatureTable((copies,), np.zeros(len(LABELS), np.int64)), RoundOf(0, 1))
    labels = np.repeat(np.arange(K), 4)[: len(LABELS)]
    stats = float_stats(method.step(batches(labels, source=False)))
    assert stats["weight_sum"] == pytest.approx(1000 / K + 0.9, rel=0.01)
    (warning,) = method.after_round(stats)
    assert f"sum to {stats['weight_sum']:.1f} on average" in warning
    assert f"with {K} clusters a weight reaches 333" in warning
    assert "options.normalize=true" in warning
    assert not method.after_round({"weight_sum": 1.5})
    assert not method.after_round({"weight_sum": 4.99})
    assert method.after_round({"weight_sum": 5.0})
    assert not method.after_round({}), "a round of outliers has no weights"

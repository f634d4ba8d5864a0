"""Every method driven into its known failures: a typed end, and the last good network is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.clustering.clusterer import Clusterer  # noqa: E402
from adapt.clustering.graph.jaccard import JaccardGraph  # noqa: E402
from adapt.config import Clustering  # noqa: E402
from adapt.data.decoding.decode import DecodedCrops  # noqa: E402
from adapt.data.decoding.run_crops import RunCrops  # noqa: E402
from adapt.errors import (  # noqa: E402
    AdaptError,
    AttentionError,
    ClusteringError,
    DivergedError,
    ExportError,
    NothingLearnedError,
    RunError,
)
from adapt.methods import METHODS, SourceMethod, students_of  # noqa: E402
from adapt.methods.parts.attention_watch import MAX_STUCK_STEPS  # noqa: E402
from adapt.recipes import load_recipe  # noqa: E402
from adapt.runs.folder import Run  # noqa: E402
from adapt.runs.info import Origin  # noqa: E402
from adapt.types import CropSet, PseudoLabels, Sample  # noqa: E402
from adapt.workflows.fit import fit, start_run  # noqa: E402
from adapt.workflows.session import Session  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402
from models.image import Preprocessing  # noqa: E402
from tests.support.specs import adapt_spec, on_cpu  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

BACKBONE = "resnet18"
PEOPLE, EACH, P = 8, 6, 4
Features = NDArray[np.float32]
State = dict[str, torch.Tensor]

TINY = (
    *("schedule.rounds=2", "schedule.iterations=1", "schedule.passes=0", "augment.pad=1"),
    *(f"batch.identities={P}", "batch.instances=2", "batch.ghost=0"),
    *("clustering.camera_statistics=false", "clustering.camera_centering=false"),
)
KMEANS = ("clustering.algorithm=kmeans", f"clustering.clusters={PEOPLE}")
NEAR = ("clustering.k1=5", "clustering.k2=1")
DBSCAN = (
    *("clustering.algorithm=dbscan", "clustering.radius=0.3", "clustering.min_samples=3"),
    *NEAR,
)
HDBSCAN = (
    *("clustering.algorithm=hdbscan", "clustering.min_samples=5"),
    *("clustering.min_cluster_size=6", *NEAR),
)
CLUSTERED = {"mmt": KMEANS, "hli": KMEANS, "nrmt": HDBSCAN, "aml": DBSCAN, "daal": DBSCAN}
"""As in the papers."""

FEW = ("options.merge_nearest=1", "options.merge_cross_camera=2")
"""AML on few crops of each person."""

ALL_THE_SAME = {
    "aml": r"\(dbscan .*\): 1 cluster, but batches need 4",
    "daal": r"\(dbscan .*\): 1 cluster, but batches need 2",  # it draws images, not identities
    "hli": r"\(kmeans K=1 .*\): 1 cluster, but batches need 4",
    "mmt": r"\(kmeans K=1 .*\): 1 cluster, but batches need 4",
    "nrmt": r"\(hdbscan .*\): 100\.0% of 48 images are outliers",  # it never finds one cluster
}
"""What stops each method when no crop differs from another."""


def all_apart(features: Features) -> Features:
    return np.random.default_rng(0).normal(size=features.shape).astype(np.float32)


def by_person(features: Features) -> Features:
    """What a good network gives."""
    return all_apart(features)[np.arange(len(features)) // EACH] + 0.1 * all_apart(features)


def three_groups(features: Features) -> Features:
    return all_apart(features)[np.arange(len(features)) % 3]


def all_the_same(features: Features) -> Features:
    return np.ones_like(features)


@dataclass
class Failure:
    """What a clusterer and its copies do to a run, and what they write down.

    after: good calls of each clusterer before `collapse` is what it sees. spoil: called at the
    first call after these. state: of the kept network; states: at each call.
    """

    after: int
    state: Callable[[], State]
    collapse: Callable[[Features], Features] = by_person
    spoil: Callable[[], object] = lambda: None
    states: list[State] = field(default_factory=list)


class Watched(Clusterer):
    """A clusterer to which a plan happens; NRMT has a copy for each network.

    It labels for real what it is made to see: each person's crops alike, then the collapse.
    """

    def __init__(self, settings: Clustering, plan: Failure) -> None:
        super().__init__(settings, identities_per_batch=P, seed=0)
        self.plan = plan
        self.calls = 0

    def __call__(self, features: Features, cameras: NDArray[np.int64]) -> PseudoLabels:
        if self._settings.algorithm == "kmeans":
            features = self._seen(features)
        return super().__call__(features, cameras)

    def graph(self, features: Features, cameras: NDArray[np.int64]) -> JaccardGraph:
        return super().graph(self._seen(features), cameras)

    def _seen(self, features: Features) -> Features:
        plan = self.plan
        plan.states.append(plan.state())
        self.calls += 1
        if self.calls == plan.after + 1:
            plan.spoil()
        return by_person(features) if self.calls <= plan.after else plan.collapse(features)


def crops(height: int, width: int, seed: int) -> DecodedCrops:
    """People of two colors each, noisy; two cameras."""
    rng = np.random.default_rng(seed)
    colors = rng.integers(30, 226, (PEOPLE, 1, 2, 1, 3))
    still = np.repeat(np.broadcast_to(colors, (PEOPLE, EACH, 2, width, 3)), height // 2, axis=2)
    images = (still + rng.integers(-20, 21, still.shape)).clip(0, 255).astype(np.uint8)
    samples = tuple(
        Sample(Path(f"{p}_{i}.png"), f"{p}_{i}.png", camera=i % 2, person=p)
        for p in range(PEOPLE)
        for i in range(EACH)
    )
    return DecodedCrops(CropSet(Path(), samples, ("a", "b")), images.reshape(-1, height, width, 3))


@pytest.fixture(scope="module")
def built() -> tuple[ReIDNet, ...]:
    nets = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        nets.append(ReIDNet(BACKBONE))
    return tuple(nets)


class Case:
    """A method that trains into a run folder, to be driven into a failure in its second round."""

    def __init__(
        self,
        name: str,
        nets: tuple[ReIDNet, ...],
        out: Path,
        *changes: str,
        size: tuple[int, int] = (32, 16),
    ) -> None:
        own = FEW if name == "aml" else ()
        given = (*TINY, *CLUSTERED[name], *own, *changes)
        self.recipe = load_recipe(name, method=name, overrides=given)
        self.plan = Failure(after=2 if name == "aml" else 1, state=self.state)
        watched = Watched(self.recipe.clustering, self.plan)
        students = nets[: students_of(self.recipe)]
        self.method = METHODS[name](copy.deepcopy(students), self.recipe.options, watched)
        self.size = size
        self.out = out

    def state(self) -> State:
        kept = self.method.embedder().state_dict()
        return {k: v.clone() for k, v in kept.items() if not k.startswith("classifier.")}

    def run(self) -> Run:
        height, width = self.size
        spec = adapt_spec(
            Path("site"),
            [Path("init")],
            self.recipe,
            backbone=BACKBONE,
            preprocessing=Preprocessing(height=height, width=width),
        )
        source = None
        if isinstance(self.method, SourceMethod):
            source = crops(*self.size, seed=1)
            self.method.start_source(
                np.eye(PEOPLE, self.method.embedder().dimension, dtype=np.float32)
            )
        session = Session(
            method=self.method,
            data=crops(*self.size, seed=0),
            source=source,
            spec=spec,
            labelled=None,
            origin=Origin(),
            data_info=(),
            crops=RunCrops(self.out),
        )
        return fit(start_run(session, on_cpu(), self.out), session, on_cpu())

    def fails(self, error: type[AdaptError], message: str, *, good_rounds: int = 1) -> None:
        """The run ends by `error`; its folder has the network as it was before."""
        with pytest.raises(error, match=message):
            self.run()
        kept = Run.open(self.out)
        assert (kept.info.state, kept.info.reason) == ("failed", error.reason)
        assert kept.info.error
        assert kept.info.rounds == len(kept.metrics()) == good_rounds
        if not good_rounds:
            with pytest.raises(RunError, match="has not finished its first round"):
                kept.network()
            return
        start, good, found = self.plan.states[0], self.plan.states[-1], kept.network()
        assert set(found.state_dict()) == set(good)
        assert all(torch.equal(value, good[key]) for key, value in found.state_dict().items())
        assert not all(torch.equal(value, start[key]) for key, value in good.items())


@pytest.mark.parametrize("name", METHODS)
def test_all_outliers(name: str, built: tuple[ReIDNet, ...], tmp_path: Path) -> None:
    """K-means has none, so MMT and HLI are given DBSCAN."""
    case = Case(name, built, tmp_path / "run", *(DBSCAN if CLUSTERED[name] == KMEANS else ()))
    case.plan.collapse = all_apart
    case.fails(ClusteringError, r"\): 100\.0% of 48 images are outliers")


@pytest.mark.parametrize("name", METHODS)
def test_all_the_same(name: str, built: tuple[ReIDNet, ...], tmp_path: Path) -> None:
    case = Case(name, built, tmp_path / "run")
    case.plan.collapse = all_the_same
    case.fails(ClusteringError, ALL_THE_SAME[name])


@pytest.mark.parametrize("name", METHODS)
def test_fewer_clusters_than_a_batch_has_identities(
    name: str, built: tuple[ReIDNet, ...], tmp_path: Path
) -> None:
    """DAAL draws images, not identities: three clusters are enough for it."""
    case = Case(name, built, tmp_path / "run")
    case.plan.collapse = three_groups
    if name == "daal":
        assert case.run().metrics()[1]["clusters"] == 3
    else:
        case.fails(ClusteringError, "3 clusters, but batches need 4")


@pytest.mark.parametrize("name", METHODS)
def test_a_collapse_before_anything_is_learned_leaves_no_network(
    name: str, built: tuple[ReIDNet, ...], tmp_path: Path
) -> None:
    case = Case(name, built, tmp_path / "run")
    case.plan.after, case.plan.collapse = 0, all_the_same
    case.fails(ClusteringError, ALL_THE_SAME[name], good_rounds=0)


@pytest.mark.parametrize("name", METHODS)
def test_a_network_that_becomes_nan_in_the_last_step_of_a_round_is_not_kept(
    name: str, built: tuple[ReIDNet, ...], tmp_path: Path
) -> None:
    """The loss was finite; its gradient was not."""
    case = Case(name, built, tmp_path / "run")
    weight = next(case.method.trained()[0].parameters())
    case.plan.spoil = lambda: weight.register_hook(lambda grad: grad * float("nan"))
    case.fails(DivergedError, "is not finite")


@pytest.mark.parametrize("rounds", [2, 4])
def test_no_kept_triplet(rounds: int, built: tuple[ReIDNet, ...], tmp_path: Path) -> None:
    """From half time on nothing is sure enough for NRMT, be it in its last round."""
    impossible = ("options.confidence=-1e6", f"schedule.rounds={rounds}")
    case = Case("nrmt", built, tmp_path / "run", *impossible)
    case.fails(NothingLearnedError, "no triplet was kept", good_rounds=rounds // 2)


def test_attention_that_gets_stuck(built: tuple[ReIDNet, ...], tmp_path: Path) -> None:
    still = (
        "optimizer.lr=1e-12",
        "optimizer.weight_decay=0",
        f"schedule.iterations={MAX_STUCK_STEPS}",
    )
    case = Case("daal", built, tmp_path / "run", *still)

    def flatten() -> None:
        attention = case.method.embedder().attention
        assert attention is not None
        torch.nn.init.zeros_(attention.channel[4].weight)

    case.plan.spoil = flatten
    case.fails(AttentionError, r"attention stuck at mean .* std 0\.0000")


def test_a_flat_map_is_no_failure(built: tuple[ReIDNet, ...], tmp_path: Path) -> None:
    """Crops so small that the map has one cell: HLI erases at random places and says so."""
    for size, share in (((16, 16), 1.0), ((32, 16), 0.0)):
        run = Case("hli", built, tmp_path / f"{size}", "options.erase=1", size=size).run()
        assert run.info.state == "finished"
        for row in run.metrics():
            assert row["flat_share"] == share
            assert row["erased_share"] > 0
            assert np.isfinite(row["loss"])


def reasons(error: type[AdaptError] = AdaptError) -> list[str]:
    return [error.reason, *(r for sub in error.__subclasses__() for r in reasons(sub))]


def test_every_reason_is_documented() -> None:
    """Of those that can stop a run: no export is part of one, and no error is of the base."""
    text = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
    never = {AdaptError.reason, ExportError.reason}
    assert not [r for r in {*reasons(), "INTERRUPTED"} - never if f"`{r}`" not in text]

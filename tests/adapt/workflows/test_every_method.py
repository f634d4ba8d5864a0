"""What every method of METHODS has to do: be blind to the site's identities, repeat, export."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.clustering.clusterer import Clusterer  # noqa: E402
from adapt.config import BatchShape, Clustering, Recipe, Schedule  # noqa: E402
from adapt.methods import DAAL, METHODS, students_of  # noqa: E402
from adapt.methods.daal import DAALOptions  # noqa: E402
from adapt.methods.source import SourceOptions  # noqa: E402
from adapt.recipes import load_recipe  # noqa: E402
from adapt.runs.folder import Run  # noqa: E402
from adapt.runs.listing import NOT_LEARNED  # noqa: E402
from adapt.training.extraction import MIN_CAMERA_CROPS  # noqa: E402
from adapt.types import FeatureTable, RoundOf  # noqa: E402
from adapt.workflows.adapt import adapt  # noqa: E402
from adapt.workflows.pretrain import pretrain  # noqa: E402
from models.backbones.net import IMAGENET_MEAN, IMAGENET_STD, ReIDNet  # noqa: E402
from models.manifest import ModelCard  # noqa: E402
from tests.support.graph_kinds import kinds  # noqa: E402
from tests.support.specs import SIZE, adapt_spec, on_cpu, pretrain_spec  # noqa: E402
from tests.support.tiny_sets import write_market  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

BACKBONE = "resnet18_ibn_a"
"""Its last stage is without IBN, so its blocks are of both kinds."""

OSNET = "osnet_x1_0"

PEOPLE, CAMERAS, EACH = 8, 2, 4
TINY = (
    *("schedule.rounds=2", "schedule.iterations=1", "schedule.passes=0", "augment.pad=1"),
    *("batch.identities=4", "batch.instances=2", "batch.ghost=0"),
    *("clustering.k1=6", "clustering.k2=2", "clustering.min_samples=3"),
    "clustering.min_cluster_size=3",
)
OWN = {"aml": ("options.merge_nearest=1", "options.merge_cross_camera=2")}
"""Lists that fit few crops of each person."""


def scramble(site: Path, out: Path) -> Path:
    """The same crops of the same cameras under other identities, and so in another order."""
    files = sorted((site / "bounding_box_train").iterdir())
    folder = out / "bounding_box_train"
    folder.mkdir(parents=True)
    for number, drawn in enumerate(np.random.default_rng(0).permutation(len(files))):
        camera = files[number].name.split("_")[1]
        name = f"{drawn // (CAMERAS * EACH) + 1:04d}_{camera}_{drawn:06d}_00.png"
        (folder / name).write_bytes(files[number].read_bytes())
    return out


class RunsOnDisk:
    """A source and a site on disk, and runs on them, each made once."""

    def __init__(self, root: Path) -> None:
        assert PEOPLE * EACH >= MIN_CAMERA_CROPS, "each camera has statistics of its own"
        self.root = root
        self.source = write_market(root / "source", persons=6, seed=1)
        self.site = write_market(root / "site", persons=PEOPLE, cameras=CAMERAS, each=EACH, seed=2)
        self.scrambled = scramble(self.site, root / "scrambled")

    def init(self, seed: int, backbone: str = BACKBONE) -> Path:
        """A network pre-trained on the source."""
        out = self.root / f"init-{backbone}-{seed}"
        if out.exists():
            return out
        recipe = Recipe(
            method="source",
            options=SourceOptions(),
            schedule=Schedule(rounds=1, iterations=1),
            batch=BatchShape(identities=3, instances=2),
        )
        pretrain(pretrain_spec(self.source, seed, backbone=backbone, recipe=recipe), on_cpu(), out)
        return out

    def adapted(
        self, name: str, site: Path, backbone: str = BACKBONE, more: tuple[str, ...] = ()
    ) -> Run:
        """A run of a method. more: overrides of its recipe."""
        out = self.root / f"{name}-{site.name}-{backbone}"
        if out.exists():
            return Run.open(out)
        given = (*TINY, *OWN.get(name, ()), *more)
        recipe = load_recipe(f"{name}_small", method=name, overrides=given)
        wanted = students_of(recipe)
        inits = [self.init(n, backbone) for n in range(1, wanted + 1)]
        sources = (self.source,) if recipe.options.source_wanted() else ()
        adapt(adapt_spec(site, inits, recipe, sources=sources), on_cpu(), out)
        return Run.open(out)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> RunsOnDisk:
    return RunsOnDisk(tmp_path_factory.mktemp("runs"))


def kept(run: Run) -> bytes:
    return (run.path / "model.safetensors").read_bytes()


def figures(run: Run) -> list[dict[str, Any]]:
    """The metrics of each round, without times."""
    return [
        {name: value for name, value in row.items() if not name.startswith(NOT_LEARNED)}
        for row in run.metrics()
    ]


def test_a_scrambled_site_is_the_same_crops_in_another_order(runs: RunsOnDisk) -> None:
    def contents(site: Path) -> list[bytes]:
        return [path.read_bytes() for path in sorted((site / "bounding_box_train").iterdir())]

    true, scrambled = contents(runs.site), contents(runs.scrambled)
    assert sorted(true) == sorted(scrambled)
    assert sum(a == b for a, b in zip(true, scrambled, strict=True)) < len(true) / 4


@pytest.mark.parametrize("name", METHODS)
def test_identities_of_the_site_are_never_read(name: str, runs: RunsOnDisk) -> None:
    """The same seed on the same crops gives the same bits, under whatever identities."""
    true, scrambled = (runs.adapted(name, site) for site in (runs.site, runs.scrambled))
    assert figures(true) == figures(scrambled)
    assert kept(true) == kept(scrambled)
    assert len(figures(true)) == 2
    start = Run.open(runs.init(1)).network().state_dict()
    now = true.network().state_dict()
    assert not torch.equal(start["backbone.conv1.weight"], now["backbone.conv1.weight"])


@pytest.mark.parametrize(
    ("name", "backbone"), [*((name, OSNET) for name in METHODS), ("mmt", "osnet_ain_x1_0")]
)
def test_every_method_trains_osnets(name: str, backbone: str, runs: RunsOnDisk) -> None:
    """Batch norm in groups; the maps, parts and attention of the methods are of any trunk."""
    run = runs.adapted(name, runs.site, backbone, ("batch.ghost=4",))
    assert [row["round"] for row in figures(run)] == [1, 2]
    start = Run.open(runs.init(1, backbone)).network().state_dict()
    net = run.network()
    now = net.state_dict()
    moved = {key for key in start if not torch.equal(start[key], now[key])}
    learned = {key for key, tensor in start.items() if tensor.ndim == 4 or "running" in key}
    assert learned <= moved, "convolutions and statistics"
    with torch.no_grad():
        vectors = net.embed(network_input(pixels())).numpy()
    apart = np.linalg.norm(vectors[:, None] - vectors, axis=2)[np.triu_indices(5, 1)]
    assert apart.min() > 1e-2, "it tells pictures apart"


def pixels() -> NDArray[np.uint8]:
    """Five pictures that differ: noise of different strength on different grounds."""
    rng = np.random.default_rng(5)
    ground = rng.integers(0, 256, (5, 4, 2, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return (ground * 0.7 + rng.integers(0, 70, (5, 32, 16, 3))).astype(np.uint8)


def network_input(images: NDArray[np.uint8]) -> torch.Tensor:
    """The pre-processing of the training pipeline, written once more."""
    x = (images.astype(np.float64) / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    return torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))


def embedder(model: Path) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(["embeddings"], {"images": images})[0])


EXPORTED = {False: "mmt", True: "daal"}
"""By whether there is attention: a method whose network is exported."""


@pytest.mark.parametrize("name", EXPORTED.values())
def test_the_exported_network_equals_torchs(name: str, runs: RunsOnDisk, tmp_path: Path) -> None:
    """With the shared branch of DAAL; of heads and classifiers nothing is left."""
    onnx = pytest.importorskip("onnx", reason="export needs onnx")
    from adapt.workflows.export import export_run

    run = runs.adapted(name, runs.site)
    bundle = export_run(run, tmp_path / "bundle", name=name, version="1")
    embed, images, net = embedder(bundle.model_path), pixels(), run.network()
    with torch.no_grad():
        expected = net.embed(network_input(images)).numpy()
        net.attention = None
        without = net.embed(network_input(images)).numpy()
    apart = np.linalg.norm(expected[:, None] - expected, axis=2)[np.triu_indices(5, 1)]
    assert apart.min() > 1e-2, "vectors all alike would prove nothing"
    for batch in (1, 5):
        np.testing.assert_allclose(embed(images[:batch]), expected[:batch], atol=1e-4)
    assert (np.abs(without - expected).max() > 0.01) == (name == "daal")
    weights = onnx.load(bundle.model_path, load_external_data=False).graph.initializer
    assert not [w.name for w in weights if "classifier" in w.name or "heads" in w.name]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_a_network_of_a_kind_that_is_exported(
    name: str, runs: RunsOnDisk
) -> None:
    """An export reads a run's network and nothing else of its method."""
    found = runs.adapted(name, runs.site).network()
    assert (found.attention is not None) == (name == "daal")
    exported = runs.adapted(EXPORTED[found.attention is not None], runs.site).network()
    assert kinds(found) == kinds(exported)
    with torch.no_grad():
        vectors = found.embed(network_input(pixels())).numpy()
    apart = np.linalg.norm(vectors[:, None] - vectors, axis=2)[np.triu_indices(5, 1)]
    assert apart.min() > 1e-2, "it tells pictures apart"


def test_of_daals_domain_branch_and_classifiers_nothing_is_exported(tmp_path: Path) -> None:
    """The branch at its largest, with an attention of its own."""
    onnx = pytest.importorskip("onnx", reason="export needs onnx")
    from adapt.workflows.export import export_bundle

    torch.manual_seed(0)
    clusterer = Clusterer(Clustering(clusters=4), identities_per_batch=2, seed=0)
    method = DAAL([ReIDNet("resnet18")], DAALOptions(attention="independent"), clusterer)
    rows = np.random.default_rng(0).normal(size=(24, method.embedder().dimension))
    features = rows.astype(np.float32)
    method.start_source(features[:5])
    method.relabel(FeatureTable((features,), np.zeros(24, np.int64)), RoundOf(0, 1))
    assert set(method.heads) == {"domain", "source", "target"}
    card = ModelCard(
        name="daal",
        version="1",
        backbone="resnet18",
        preprocessing=SIZE,
        method="daal",
        created=datetime(2026, 1, 2, tzinfo=UTC),
    )
    bundle = export_bundle(method.embedder(), tmp_path / "bundle", card=card)
    graph = onnx.load(bundle.model_path, load_external_data=False).graph
    stored = [onnx.numpy_helper.to_array(tensor).ravel() for tensor in graph.initializer]

    def is_stored(weight: torch.Tensor) -> bool:
        """In any shape, in any order of its numbers."""
        ours = np.sort(weight.detach().numpy().ravel())
        return any(len(v) == len(ours) and np.allclose(np.sort(v), ours) for v in stored)

    shared = method.embedder().attention
    assert shared is not None
    assert is_stored(shared.spatial[0].weight)
    ours = {name: p for name, p in method.heads.named_parameters() if p.unique().numel() > 2}
    assert {"source.weight", "target.weight", "domain.classifier.weight"} <= set(ours)
    assert "domain.attention.spatial.0.weight" in ours
    assert not [name for name, weight in ours.items() if is_stored(weight)]

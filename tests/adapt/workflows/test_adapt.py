"""Adaptations of tiny sites: what lies in the run folder, and what a site's labels may not do."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.clustering.labels.kmeans import cluster_kmeans  # noqa: E402
from adapt.config import (  # noqa: E402
    Augmentation,
    BatchShape,
    Clustering,
    OptimizerSettings,
    Recipe,
    Schedule,
)
from adapt.errors import ClusteringError, ConfigError, DataError, RunError  # noqa: E402
from adapt.evaluation.scoring import open_model  # noqa: E402
from adapt.methods.daal import DAALOptions  # noqa: E402
from adapt.methods.mmt import MMTOptions  # noqa: E402
from adapt.methods.nrmt import NRMTOptions  # noqa: E402
from adapt.methods.source import SourceOptions  # noqa: E402
from adapt.runs.folder import Run  # noqa: E402
from adapt.training.extraction import MIN_CAMERA_CROPS, extract  # noqa: E402
from adapt.types import FloatAllocator, PseudoLabels  # noqa: E402
from adapt.workflows.adapt import adapt  # noqa: E402
from adapt.workflows.pretrain import pretrain  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402
from models.image import Preprocessing  # noqa: E402
from tests.support.specs import adapt_spec, on_cpu, pretrain_spec  # noqa: E402
from tests.support.tiny_runs import row  # noqa: E402
from tests.support.tiny_sets import write_market  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

SHORT = {
    "schedule": Schedule(rounds=2, iterations=2),
    "batch": BatchShape(identities=3, instances=2),
    "augment": Augmentation(pad=2),
}
SOURCE = Recipe(method="source", options=SourceOptions(), **SHORT)
MMT = Recipe(
    method="mmt",
    options=MMTOptions(),
    clustering=Clustering(clusters=6, camera_centering=True),
    **SHORT,
)
DAAL = Recipe(
    method="daal",
    options=DAALOptions(),
    clustering=Clustering(clusters=4),
    **SHORT,
)


def source_run(root: Path, out: Path, **changes: object) -> Run:
    settings: dict[str, Any] = {"backbone": "resnet18", "recipe": SOURCE, **changes}
    return pretrain(pretrain_spec(root, **settings), on_cpu(), out)


def site_run(root: Path, init: Path, out: Path, **changes: object) -> Run:
    settings: dict[str, Any] = {"inits": [init], "recipe": MMT, **changes}
    return adapt(adapt_spec(root, **settings), on_cpu(), out)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market(tmp_path_factory.mktemp("start") / "source")


@pytest.fixture(scope="module")
def start(source: Path) -> Path:
    """A source network; nobody may write there."""
    return source_run(source, source.parent / "init").path


@pytest.fixture
def init(start: Path, tmp_path: Path) -> Path:
    """A copy of the source network, which a test may damage."""
    return Path(shutil.copytree(start, tmp_path / "init"))


def weights(path: Path) -> bytes:
    return (path / "model.safetensors").read_bytes()


STILL = OptimizerSettings(lr=1e-12)
"""Weights stay where they start, so that the start can be seen in what is kept."""


def first_layer(net: ReIDNet) -> np.ndarray:
    return net.backbone.conv1.weight.detach().numpy()


def test_adaptation_never_sees_identities(
    market: Callable[..., Path], tmp_path: Path, init: Path
) -> None:
    """The same crops under true and under random identities give the same network."""
    site = market("site", seed=5)
    truth = sorted((site / "bounding_box_train").iterdir())
    scrambled = tmp_path / "scrambled" / "bounding_box_train"
    scrambled.mkdir(parents=True)
    for number, person in enumerate(np.random.default_rng(0).permutation(len(truth))):
        camera = truth[number].name.split("_")[1]
        name = f"{person:04d}_{camera}_{number:06d}_00.png"
        (scrambled / name).write_bytes(truth[number].read_bytes())
    one = site_run(site, init, tmp_path / "one")
    two = site_run(scrambled.parent, init, tmp_path / "two")
    assert weights(one.path) == weights(two.path)


def test_adapt_takes_over_architecture_and_names_its_origin(
    market: Callable[..., Path], tmp_path: Path, init: Path
) -> None:
    run = site_run(market("site", seed=5), init, tmp_path / "adapted")
    start = Run.open(init)
    assert run.info.backbone == "resnet18"
    assert run.info.preprocessing == start.info.preprocessing
    assert run.info.origin.inits == (start.network_hash(),)
    assert [d.role for d in run.info.data] == ["target", "source"]
    assert run.info.data[1] == start.info.data[0]
    assert all("kmeans" in row["labels"] for row in run.metrics())
    assert weights(run.path) != weights(init)


def test_a_new_run_has_the_decoder_of_today_whatever_its_inits_had(
    market: Callable[..., Path], tmp_path: Path, init: Path
) -> None:
    """Its weights are as before where no crop stores an orientation."""
    site = market("site", seed=5)
    info = json.loads((init / "run.json").read_text())
    info["spec"]["preprocessing"]["decoder"] = "exact-1"
    old = Path(shutil.copytree(init, tmp_path / "old"))
    (old / "run.json").write_text(json.dumps(info))
    assert Run.open(old).info.preprocessing.decoder == "exact-1"
    runs = [
        site_run(site, init, tmp_path / f"run-{number}", inits=inits)
        for number, inits in enumerate(([init, init], [old, init]))
    ]
    assert [run.info.preprocessing.decoder for run in runs] == ["exact-2", "exact-2"]
    assert weights(runs[0].path) == weights(runs[1].path)


def test_every_round_is_kept_where_that_is_asked_for(
    market: Callable[..., Path], tmp_path: Path, init: Path
) -> None:
    run = site_run(market("site", seed=5), init, tmp_path / "kept", keep_rounds=True)
    assert run.kept_rounds() == list(range(1, run.info.rounds + 1)) != []
    last = (run.path / f"rounds/{run.info.rounds:04d}.safetensors").read_bytes()
    assert last == weights(run.path)
    first, *_ = run.kept_rounds()
    assert (run.path / f"rounds/{first:04d}.safetensors").read_bytes() != last
    plain = site_run(market("site", seed=5), init, tmp_path / "plain")
    assert plain.kept_rounds() == []
    assert weights(plain.path) == last


def test_options_may_want_fewer_networks(
    market: Callable[..., Path], tmp_path: Path, init: Path, caplog: pytest.LogCaptureFixture
) -> None:
    once = MMT.model_copy(update={"schedule": Schedule(rounds=1, iterations=1)})
    alone = once.model_copy(update={"options": MMTOptions(networks=1)})
    site = market("site", seed=5)
    run = site_run(site, init, tmp_path / "alone", recipe=alone)
    assert "pre-train a second seed" not in caplog.text
    assert "loss_id_1" in run.metrics()[0]
    assert "loss_id_2" not in run.metrics()[0]
    with pytest.raises(RunError, match="--init gave 2"):
        site_run(site, init, tmp_path / "two", recipe=alone, inits=[init, init])
    site_run(site, init, tmp_path / "both", recipe=once)
    assert "pre-train a second seed" in caplog.text


def test_nrmt_refuses_one_network_without_a_word_of_going_on(
    market: Callable[..., Path], tmp_path: Path, init: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = MMT.model_copy(update={"method": "nrmt", "options": NRMTOptions()})
    with pytest.raises(ConfigError, match="pre-train a second one with another seed"):
        site_run(market("site", seed=5), init, tmp_path / "out", recipe=recipe)
    assert "start equal" not in caplog.text
    assert not (tmp_path / "out").exists()


def test_collapse_is_reported_and_keeps_the_last_round(
    market: Callable[..., Path], tmp_path: Path, init: Path
) -> None:
    strict = Clustering(algorithm="dbscan", radius=1e-6, k1=3, k2=1, min_samples=8)
    recipe = MMT.model_copy(update={"clustering": strict})
    with pytest.raises(ClusteringError):
        site_run(market("site", seed=5), init, tmp_path / "out", recipe=recipe)
    run = Run.open(tmp_path / "out")
    assert (run.info.state, run.info.reason) == ("failed", "CLUSTERS_COLLAPSED")
    assert run.info.error
    again = site_run(market("site2", seed=5), init, tmp_path / "out")
    assert (again.info.state, again.info.reason) == ("finished", "")
    assert Run.open(again.path).info == again.info, (
        "a run without a round does not stand in the way"
    )


def test_a_folder_in_use_is_noticed_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    for start in (
        lambda: source_run(tmp_path / "absent", tmp_path / "full"),
        lambda: site_run(tmp_path / "absent", tmp_path / "absent", tmp_path / "full"),
    ):
        with pytest.raises(RunError, match="not empty"):
            start()


def test_copies_that_are_clustered_lie_on_the_disk_of_the_run(
    market: Callable[..., Path], init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = []

    def cluster(
        features: Any, clusters: int, *, seed: int, allocate: FloatAllocator
    ) -> PseudoLabels:
        tables.append((features, allocate((1, 2))))
        return cluster_kmeans(features, clusters, seed=seed, allocate=allocate)

    monkeypatch.setattr("adapt.clustering.clusterer.cluster_kmeans", cluster)
    site_run(market("site"), init, tmp_path / "run")
    assert len(tables) == 2
    assert all(isinstance(each.base, np.memmap) for pair in tables for each in pair)


def test_init_must_be_runs_of_one_kind(
    market: Callable[..., Path], tmp_path: Path, init: Path
) -> None:
    site = market("site")
    with pytest.raises(RunError, match="is not a run folder"):
        site_run(site, tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(RunError, match="1 to 2 networks"):
        site_run(site, init, tmp_path / "out", inits=[init] * 3)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    with pytest.raises(RunError, match="it is a bundle, which is served and cannot be trained"):
        site_run(site, tmp_path / "bundle", tmp_path / "out")
    with pytest.raises(
        RunError, match=r"is a file; give a run folder or a bundle: .*resight import"
    ):
        open_model(init / "model.safetensors", "cpu")
    with pytest.raises(RunError, match=r"is a file, not a run folder; .*import --weights"):
        site_run(site, init / "model.safetensors", tmp_path / "out")
    other = source_run(
        market("other"), tmp_path / "big", preprocessing=Preprocessing(height=64, width=32)
    )
    with pytest.raises(RunError, match="differ in backbone, attention or input size"):
        site_run(site, init, tmp_path / "out", inits=[init, other.path])


def test_a_damaged_network_is_refused(
    market: Callable[..., Path], tmp_path: Path, init: Path
) -> None:
    file = init / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RunError, match="damaged"):
        site_run(market("site"), init, tmp_path / "out")


def test_unfinished_runs_say_so(tmp_path: Path, init: Path) -> None:
    (init / "model.safetensors").unlink()
    with pytest.raises(RunError, match="has not finished its first round"):
        Run.open(init).network()
    (init / "run.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(RunError, match="has format 99, this version reads"):
        Run.open(init)


def test_each_init_is_where_its_own_network_starts(
    market: Callable[..., Path], tmp_path: Path, init: Path
) -> None:
    second = source_run(market("more", seed=3), tmp_path / "second", seed=2)
    inits = [init, second.path]
    for keep, path in enumerate(inits, 1):
        once = Schedule(rounds=1, iterations=2)
        changes = {"options": MMTOptions(keep=keep), "optimizer": STILL, "schedule": once}
        recipe = MMT.model_copy(update=changes)
        run = site_run(
            market(f"site{keep}", seed=5), init, tmp_path / f"{keep}", inits=inits, recipe=recipe
        )
        kept, start = (first_layer(r.network()) for r in (run, Run.open(path)))
        np.testing.assert_allclose(kept, start, atol=1e-7)
        assert run.info.origin.inits == tuple(Run.open(p).network_hash() for p in inits)


def test_the_camera_pattern_names_the_cameras(
    market: Callable[..., Path], tmp_path: Path, init: Path
) -> None:
    run = site_run(market("site"), init, tmp_path / "out", camera_pattern=r"_c(?P<camera>\d)s")
    assert run.info.data[0].cameras == ("1", "2")
    assert Run.open(run.path).info.spec.camera_pattern == r"_c(?P<camera>\d)s"


MANY = MMT.model_copy(update={"clustering": MMT.clustering.model_copy(update={"clusters": 12})})
"""So many clusters that they hang on each detail of the features."""


def recipe_changes() -> dict[str, dict[str, object]]:
    clusters = MANY.clustering
    return {
        "cameras' statistics": {
            "clustering": clusters.model_copy(update={"camera_statistics": False})
        },
        "centering": {"clustering": clusters.model_copy(update={"camera_centering": False})},
        "augmentation": {"augment": Augmentation(pad=0, flip=0, erase=0)},
        "batch-norm groups": {"batch": BatchShape(identities=3, instances=2, ghost=2)},
    }


@pytest.mark.parametrize("change", recipe_changes())
def test_a_change_of_the_recipe_changes_the_network(
    market: Callable[..., Path], tmp_path: Path, init: Path, change: str
) -> None:
    site = market("site", persons=4, each=MIN_CAMERA_CROPS // 4)
    recipes = (MANY, MANY.model_copy(update=recipe_changes()[change]))
    runs = [site_run(site, init, tmp_path / f"{n}", recipe=r) for n, r in enumerate(recipes)]
    assert weights(runs[0].path) != weights(runs[1].path)


def noise(root: Path, names: Sequence[str], seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (40, 20, 3)).astype(np.uint8)
        assert cv2.imwrite(str(root / name), image)
    return root


def test_clusters_are_drawn_with_the_runs_seed(tmp_path: Path, init: Path) -> None:
    """On noise k-means ends where its start leads; the first round's features are the same."""
    site = noise(tmp_path / "site", [f"{c}/{n}.png" for c in "ab" for n in range(16)])
    many = MMT.clustering.model_copy(update={"clusters": 12})  # no cluster holds half of them
    once = MMT.model_copy(update={"schedule": Schedule(rounds=1, iterations=1), "clustering": many})
    found = set()
    for seed in range(1, 5):
        run = site_run(site, init, tmp_path / f"{seed}", recipe=once, seed=seed)
        (row,) = run.metrics()
        found.add(tuple(row[f"cluster_size_{size}"] for size in ("min", "median", "max")))
    assert len(found) > 1


def test_what_is_odd_about_labels_is_logged(
    tmp_path: Path, init: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three crops in four times each are clusters, all others outliers: two thirds of the site."""
    site = noise(tmp_path / "site", [f"{n:02}.png" for n in range(24)])
    for n in range(3):
        for copy in range(4):
            noise(site, [f"same-{n}-{copy}.png"], seed=100 + n)
    caplog.set_level("INFO")
    radius = Clustering(algorithm="dbscan", radius=1e-3, k1=3, k2=1, min_samples=4)
    site_run(site, init, tmp_path / "out", recipe=MMT.model_copy(update={"clustering": radius}))
    assert "round 1: 67% of the images are outliers" in caplog.text
    assert re.search(r"round 1/2: dbscan eps=.*, 3 clusters, 67% outliers, loss", caplog.text)


def daal_run(root: Path, init: Path, out: Path, sources: Sequence[Path], **changes: object) -> Run:
    return site_run(root, init, out, **{"recipe": DAAL, "sources": sources, **changes})


def test_daal_learns_from_source_crops_and_its_run_is_read_by_all_that_reads_runs(
    market: Callable[..., Path], tmp_path: Path, init: Path, source: Path
) -> None:
    """`init` has learned from the folder `source`; `more` is new."""
    site = market("site", seed=5)
    sources = [source, market("more", seed=9)]
    run = Run.open(daal_run(site, init, tmp_path / "run", sources, validation=site).path)
    assert run.info.attention
    assert [d.role for d in run.info.data] == [
        *("target", "source", "source", "validation", "validation")
    ]
    assert run.info.data[1] == Run.open(init).info.data[0]
    assert run.info.data[2].crops == 48
    assert all(0 <= row["accuracy_source"] <= 1 for row in run.metrics())
    net = run.network()
    assert net.attention is not None
    keys = {key.split(".")[0] for key in net.state_dict()}
    assert keys == {"backbone", "neck", "attention"}, "no head and no specific branch is kept"
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 16, 3)).astype(np.uint8)
    (expected,) = extract([net], images, device=torch.device("cpu"))
    embed, _ = open_model(run.path, "cpu")
    np.testing.assert_allclose(embed(images), expected, atol=1e-5)


def test_other_methods_go_on_from_a_network_with_attention(
    market: Callable[..., Path], tmp_path: Path, init: Path
) -> None:
    plain = Run.open(init)
    net = plain.network()
    net.add_attention()
    started = {"attention": True, "state": "running", "rounds": 0}
    start = Run.create(tmp_path / "start", plain.info.model_copy(update=started))
    start.record(row(1), net)
    start.finish(1.0)
    run = Run.open(site_run(market("site", seed=5), start.path, tmp_path / "run").path)
    assert run.info.attention
    assert run.network().attention is not None
    with pytest.raises(RunError, match="differ in backbone, attention or input size"):
        site_run(market("site2"), init, tmp_path / "out", inits=[init, start.path])


def test_the_source_of_the_init_is_recorded_once(
    market: Callable[..., Path], tmp_path: Path, init: Path, source: Path
) -> None:
    run = daal_run(market("site", seed=5), init, tmp_path / "run", [source])
    assert [d.role for d in run.info.data] == ["target", "source"]
    everything = daal_run(
        market("site2", seed=5),
        init,
        tmp_path / "all",
        [source],
        splits=("train", "query", "gallery"),
    )
    assert [d.crops for d in everything.info.data[1:]] == [24, 48]


def test_daal_without_source_crops(
    market: Callable[..., Path],
    tmp_path: Path,
    init: Path,
    source: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = market("site", seed=5)
    with pytest.raises(ConfigError, match=r"daal .*give --source.*options\.source=none"):
        daal_run(site, init, tmp_path / "run", [])
    assert not (tmp_path / "run").exists()
    alone = DAAL.model_copy(update={"options": DAALOptions(source="none")})
    with pytest.raises(ConfigError, match=r"options\.source is none"):
        daal_run(site, init, tmp_path / "run", [source], recipe=alone)
    run = daal_run(site, init, tmp_path / "run", [], recipe=alone)
    assert "daal without source crops is a degraded mode" in caplog.text
    assert all("loss_domain" not in row for row in run.metrics())
    assert run.info.state == "finished"


def test_source_crops_for_a_method_that_uses_none(
    market: Callable[..., Path], tmp_path: Path, init: Path, source: Path
) -> None:
    with pytest.raises(ConfigError, match="mmt learns from no source crops: it uses none"):
        site_run(market("site"), init, tmp_path / "out", sources=[source])


def test_source_crops_have_to_be_of_two_people_and_each_folder_given_once(
    market: Callable[..., Path], tmp_path: Path, init: Path, source: Path
) -> None:
    site, one = market("site"), market("one", persons=1)
    with pytest.raises(DataError, match="at least two identities"):
        daal_run(site, init, tmp_path / "out", [one])
    with pytest.raises(DataError, match="give every folder once"):
        daal_run(site, init, tmp_path / "out", [source, source])
    with pytest.raises(RunError, match="from 1 network, --init gave 2"):
        daal_run(site, init, tmp_path / "out", [one], inits=[init, init])

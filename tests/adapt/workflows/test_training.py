"""Whole runs on tiny sets: what lies in the run folder, and what a site's labels may not do."""

from __future__ import annotations

import hashlib
import json
import re
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from safetensors.torch import save_file  # noqa: E402

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
from adapt.runs.info import RunInfo  # noqa: E402
from adapt.training.extraction import MIN_CAMERA_CROPS, extract  # noqa: E402
from adapt.types import FloatAllocator, PseudoLabels  # noqa: E402
from adapt.workflows.fit import Machine  # noqa: E402
from adapt.workflows.training import adapt, pretrain  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402
from models.image import Preprocessing  # noqa: E402

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
MACHINE = Machine(torch.device("cpu"), seed=1)


def source_run(root: Path, out: Path, **changes: object) -> Run:
    settings = {
        "splits": ("train",),
        "backbone": "mobilenet_v2",
        "weights": None,
        "preprocessing": Preprocessing(height=32, width=16),
        "recipe": SOURCE,
        "recipe_name": "test",
        "out": out,
        "machine": MACHINE,
        **changes,
    }
    return pretrain([root], **settings)  # type: ignore[arg-type]


def site_run(root: Path, init: Path, out: Path, **changes: object) -> Run:
    settings = {
        "camera_pattern": None,
        "inits": [init],
        "recipe": MMT,
        "recipe_name": "test",
        "out": out,
        "machine": MACHINE,
        **changes,
    }
    return adapt(root, **settings)  # type: ignore[arg-type]


@pytest.fixture
def init(market: Callable[..., Path], tmp_path: Path) -> Path:
    return source_run(market("source"), tmp_path / "init").path


def weights(path: Path) -> bytes:
    return (path / "model.safetensors").read_bytes()


def test_pretrain_leaves_a_complete_run_folder(
    market: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    root = market("source")
    (root / "bounding_box_train" / "Thumbs.db").write_text("the explorer was here")
    (root / "bounding_box_train" / "0001_c1s1_000009_00.png").write_text("not an image")
    run = Run.open(source_run(root, tmp_path / "run", validation=root).path)
    assert run.info.state == "finished"
    assert run.info.rounds == 2
    data, query, gallery = run.info.data
    assert (data.role, query.role, gallery.role) == ("source", "validation", "validation")
    assert (data.crops, query.crops, gallery.crops) == (24, 12, 12)
    assert query.fingerprint != gallery.fingerprint
    assert set(data.dropped) == {
        "bounding_box_train/0001_c1s1_000009_00.png",
        "bounding_box_train/Thumbs.db",
    }
    assert (data.unreadable, data.not_images) == (1, 1)
    assert "1 of 25 crops cannot be read" in caplog.text
    assert "1 other files" in caplog.text
    assert run.info.weights is None
    assert run.info.recipe["schedule"]["rounds"] == 2
    assert {"python", "torch", "numpy"} <= set(run.info.versions)
    rows = run.metrics()
    assert [row["round"] for row in rows] == [1, 2]
    assert 0 <= rows[-1]["val_mAP"] <= 1
    assert not run.network().training


def test_body_parts_are_found_once_and_leave_no_trace_in_the_network(
    market: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("onnx", reason="the parsing model is made by onnx")
    from tests.support.parsing_models import parsing_model

    path = parsing_model(tmp_path / "parser.onnx", takes="float", size=(24, 12))
    options = SourceOptions(
        parts="masks", parts_model=str(path), upper_classes=(0, 1), lower_classes=(2,)
    )
    root = market("source")
    recipe = SOURCE.model_copy(update={"options": options})
    run = Run.open(source_run(root, tmp_path / "run", recipe=recipe).path)
    assert run.info.parsing is not None
    assert run.info.parsing.source == str(path)
    assert run.info.parsing.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert all(row["loss_id_upper"] > 0 for row in run.metrics())
    plain = Run.open(source_run(root, tmp_path / "plain").path)
    assert plain.info.parsing is None
    assert set(run.network().state_dict()) == set(plain.network().state_dict())
    assert weights(run.path) != weights(plain.path)


def test_a_parsing_model_that_is_not_there_is_noticed_before_crops_are_read(tmp_path: Path) -> None:
    options = SourceOptions(parts="masks", parts_model=str(tmp_path / "absent.onnx"))
    recipe = SOURCE.model_copy(update={"options": options})
    with pytest.raises(ConfigError, match=r"no file .*absent\.onnx"):
        source_run(tmp_path / "no crops either", tmp_path / "run", recipe=recipe)
    assert not (tmp_path / "run").exists()


def test_same_seed_same_weights(market: Callable[..., Path], tmp_path: Path) -> None:
    root = market("source")
    one, two = (source_run(root, tmp_path / name).path for name in ("a", "b"))
    other = source_run(root, tmp_path / "c", machine=Machine(torch.device("cpu"), seed=2)).path
    assert weights(one) == weights(two)
    assert weights(one) != weights(other)


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
    assert run.info.backbone == "mobilenet_v2"
    assert run.info.preprocessing == start.info.preprocessing
    assert run.info.init == (start.network_hash(),)
    assert [d.role for d in run.info.data] == ["target", "source"]
    assert run.info.data[1] == start.info.data[0]
    assert all("kmeans" in row["labels"] for row in run.metrics())
    assert weights(run.path) != weights(init)


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
    recipe = MMT.model_copy(
        update={"clustering": Clustering(algorithm="dbscan", radius=1e-6, min_samples=4)}
    )
    with pytest.raises(ClusteringError):
        site_run(market("site", seed=5), init, tmp_path / "out", recipe=recipe)
    run = Run.open(tmp_path / "out")
    assert (run.info.state, run.info.reason) == ("failed", "CLUSTERS_COLLAPSED")
    assert run.info.error
    again = site_run(market("site2", seed=5), init, tmp_path / "out")
    assert (again.info.state, again.info.reason) == ("finished", "")
    assert Run.open(again.path).info == again.info, "a run without a round is no obstacle"


def test_out_folder_in_use(market: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="not empty"):
        source_run(market("source"), tmp_path / "full")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "precious"


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


def test_a_full_disk_is_an_error_of_ours(market: Callable[..., Path], tmp_path: Path) -> None:
    """No file may grow beyond 1 MB: run.json fits, a network does not."""
    root = market("source")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, unlimited[1]))
    try:
        with pytest.raises(RunError, match=r"cannot write to .*run: File too large; make room"):
            source_run(root, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    info = Run.open(tmp_path / "run").info
    assert (info.state, info.rounds) == ("failed", 0)
    assert "make room" in info.error
    assert {e.name for e in (tmp_path / "run").iterdir()} == {"run.json"}
    assert source_run(root, tmp_path / "run").info.state == "finished", "there was no network yet"
    assert len(Run.open(tmp_path / "run").metrics()) == 2


def test_one_source_twice(market: Callable[..., Path], tmp_path: Path) -> None:
    root = market("source")
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(DataError, match=r"--source .*link is the folder of --source .*source:"):
        pretrain(
            [root, tmp_path / "link"],
            splits=("train",),
            backbone="mobilenet_v2",
            weights=None,
            preprocessing=Preprocessing(height=32, width=16),
            recipe=SOURCE,
            recipe_name="test",
            out=tmp_path / "run",
            machine=MACHINE,
        )


def test_init_must_be_runs_of_one_kind(
    market: Callable[..., Path], tmp_path: Path, init: Path
) -> None:
    site = market("site")
    with pytest.raises(RunError, match="no run folder"):
        site_run(site, tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(RunError, match="1 to 2 networks"):
        site_run(site, init, tmp_path / "out", inits=[init] * 3)
    other = source_run(
        market("other"), tmp_path / "big", preprocessing=Preprocessing(height=64, width=32)
    )
    with pytest.raises(RunError, match="differ in backbone, attention or input size"):
        site_run(site, init, tmp_path / "out", inits=[init, other.path])


def test_a_bad_validation_set_leaves_no_run_behind(
    market: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError):
        source_run(market("source"), tmp_path / "run", validation=tmp_path)
    assert not (tmp_path / "run").exists()


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
    with pytest.raises(RunError, match="cannot be read by this version"):
        Run.open(init)


STILL = OptimizerSettings(lr=1e-12)
"""Weights stay where they start, so that the start can be seen in what is kept."""


def first_layer(net: ReIDNet) -> np.ndarray:
    return net.backbone.features[0][0].weight.detach().numpy()


def test_pretraining_goes_on_from_a_run(
    market: Callable[..., Path], init: Path, tmp_path: Path
) -> None:
    still = SOURCE.model_copy(update={"optimizer": OptimizerSettings(lr=1e-12, weight_decay=0)})
    run = source_run(market("site"), tmp_path / "on", weights=str(init), recipe=still)
    before, after = (dict(Run.open(path).network().named_parameters()) for path in (init, run.path))
    assert "neck.weight" in before
    for name, parameter in before.items():
        torch.testing.assert_close(after[name], parameter, msg=name)
    start = Run.open(run.path).info
    assert start.weights is not None
    assert start.weights.source == str(init)
    assert start.weights.sha256 == Run.open(init).network_hash()
    assert [Path(d.root).name for d in start.data] == ["site", "source"]
    with pytest.raises(RunError, match="is a mobilenet_v2, not a resnet18"):
        source_run(market("site"), tmp_path / "no", weights=str(init), backbone="resnet18")
    assert not (tmp_path / "no").exists()


def test_weights_are_where_pretraining_starts(market: Callable[..., Path], tmp_path: Path) -> None:
    torch.manual_seed(99)
    given = ReIDNet("mobilenet_v2")
    save_file(given.backbone.state_dict(), tmp_path / "imagenet.safetensors")
    run = source_run(
        market("source"),
        tmp_path / "run",
        weights=str(tmp_path / "imagenet.safetensors"),
        recipe=SOURCE.model_copy(update={"optimizer": STILL}),
    )
    np.testing.assert_allclose(first_layer(run.network()), first_layer(given), atol=1e-7)
    start = Run.open(run.path).info.weights
    assert start is not None
    assert start.source == str(tmp_path / "imagenet.safetensors")
    content = (tmp_path / "imagenet.safetensors").read_bytes()
    assert start.sha256 == hashlib.sha256(content).hexdigest()


def test_each_init_is_where_its_own_network_starts(
    market: Callable[..., Path], tmp_path: Path, init: Path
) -> None:
    second = source_run(
        market("more", seed=3), tmp_path / "second", machine=Machine(torch.device("cpu"), seed=2)
    )
    inits = [init, second.path]
    for keep, path in enumerate(inits, 1):
        recipe = MMT.model_copy(update={"options": MMTOptions(keep=keep), "optimizer": STILL})
        run = site_run(
            market(f"site{keep}", seed=5), init, tmp_path / f"{keep}", inits=inits, recipe=recipe
        )
        kept, start = (first_layer(r.network()) for r in (run, Run.open(path)))
        np.testing.assert_allclose(kept, start, atol=1e-7)
        assert run.info.init == tuple(Run.open(p).network_hash() for p in inits)


def test_the_camera_pattern_names_the_cameras(
    market: Callable[..., Path], tmp_path: Path, init: Path
) -> None:
    run = site_run(market("site"), init, tmp_path / "out", camera_pattern=r"_c(?P<camera>\d)s")
    assert run.info.data[0].cameras == ("1", "2")
    assert Run.open(run.path).info.camera_pattern == r"_c(?P<camera>\d)s"


def recipe_changes() -> dict[str, dict[str, object]]:
    clusters = MMT.clustering
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
    recipes = (MMT, MMT.model_copy(update=recipe_changes()[change]))
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
        machine = Machine(torch.device("cpu"), seed)
        run = site_run(site, init, tmp_path / f"{seed}", recipe=once, machine=machine)
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
    market: Callable[..., Path], tmp_path: Path, init: Path
) -> None:
    """`init` has learned from the folder `source`; `more` is new."""
    site = market("site", seed=5)
    sources = [tmp_path / "source", market("more", seed=9)]
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
    start.record({"round": 1}, net)
    start.finish(1.0)
    run = Run.open(site_run(market("site", seed=5), start.path, tmp_path / "run").path)
    assert run.info.attention
    assert run.network().attention is not None
    with pytest.raises(RunError, match="differ in backbone, attention or input size"):
        site_run(market("site2"), init, tmp_path / "out", inits=[init, start.path])


def test_the_source_of_the_init_is_recorded_once(
    market: Callable[..., Path], tmp_path: Path, init: Path
) -> None:
    run = daal_run(market("site", seed=5), init, tmp_path / "run", [tmp_path / "source"])
    assert [d.role for d in run.info.data] == ["target", "source"]
    everything = daal_run(
        market("site2", seed=5),
        init,
        tmp_path / "all",
        [tmp_path / "source"],
        splits=("train", "query", "gallery"),
    )
    assert [d.crops for d in everything.info.data[1:]] == [24, 48]


def test_daal_without_source_crops(
    market: Callable[..., Path], tmp_path: Path, init: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = market("site", seed=5)
    with pytest.raises(ConfigError, match=r"daal .*give --source.*options\.source=none"):
        daal_run(site, init, tmp_path / "run", [])
    assert not (tmp_path / "run").exists()
    alone = DAAL.model_copy(update={"options": DAALOptions(source="none")})
    with pytest.raises(ConfigError, match=r"options\.source is none"):
        daal_run(site, init, tmp_path / "run", [tmp_path / "source"], recipe=alone)
    run = daal_run(site, init, tmp_path / "run", [], recipe=alone)
    assert "daal without source crops is a degraded mode" in caplog.text
    assert all("loss_domain" not in row for row in run.metrics())
    assert run.info.state == "finished"


def test_source_crops_for_a_method_that_uses_none(
    market: Callable[..., Path], tmp_path: Path, init: Path
) -> None:
    with pytest.raises(ConfigError, match="mmt learns from no source crops: it uses none"):
        site_run(market("site"), init, tmp_path / "out", sources=[tmp_path / "source"])


def test_source_crops_have_to_be_of_two_people_and_each_folder_given_once(
    market: Callable[..., Path], tmp_path: Path, init: Path
) -> None:
    site, one = market("site"), market("one", persons=1)
    with pytest.raises(DataError, match="at least two identities"):
        daal_run(site, init, tmp_path / "out", [one])
    with pytest.raises(DataError, match="give every folder once"):
        daal_run(site, init, tmp_path / "out", [tmp_path / "source", tmp_path / "source"])
    with pytest.raises(RunError, match="from 1 network, --init gave 2"):
        daal_run(site, init, tmp_path / "out", [one], inits=[init, init])


def test_a_run_written_before_networks_had_attention_still_reads(init: Path) -> None:
    file = init / "run.json"
    content = json.loads(file.read_text())
    del content["attention"]
    file.write_text(json.dumps(content))
    run = Run.open(init)
    assert isinstance(run.info, RunInfo)
    assert not run.info.attention
    assert run.network().attention is None

"""`resight cluster`: files in, labels and figures out, bad input."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

pytest.importorskip("torch", reason="clustering needs resight[adapt]")

from sklearn.metrics import adjusted_rand_score

import cli.clustering
from adapt.clustering.clusterer import Clusterer
from adapt.config import Clustering
from adapt.errors import ClusteringError, ConfigError, DataError, NonFiniteFeaturesError
from tests.support.command_line import resight

PEOPLE, EACH = 12, 16
TRUTH = np.repeat(np.arange(PEOPLE), EACH)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    found = rng.normal(size=(PEOPLE, 32))[TRUTH] + 0.3 * rng.normal(size=(len(TRUTH), 32))
    np.save(tmp_path / "features.npy", found.astype(np.float16))
    return tmp_path / "features.npy"


def run(*options: object) -> Result:
    app = typer.Typer()
    cli.clustering.register(app)
    return CliRunner().invoke(app, [*map(str, options), "--device", "cpu"])


def cluster(features: Path, *options: object, method: str = "dbscan") -> Result:
    out = features.with_name("labels.npy")
    return run("--features", features, "--method", method, "--out", out, *options)


def lines(result: Result) -> list[str]:
    """What is printed, without indents."""
    assert result.exit_code == 0, (result.output, result.exception)
    return [re.sub(r"\s+", " ", line.strip()) for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("method", "options", "rule"),
    [
        ("dbscan", [], r"dbscan eps=0\.\d{3} min_samples=4 \(best silhouette\)"),
        ("dbscan", ["--radius", 0.45], r"dbscan eps=0\.450 min_samples=4 \(given\)"),
        (
            "dbscan",
            ["--radius", "pairs", "--pairs-per-image", 8, "--k1", 30, "--variant", "faiss"],
            r"dbscan eps=0\.\d{3} min_samples=4 \(8 pairs per image\)",
        ),
        (
            "dbscan",
            ["--radius", "rho", "--rho", 0.08, "--min-samples", 5],
            r"dbscan eps=0\.\d{3} min_samples=5 \(rho 0\.08\)",
        ),
        (
            "hdbscan",
            ["--min-samples", 6, "--min-cluster-size", 10],
            r"hdbscan min_samples=6 min_cluster_size=10",
        ),
        ("kmeans", ["--clusters", PEOPLE, "--seed", 2], f"kmeans K={PEOPLE}"),
    ],
)
def test_labels_and_figures(features: Path, method: str, options: list[object], rule: str) -> None:
    printed = lines(cluster(features, *options, method=method))
    labels = np.load(features.with_name("labels.npy"))
    assert labels.dtype == np.int64
    assert labels.shape == (192,)
    assert adjusted_rand_score(TRUTH, labels) > 0.9
    sizes = np.bincount(labels[labels >= 0])
    assert re.fullmatch(rule, printed[0])
    assert printed[1:4] == [
        "images 192",
        f"clusters {len(sizes)} of {sizes.min()} to {sizes.max()} images, "
        f"median {np.median(sizes):g}",
        f"outliers {(labels < 0).mean():.1%}",
    ]
    stages = [] if method == "kmeans" else ["neighbors", "encoding", "jaccard"]
    stages += ["radius"] if method == "dbscan" else []
    seconds = re.findall(r"([a-z]+) \d+\.\d", printed[4].removeprefix("seconds "))
    assert sorted(seconds) == sorted([*stages, "clusters"])
    assert re.fullmatch(r"peak memory [1-9]\d+ MB", printed[5])


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("dbscan", "k1", 6),
        ("dbscan", "k2", 1),
        ("dbscan", "variant", "faiss"),
        ("dbscan", "min_samples", 9),
        ("hdbscan", "min_samples", 9),
        ("hdbscan", "min_cluster_size", 3),
        ("kmeans", "clusters", 30),
        ("kmeans", "seed", 5),
    ],
)
def test_each_option_arrives(features: Path, method: str, option: str, value: int | str) -> None:
    table = np.random.default_rng(1).normal(size=(192, 8)).astype(np.float32)
    np.save(features, table)
    chosen: dict[str, Any] = {"algorithm": method, "radius": 0.45, "camera_centering": False}
    wanted = []
    both: tuple[dict[str, Any], ...] = ({}, {option: value})
    for settings in both:
        seed = settings.pop("seed", 1)
        clusterer = Clusterer(Clustering(**chosen, **settings), identities_per_batch=2, seed=seed)
        wanted.append(clusterer(table, np.zeros(192, np.int64)).labels)
    assert (wanted[0] != wanted[1]).any()
    cluster(features, "--radius", 0.45, f"--{option.replace('_', '-')}", value, method=method)
    np.testing.assert_array_equal(np.load(features.with_name("labels.npy")), wanted[1])


def test_automatic_number_of_clusters(features: Path) -> None:
    lines(cluster(features, method="kmeans"))
    assert np.load(features.with_name("labels.npy")).max() + 1 == round(192 / 20)


def test_automatic_number_of_clusters_of_a_few_images(features: Path) -> None:
    np.save(features, np.load(features)[:40])  # 40 / 20; no batch asks for more
    lines(cluster(features, method="kmeans"))
    assert np.load(features.with_name("labels.npy")).max() + 1 == 2


def test_cameras_by_name(features: Path) -> None:
    names = features.with_name("cameras.txt")
    names.write_text("\n".join(["gate", "yard"][i % 2] for i in range(192)) + "\n")
    centered = cluster(features, "--cameras", names)
    assert "in cameras  100% of the clusters in several" in centered.stdout
    codes = features.with_name("cameras.npy")
    np.save(codes, TRUTH % 4)
    alone = cluster(features, "--cameras", codes)
    assert "in cameras  0% of the clusters in several" in alone.stdout


def test_centering_is_used(features: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = np.load(features).astype(np.float64)
    table[1::2] += 30 * np.eye(32)[0]
    np.save(features, table)
    names = features.with_name("cameras.npy")
    np.save(names, np.arange(192) % 2)
    scores = []
    for centering in ("on", "off", "auto"):
        caplog.clear()
        with caplog.at_level("INFO", "resight"):
            done = cluster(
                features, "--cameras", names, "--camera-centering", centering, "--radius", 0.45
            )
        assert done.exit_code == 0
        scores.append(adjusted_rand_score(TRUTH, np.load(features.with_name("labels.npy"))))
        assert ("camera bias" in caplog.text) == (centering == "auto")
    assert scores[0] > 0.9
    assert scores[1] < 0.7
    assert scores[2] == scores[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--radius", "wide"], "--radius is a number or one of auto, pairs, rho, not 'wide'"),
        (["--radius", "0"], "--radius"),
        (["--radius", "1.5"], "--radius: Input should be less than 1"),
        (["--radius", "nan"], "--radius"),
        (["--radius", "rho", "--rho", "1.5"], "--rho: Input should be less than 1"),
        (["--radius", "pairs", "--pairs-per-image", "-1"], "--pairs-per-image"),
        (["--radius", "pairs", "--pairs-per-image", "inf"], "--pairs-per-image"),
        (["--clusters", "many"], "--clusters is a number or one of auto, not 'many'"),
        (["--clusters", "2.5"], "--clusters: Input should be a valid integer"),
        (["--k1", "0"], "--k1"),
        (["--min-cluster-size", "1"], "--min-cluster-size"),
    ],
)
def test_numbers_out_of_range_are_usage_errors(
    features: Path, options: list[str], message: str
) -> None:
    done = cluster(features, *options)
    assert done.exit_code == 2, repr(done.exception)
    shown = re.sub(r"\s*│\s*│?\s*", " ", done.stderr)
    assert message in shown
    assert not features.with_name("labels.npy").exists()


@pytest.mark.parametrize(
    ("method", "options", "error"),
    [
        ("kmeans", ["--clusters", "193"], ClusteringError),
        ("kmeans", ["--clusters", "0"], ClusteringError),
        ("hdbscan", ["--min-samples", "193"], ClusteringError),
        ("dbscan", ["--device", "gpu"], ConfigError),
    ],
)
def test_what_this_site_cannot_give(
    features: Path, method: str, options: list[str], error: type[Exception]
) -> None:
    out = features.with_name("labels.npy")
    app = typer.Typer()
    cli.clustering.register(app)
    arguments = ["--features", str(features), "--method", method, "--out", str(out), *options]
    assert isinstance(CliRunner().invoke(app, arguments).exception, error)
    assert not out.exists()


@pytest.mark.parametrize("images", [0, 1, 3])
@pytest.mark.parametrize("method", ["kmeans", "dbscan", "hdbscan"])
def test_too_few_images(features: Path, method: str, images: int) -> None:
    np.save(features, np.load(features)[:images])
    done = cluster(features, method=method)
    assert isinstance(done.exception, (DataError, ClusteringError))
    assert re.search(r"add\s+crops", str(done.exception))


def test_bad_files(features: Path, tmp_path: Path) -> None:
    table = np.load(features)
    names = tmp_path / "cameras.txt"
    names.write_text("gate\n" * 191)
    short = cluster(features, "--cameras", names)
    assert isinstance(short.exception, DataError)
    assert "191" in str(short.exception)
    table[150, 3] = np.inf
    np.save(features, table)
    for method in ("kmeans", "dbscan", "hdbscan"):
        broken = cluster(features, "--camera-centering", "on", method=method)
        assert isinstance(broken.exception, NonFiniteFeaturesError)
        assert broken.exception.first_row == 150
    features.write_bytes(b"no array")
    assert isinstance(cluster(features).exception, DataError)
    assert not features.with_name("labels.npy").exists()


def test_a_place_that_cannot_be_written(features: Path, tmp_path: Path) -> None:
    out = tmp_path / "absent" / "labels.npy"
    done = run("--features", features, "--method", "dbscan", "--out", out)
    assert isinstance(done.exception, DataError)
    assert "labels.npy cannot be written" in str(done.exception)


@pytest.mark.parametrize("out", [".", "/", ""])
def test_a_folder_is_no_place_for_labels(features: Path, out: str) -> None:
    done = run("--features", features, "--method", "dbscan", "--out", out)
    assert isinstance(done.exception, DataError)
    assert "it is a folder" in str(done.exception)


def test_features_are_not_overwritten(features: Path) -> None:
    before = features.read_bytes()
    done = run("--features", features, "--method", "dbscan", "--out", features)
    assert isinstance(done.exception, DataError)
    assert features.read_bytes() == before


@pytest.mark.parametrize(
    ("method", "options", "warning"),
    [
        ("dbscan", ["--radius", "1e-12"], "are outliers"),
        ("dbscan", ["--radius", "0.99"], "cut to 0.95"),
        ("kmeans", ["--clusters", "1"], "1 cluster, but batches need 2"),
    ],
)
def test_labels_that_cannot_be_trained_on_leave_a_warning(
    features: Path, caplog: pytest.LogCaptureFixture, method: str, options: list[str], warning: str
) -> None:
    with caplog.at_level("WARNING", "resight"):
        done = cluster(features, *options, method=method)
    assert done.exit_code == 0, done.exception
    assert warning in caplog.text
    assert len(np.load(features.with_name("labels.npy"))) == 192


@pytest.mark.slow
def test_errors_are_one_line(tmp_path: Path) -> None:
    files = ("--features", tmp_path / "absent.npy", "--out", tmp_path / "labels.npy")
    done = resight("cluster", *files, "--method", "dbscan")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "absent.npy is not a .npy file that can be read" in line

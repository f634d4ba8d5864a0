"""`resight cluster`: pseudo labels of ready features."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer
from pydantic import ValidationError

from cli.common import tell
from models.wording import plural

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from adapt.config import Clustering
    from adapt.types import PseudoLabels

log = logging.getLogger("resight")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(cluster)


def cluster(
    features: Annotated[Path, typer.Option(help=".npy of (N, D) features, floating point.")],
    method: Annotated[Literal["dbscan", "hdbscan", "kmeans"], typer.Option(help="Algorithm.")],
    out: Annotated[Path, typer.Option(help=".npy to write: (N,) int64, -1 for outliers.")],
    cameras: Annotated[
        Path | None, typer.Option(help=".npy of (N,) camera numbers, or text, one name per line.")
    ] = None,
    camera_centering: Annotated[
        Literal["on", "off", "auto"],
        typer.Option(help="Subtract each camera's mean feature; auto: if it differs by camera."),
    ] = "auto",
    clusters: Annotated[
        str, typer.Option(help="Number of clusters for kmeans, or auto for N/20.")
    ] = "auto",
    k1: Annotated[int, typer.Option(min=1, help="Neighbors of the k-reciprocal sets.")] = 20,
    k2: Annotated[int, typer.Option(min=1, help="Neighbors of the query expansion.")] = 6,
    variant: Annotated[
        Literal["classic", "faiss"], typer.Option(help="Variant of the Jaccard distance.")
    ] = "classic",
    radius: Annotated[
        str, typer.Option(help="Radius of dbscan: auto, pairs, rho, or a number in (0, 1).")
    ] = "auto",
    pairs_per_image: Annotated[
        float, typer.Option(help="Pairs per image within the radius, for --radius pairs.")
    ] = 10.35,
    rho: Annotated[
        float, typer.Option(help="Share of the nearest pairs, for --radius rho.")
    ] = 1.6e-3,
    min_samples: Annotated[
        int, typer.Option(min=1, help="Neighbors of a core point, for dbscan and hdbscan.")
    ] = 4,
    min_cluster_size: Annotated[
        int, typer.Option(min=2, help="Images of the smallest cluster, for hdbscan.")
    ] = 8,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed, for kmeans.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Cluster features without labels: re-ranked distance and DBSCAN or HDBSCAN, or k-means."""
    settings = _settings(
        algorithm=method,
        camera_centering={"on": True, "off": False, "auto": "auto"}[camera_centering],
        clusters=_number(clusters, "--clusters", ("auto",)),
        k1=k1,
        k2=k2,
        variant=variant,
        radius=_number(radius, "--radius", ("auto", "pairs", "rho")),
        pairs_per_image=pairs_per_image,
        rho=rho,
        min_samples=min_samples,
        min_cluster_size=min_cluster_size,
    )
    _cluster(features, cameras, out, settings, seed=seed, device=device)


def _cluster(
    features: Path,
    cameras: Path | None,
    out: Path,
    settings: Clustering,
    *,
    seed: int,
    device: str,
) -> None:
    """Read features, cluster them, write labels and print the figures."""
    from adapt.clustering.clusterer import Clusterer
    from adapt.clustering.labels.array_files import (
        check_place,
        read_cameras,
        read_features,
        write_labels,
    )
    from adapt.runtime.device import peak_rss_bytes, pick_device
    from adapt.runtime.disk_arrays import Scratch

    check_place(out, features, cameras)
    table = read_features(features)
    codes = read_cameras(cameras, len(table))
    chosen = pick_device(device)
    clusterer = Clusterer(
        settings,
        identities_per_batch=2,
        seed=seed,
        device=None if chosen.type == "cpu" else chosen,
        allocate=Scratch(out.parent).table,
    )
    labels = clusterer(table, codes)
    write_labels(out, labels)
    _report(labels, codes, clusterer.stages.seconds)
    typer.echo(f"  peak memory {peak_rss_bytes() / 2**20:.0f} MB")
    tell(f"labels written to {out}")


def _settings(**chosen: Any) -> Clustering:
    """The settings of a recipe. Raises BadParameter that names the options."""
    from adapt.config import Clustering
    from models.validation import explain

    try:
        return Clustering(**chosen)
    except ValidationError as error:
        raise typer.BadParameter(explain(error, Clustering, spell=_option)) from None


def _option(setting: str) -> str:
    return "--" + setting.replace("_", "-")


def _report(labels: PseudoLabels, cameras: NDArray[np.int64], seconds: Mapping[str, float]) -> None:
    """Warn of what is odd, and print the figures."""
    from adapt.clustering.labels.guards import check_labels, cross_camera_share
    from adapt.errors import ClusteringError

    try:
        warnings = check_labels(labels, cameras, identities_per_batch=2).warnings
    except ClusteringError as error:
        warnings = (*labels.warnings, str(error))
    for warning in warnings:
        log.warning("%s", warning)
    typer.echo(labels.rule)
    typer.echo(f"  images      {len(labels.labels)}")
    typer.echo(f"  clusters    {labels.clusters}{_sizes(labels.sizes)}")
    typer.echo(f"  outliers    {labels.outlier_share:.1%}")
    if cameras.any():
        typer.echo(
            f"  in cameras  {cross_camera_share(labels, cameras):.0%} of the clusters in several"
        )
    stages = ", ".join(f"{stage} {spent:.1f}" for stage, spent in seconds.items())
    typer.echo(f"  seconds     {stages}")


def _sizes(sizes: NDArray[np.int64]) -> str:
    if not len(sizes):
        return ""
    return f" of {sizes.min()} to {plural(sizes.max(), 'image')}, median {np.median(sizes):g}"


def _number(text: str, option: str, rules: Sequence[str]) -> float | str:
    """A rule by name, or a number."""
    if text in rules:
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"{option} is a number or one of {', '.join(rules)}, not {text!r}"
        ) from None

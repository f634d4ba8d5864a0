"""All proxies of one model on one site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from adapt.errors import DataError
from adapt.evaluation.metrics import lengths
from adapt.evaluation.proxies.clusters import cluster_proxies, cluster_site
from adapt.evaluation.proxies.neighborhood import (
    mutual_neighbors,
    nearest_camera_bias,
    neighborhood,
    neighborhood_density,
)
from adapt.evaluation.proxies.sightings import ProxyValue, Sightings
from adapt.evaluation.proxies.spread import effective_rank, spread
from adapt.evaluation.proxies.tracks import track_retrieval


@dataclass(frozen=True)
class Proxy:
    """What a proxy is to the comparison of two models.

    title: for people. sign: +1 where larger is better, -1 where smaller is.
    """

    title: str
    sign: int


PROXIES: Mapping[str, Proxy] = MappingProxyType(
    {
        "track_retrieval": Proxy("own track found among people seen beside it", 1),
        "neighborhood_density": Proxy("soft neighborhood density", -1),
        "mutual_neighbors": Proxy("mutual nearest neighbors across cameras", 1),
        "camera_bias": Proxy("nearest neighbor in the same camera, beyond chance", -1),
        "silhouette": Proxy("silhouette of the clusters", 1),
        "clustered": Proxy("share of crops in clusters", 1),
        "cross_camera": Proxy("share of crops in clusters of several cameras", 1),
        "stability": Proxy("stability of the clusters under resampling", 1),
        "agreement": Proxy("adjusted Rand index under resampling", 1),
        "spread": Proxy("spread of the embeddings", 1),
        "effective_rank": Proxy("effective rank of the embeddings", 1),
    }
)
"""Every proxy, in the order of tables; docs/gate.md explains each."""


@dataclass(frozen=True)
class ModelFigures:
    """One model on a site.

    proxies: by name, None where the site does not allow the proxy. largest_cluster: share of all
    crops in the largest cluster. dimension: D.
    """

    proxies: Mapping[str, ProxyValue | None]
    largest_cluster: float
    dimension: int


def measure(
    feature_ND: NDArray[np.floating], sightings: Sightings, *, seed: int = 0
) -> ModelFigures:
    """Measure every proxy of a model.

    Args:
        feature_ND: embeddings of a site's crops, any scale; rows are L2-normalized here.
        sightings: of the same crops.
        seed: of the resamples of cluster stability; the same for models that are compared.

    Raises:
        DataError: there are no crops, or shapes do not fit.
        NonFiniteFeaturesError, ZeroFeaturesError: NaN, infinity or a row of zeros.
    """
    unit_ND = _unit(feature_ND, len(sightings))
    near = neighborhood(unit_ND, sightings)
    clusters = cluster_site(unit_ND, sightings, seed=seed)
    found = {
        "track_retrieval": track_retrieval(unit_ND, sightings),
        "neighborhood_density": neighborhood_density(near),
        "mutual_neighbors": mutual_neighbors(near, sightings),
        "camera_bias": nearest_camera_bias(near, sightings),
        **cluster_proxies(clusters, sightings),
        "spread": spread(unit_ND),
        "effective_rank": effective_rank(unit_ND),
    }
    return ModelFigures(
        {name: found[name] for name in PROXIES}, clusters.largest_share, unit_ND.shape[1]
    )


def _unit(feature_ND: NDArray[np.floating], crops: int) -> NDArray[np.float32]:
    if feature_ND.ndim != 2 or 0 in feature_ND.shape or len(feature_ND) != crops:
        raise DataError(
            f"embeddings {feature_ND.shape} do not fit {crops} crops: give one row for each crop"
        )
    return np.asarray(feature_ND / lengths("crops'", feature_ND)[:, None], np.float32)

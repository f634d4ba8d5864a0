"""DBSCAN's radius from the data."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, triu

from adapt.errors import ClusteringError

logger = logging.getLogger(__name__)

ZERO = 1e-6
"""Distances up to this are copies of one image: rounding decides between 0 and 1e-7."""

LARGEST = 0.95
"""Almost all pairs are at Jaccard distance 1: a radius near it makes one cluster of all images."""


def radius_by_pairs(distances: csr_array, pairs_per_image: float) -> float:
    """Find the radius that a given number of pairs per image would choose.

        eps = mean of the round(c N) smallest J(i,j) > 0, i < j

    With c = 10.35 this is the rho rule with rho = 1.6e-3 at the size of Market-1501
    (N = 12,936), and, other than that rule, fits sites of any size.

    Args:
        distances: (N, N) symmetric, of all pairs with J < 1: missing pairs count as 1.
        pairs_per_image: c > 0, about half the images a person has at the site.

    Returns:
        eps in (0, 0.95]; a larger one is cut, with a logged warning.

    Raises:
        ClusteringError: no pair of different images is left to measure.
        ValueError: pairs_per_image is not positive.
    """
    if not pairs_per_image > 0:
        raise ValueError(f"pairs_per_image must be > 0, got {pairs_per_image}")
    positive, pairs = _positive_distances(distances)
    return _mean_of_smallest(positive, pairs, pairs_per_image * distances.shape[0])


def radius_by_rho(distances: csr_array, rho: float) -> float:
    """Find the radius by the rule of UDAP, SSG and MMT's DBSCAN script.

        eps = mean of the smallest fraction rho of all J(i,j) > 0, i < j

    The number of pairs per image grows with N: at 1,000 images 1.6e-3 finds almost only outliers,
    at 30,000 it merges people. `radius_by_pairs` does not.

    Args:
        distances: (N, N) symmetric, of all pairs with J < 1: missing pairs count as 1.
        rho: fraction in (0, 1]; 1.6e-3 in the papers.

    Returns:
        eps in (0, 0.95]; a larger one is cut, with a logged warning.

    Raises:
        ClusteringError: the fraction holds no pair.
        ValueError: rho is out of range.

    Source: Song et al. (UDAP), arXiv:1807.11334.
    """
    if not 0 < rho <= 1:
        raise ValueError(f"rho must be in (0, 1], got {rho}")
    positive, pairs = _positive_distances(distances)
    return _mean_of_smallest(positive, pairs, rho * pairs)


def _positive_distances(distances: csr_array) -> tuple[NDArray[np.float64], int]:
    """Sorted stored distances > 0 of pairs i < j, and how many pairs are > 0 in all."""
    images = distances.shape[0]
    stored: NDArray[np.float64] = triu(distances, k=1).data.astype(np.float64)
    positive = np.sort(stored[stored > ZERO])
    return positive, images * (images - 1) // 2 - (len(stored) - len(positive))


def _mean_of_smallest(positive: NDArray[np.float64], pairs: int, wanted: float) -> float:
    """Mean of the `wanted` smallest of `pairs` distances, of which `positive` are below 1."""
    count = min(round(wanted), pairs)
    if count < 1:
        raise ClusteringError(
            f"no radius can be measured: {count} of {pairs} pairs of different images chosen; set "
            "the radius to a number (0.4 to 0.6), use pairs instead of rho, or add crops"
        )
    smallest = positive[:count]
    radius = (float(smallest.sum()) + count - len(smallest)) / count
    if radius > LARGEST:
        logger.warning(
            "radius %.3f cut to %.2f: most of the %d nearest pairs share no neighbours; "
            "lower pairs_per_image or rho",
            radius,
            LARGEST,
            count,
        )
        return LARGEST
    return radius

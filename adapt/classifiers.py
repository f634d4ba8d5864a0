"""Classifiers of a new round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from adapt.labels.centers import cluster_centers
from adapt.types import PseudoLabels
from models.backbones.net import ReIDNet


def start_from_centers(
    nets: Sequence[ReIDNet], features: NDArray[np.float32], labels: PseudoLabels
) -> None:
    """Give each network a new classifier whose rows are the clusters' normalised centres.

    Cluster ids mean nothing across rounds, so what a classifier learned of them does not either.

    features: (N, D) embeddings in the networks' own space. Without clusters the classifiers stay:
    the loop refuses such labels. Source: MMT's public code.
    """
    if not labels.clusters:
        return
    center_KD = torch.from_numpy(cluster_centers(features, labels.labels, normalise=True))
    for net in nets:
        net.reset_classifier(labels.clusters, center_KD)

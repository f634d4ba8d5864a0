"""Classifiers that start from the centers of their classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from adapt.clustering.labels.centers import cluster_centers
from adapt.types import PseudoLabels
from models.backbones.net import ReIDNet


def start_from_centers(
    nets: Sequence[ReIDNet], features: NDArray[np.float32], labels: PseudoLabels
) -> None:
    """Give each network a new classifier whose rows are the clusters' normalized centers.

    Cluster ids mean nothing across rounds, so what a classifier learned of them does not either.

    features: (N, D) embeddings in the networks' own space. Without clusters the classifiers stay:
    the loop refuses such labels. Source: MMT's public code.
    """
    if not labels.clusters:
        return
    center_KD = torch.from_numpy(cluster_centers(features, labels.labels, normalize=True))
    for net in nets:
        net.reset_classifier(labels.clusters, center_KD)


def classifier_at(center_KD: NDArray[np.float32], net: ReIDNet, logit: float) -> nn.Linear:
    """Make a bias-free classifier whose rows are the centers of its classes.

    center_KD: a row of unit length for each class, in the network's space. logit: of a feature
    on its center that is as long as the features of the network's neck on average.
    """
    classes, dimension = center_KD.shape
    layer = nn.Linear(dimension, classes, bias=False)
    with torch.no_grad():
        length = net.neck.weight.norm().cpu()
        layer.weight.copy_(torch.from_numpy(center_KD) * (logit / length))
    return layer

"""Source pre-training: a network learns from labelled crops before any site is seen.

Ge, Chen, Li. Mutual Mean-Teaching. ICLR 2020, section 3.2.1, equation (3):
    L = L_id + lambda L_tri
with the identity loss (1), its labels smoothed, and the triplet loss in its softmax form (6) as
in the public code (the paper prints the margin form (2)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from adapt.config import MethodOptions
from adapt.losses.classification import cross_entropy
from adapt.losses.distance import pairwise_distance
from adapt.losses.triplet import mine_hard_triplets, softmax_triplet
from adapt.types import Batch, FeatureTable, Losses, PseudoLabels, RoundOf
from models.backbones.net import ReIDNet


class SourceOptions(MethodOptions):
    """Hyper-parameters of source pre-training."""

    lambda_tri: float = Field(1.0, ge=0, description="weight of the triplet loss, lambda^s of (3)")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="of the identity loss")


class Source:
    """One network, trained on true identities."""

    Options: ClassVar[type[MethodOptions]] = SourceOptions
    views: ClassVar[int] = 1
    fresh_optimizer: ClassVar[bool] = False
    sampling: ClassVar[Literal["identities", "images"]] = "identities"

    def __init__(self, net: ReIDNet, options: SourceOptions, persons: NDArray[np.int64]) -> None:
        """persons: (N,) identities of the source crops; any integers."""
        ids, labels = np.unique(persons, return_inverse=True)
        self.net = net
        self.options = options
        self.labels = PseudoLabels(labels.astype(np.int64), f"{len(ids)} true identities")
        net.reset_classifier(self.labels.clusters)

    def networks(self) -> Mapping[str, ReIDNet]:
        """The one network."""
        return {"theta": self.net}

    def trained(self) -> Sequence[ReIDNet]:
        """The one network."""
        return (self.net,)

    def extractors(self) -> Sequence[ReIDNet]:
        """None: the labels are known."""
        return ()

    def relabel(self, table: FeatureTable, when: RoundOf) -> tuple[PseudoLabels, ...]:
        """The true identities, every round."""
        return (self.labels,)

    def step(self, batches: tuple[Batch, ...]) -> Losses:
        """Equation (3)."""
        (batch,) = batches
        (view,) = batch.views
        out = self.net(view)
        dist_BB = pairwise_distance(out.pooled)
        hard = mine_hard_triplets(dist_BB, batch.label)
        right = out.logits.argmax(1) == batch.label
        return Losses(
            terms={
                "id": cross_entropy(out.logits, batch.label, self.options.label_smoothing),
                "tri": softmax_triplet(dist_BB, hard),
            },
            weights={"id": 1.0, "tri": self.options.lambda_tri},
            stats={"accuracy": float(right.float().mean())},
        )

    def after_step(self, step: int) -> None:
        """Nothing follows a step."""

    def embedder(self) -> ReIDNet:
        """The one network."""
        return self.net

"""MMT: Mutual Mean-Teaching.

Ge, Chen, Li. Mutual Mean-Teaching: Pseudo Label Refinery for Unsupervised Domain Adaptation on
Person Re-identification. ICLR 2020.

Where the equations live
    (1) identity loss               adapt.losses.classification.cross_entropy
    (4) temporal average            adapt.ema.ema_momentum, update_ema
    (5) soft identity loss          adapt.losses.classification.soft_cross_entropy
    (6), (7) softmax-triplet loss   adapt.losses.triplet.softmax_triplet
    (8) soft softmax-triplet loss   adapt.losses.triplet.soft_softmax_triplet
    (9) their weighted sum          MMT.step
    Algorithm 1                     MMT.relabel, MMT.step, MMT.after_step

Departures from the paper (docs/methods/mmt.md argues each); 1-5 follow its public code
    1. The averages' embeddings, their mean, are clustered; the paper does not say whose.
    2. Each round all four classifiers start from the normalised cluster centres: cluster ids
       mean nothing across rounds.
    3. The identity loss smooths its labels by 0.1.
    4. alpha of (4) is min(1 - 1/(t+1), 0.999): the average forgets its start.
    5. Parameters are averaged, batch-norm statistics are not: the averages run in train mode
       and keep their own. The optimiser starts anew each round.
    6. The clustered features are made per camera: extracted under the camera's own batch-norm
       statistics (`clustering.camera_statistics`), then centred (`clustering.camera_centering`).
       Classifiers start from the means of the features before centring.
    7. The average kept at the end is chosen by `options.keep`, not by labels nobody has.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from adapt.clustering import Clusterer
from adapt.config import MethodOptions
from adapt.ema import ema_momentum, update_ema
from adapt.labels.centers import cluster_centers
from adapt.losses.classification import cross_entropy, soft_cross_entropy
from adapt.losses.distance import pairwise_distance
from adapt.losses.triplet import mine_hard_triplets, soft_softmax_triplet, softmax_triplet
from adapt.types import Batch, FeatureTable, Losses, PseudoLabels, RoundOf
from models.backbones.net import ReIDNet


class MMTOptions(MethodOptions):
    """Hyper-parameters of MMT (section 4.2 of the paper)."""

    lambda_id: float = Field(0.5, ge=0, le=1, description="share of the soft identity loss")
    lambda_tri: float = Field(0.8, ge=0, le=1, description="share of the soft triplet loss")
    ema: float = Field(0.999, ge=0, lt=1, description="alpha: momentum of the temporal average")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="of the identity loss")
    keep: Literal[1, 2] = Field(1, description="the average that is exported")


class MMT:
    """Two networks, each taught by the temporal average of the other."""

    Options: ClassVar[type[MethodOptions]] = MMTOptions
    views: ClassVar[int] = 2
    fresh_optimizer: ClassVar[bool] = True
    sampling: ClassVar[Literal["identities", "images"]] = "identities"
    students_wanted: ClassVar[int] = 2

    def __init__(
        self, students: Sequence[ReIDNet], options: MMTOptions, clusterer: Clusterer
    ) -> None:
        """Start from two source-trained networks; their averages start as copies."""
        if len(students) != 2:
            raise ValueError(f"MMT trains two networks, got {len(students)}")
        self.students = tuple(students)
        self.teachers = tuple(copy.deepcopy(net) for net in students)
        for teacher in self.teachers:
            teacher.requires_grad_(False)
        self.options = options
        self.clusterer = clusterer

    def networks(self) -> Mapping[str, ReIDNet]:
        """theta_1, theta_2 and their averages E_1, E_2."""
        return dict(
            zip(("theta_1", "theta_2", "E_1", "E_2"), self.students + self.teachers, strict=True)
        )

    def trained(self) -> Sequence[ReIDNet]:
        """theta_1 and theta_2."""
        return self.students

    def extractors(self) -> Sequence[ReIDNet]:
        """E_1 and E_2."""
        return self.teachers

    def relabel(self, table: FeatureTable, when: RoundOf) -> tuple[PseudoLabels, ...]:
        """Cluster the mean of both averages' embeddings; centres become the classifiers."""
        first_ND, second_ND = table.features
        mean_ND = np.float32(0.5) * (first_ND + second_ND)
        labels = self.clusterer(mean_ND, table.cameras)
        if not labels.clusters:
            return (labels,)  # the loop refuses them
        center_KD = torch.from_numpy(cluster_centers(mean_ND, labels.labels, normalise=True))
        for net in self.students + self.teachers:
            net.reset_classifier(labels.clusters, center_KD)
        for teacher in self.teachers:
            teacher.requires_grad_(False)
        return (labels,)

    def step(self, batches: tuple[Batch, ...]) -> Losses:
        """Equation (9) on two views of the batch: view k belongs to theta_k and E_k."""
        o = self.options
        (batch,) = batches
        out = [net(view) for net, view in zip(self.students, batch.views, strict=True)]
        with torch.no_grad():
            mean = [net(view) for net, view in zip(self.teachers, batch.views, strict=True)]
        terms: dict[str, torch.Tensor] = {}
        stats: dict[str, float] = {}
        for k, peer in ((0, 1), (1, 0)):
            dist_BB = pairwise_distance(out[k].pooled)
            hard = mine_hard_triplets(dist_BB, batch.label)
            peer_BB = pairwise_distance(mean[peer].pooled)
            n = k + 1
            terms[f"id_{n}"] = cross_entropy(out[k].logits, batch.label, o.label_smoothing)
            terms[f"soft_id_{n}"] = soft_cross_entropy(out[k].logits, mean[peer].logits)
            terms[f"tri_{n}"] = softmax_triplet(dist_BB, hard)
            terms[f"soft_tri_{n}"] = soft_softmax_triplet(dist_BB, peer_BB, hard)
            right = out[k].logits.argmax(1) == batch.label
            stats[f"accuracy_{n}"] = float(right.float().mean())
        share = {
            "id": 1 - o.lambda_id,
            "soft_id": o.lambda_id,
            "tri": 1 - o.lambda_tri,
            "soft_tri": o.lambda_tri,
        }
        weights = {name: share[name.rsplit("_", 1)[0]] for name in terms}
        return Losses(terms, weights, stats)

    def after_step(self, step: int) -> None:
        """Equation (4)."""
        momentum = ema_momentum(step, self.options.ema)
        for teacher, student in zip(self.teachers, self.students, strict=True):
            update_ema(teacher, student, momentum)

    def embedder(self) -> ReIDNet:
        """One of the averages."""
        return self.teachers[self.options.keep - 1]

"""MMT: Mutual Mean-Teaching.

Ge, Chen, Li. Mutual Mean-Teaching: Pseudo Label Refinery for Unsupervised Domain Adaptation on
Person Re-identification. ICLR 2020.

Where the equations live
    (1) identity loss               adapt.losses.classification.cross_entropy
    (4) temporal average            adapt.ema.ema_momentum, update_ema
    (5) soft identity loss          adapt.losses.classification.soft_cross_entropy
    (6), (7) softmax-triplet loss   adapt.losses.triplet.softmax_triplet
    (8) soft softmax-triplet loss   adapt.losses.triplet.soft_softmax_triplet
    (1), (5), (6), (8) of one net   adapt.losses.mutual.mutual_terms
    (9) their weighted sum          adapt.losses.mutual.mutual_weights, MMT.step
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

from adapt.classifiers import start_from_centers
from adapt.clustering import Clusterer
from adapt.config import MethodOptions
from adapt.ema import ema_momentum, update_ema
from adapt.losses.mutual import mutual_terms, mutual_weights
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
        start_from_centers(self.students + self.teachers, mean_ND, labels)
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
            n = k + 1
            four = mutual_terms(out[k], mean[peer], batch.label, o.label_smoothing)
            terms |= {f"{name}_{n}": term for name, term in four._asdict().items()}
            right = out[k].logits.argmax(1) == batch.label
            stats[f"accuracy_{n}"] = float(right.float().mean())
        share = mutual_weights(o.lambda_id, o.lambda_tri)
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

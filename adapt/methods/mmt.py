"""MMT: Mutual Mean-Teaching.

Ge, Chen, Li. Mutual Mean-Teaching: Pseudo Label Refinery for Unsupervised Domain Adaptation on
Person Re-identification. ICLR 2020.

Where the equations live
    (1) identity loss               adapt.losses.classification.cross_entropy
    (4) temporal average            adapt.methods.parts.ema.ema_momentum, update_ema
    (5) soft identity loss          adapt.losses.classification.soft_cross_entropy
    (6), (7) softmax-triplet loss   adapt.losses.triplet.softmax_triplet
    (8) soft softmax-triplet loss   adapt.losses.triplet.soft_softmax_triplet
    (1), (5), (6), (8) of one net   adapt.losses.mutual.mutual_terms
    (9) their weighted sum          adapt.losses.mutual.mutual_weights, MMT.step
    Algorithm 1                     MMT.relabel, MMT.step, MMT.after_step

Departures from the paper, numbered as in docs/methods/mmt.md, which argues each and has more,
outside this file. 1-5 and 15 follow the public code, from which the published figures come; each
is an option.
    1. The averages' embeddings, their mean, are clustered (`clustered`, `normalize_mean`).
    2. Each round all classifiers start from the normalized cluster centers (`classifier`):
       cluster ids mean nothing across rounds. The optimizer starts anew (`fresh_optimizer`).
    3. The identity loss smooths its labels by 0.1 (`label_smoothing`).
    4. alpha of (4) is min(1 - 1/(t+1), 0.999): the average forgets its start (`ema_ramp`).
    5. Parameters are averaged, batch-norm statistics are not: the averages run in train mode
       and keep their own (`average_statistics`).
    6. The clustered features are made per camera: extracted under the camera's own batch-norm
       statistics (`clustering.camera_statistics`), then centered (`clustering.camera_centering`).
       Classifiers start from the means of the features before centering.
    7. The average kept at the end is chosen by `keep`: a site has no labels to choose by.
    15. Images of an identity come from several cameras (`batch.across_cameras`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from adapt.clustering.clusterer import Clusterer
from adapt.config import MethodOptions
from adapt.losses.mutual import active_triplets, mutual_terms, mutual_weights
from adapt.methods.base import ClusteringMethod
from adapt.methods.parts.classifiers import start_from_centers
from adapt.methods.parts.ema import ema_momentum, start_averages, update_ema
from adapt.types import Batch, FeatureTable, Losses, PseudoLabels, RoundOf, Term
from models.backbones.net import ReIDNet


class MMTOptions(MethodOptions):
    """Hyper-parameters of MMT (section 4.2 of the paper)."""

    lambda_id: float = Field(0.5, ge=0, le=1, description="share of the soft identity loss")
    lambda_tri: float = Field(0.8, ge=0, le=1, description="share of the soft triplet loss")
    ema: float = Field(0.999, ge=0, lt=1, description="alpha: momentum of the temporal average")
    ema_ramp: bool = Field(True, description="raise alpha from 0 to `ema`, else start with it")
    average_statistics: bool = Field(
        False, description="average batch-norm statistics too; the averages run in eval mode"
    )
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="of the identity loss")
    networks: Literal[1, 2] = Field(2, description="1: no peer, its own average teaches it")
    clustered: Literal["averages", "students"] = Field(
        "averages", description="whose embeddings are clustered"
    )
    normalize_mean: bool = Field(False, description="scale the mean embedding to length 1")
    classifier: Literal["centers", "random"] = Field(
        "centers", description="where classifiers start each round"
    )
    fresh_optimizer: bool = Field(True, description="forget the optimizer's moments each round")
    keep: Literal[1, 2] = Field(1, description="the average that is exported")

    @model_validator(mode="after")
    def _kept_is_there(self) -> MMTOptions:
        if self.keep > self.networks:
            raise ValueError("keep = 2 needs networks = 2")
        return self

    def students_wanted(self, max_students: int) -> int:
        """`networks`."""
        return self.networks


class MMT(ClusteringMethod[MMTOptions]):
    """Two networks, each taught by the temporal average of the other."""

    Options: ClassVar[type[MethodOptions]] = MMTOptions
    views: ClassVar[int] = 2
    max_students: ClassVar[int] = 2

    def __init__(
        self, students: Sequence[ReIDNet], options: MMTOptions, clusterer: Clusterer
    ) -> None:
        """Start from source-trained networks; their averages start as copies."""
        super().__init__(students, options, clusterer)
        self.teachers = start_averages(students)
        self.fresh_optimizer = options.fresh_optimizer

    def networks(self) -> Mapping[str, ReIDNet]:
        """theta_1, theta_2 and their averages E_1, E_2."""
        students = {f"theta_{k}": net for k, net in enumerate(self.students, 1)}
        return students | {f"E_{k}": net for k, net in enumerate(self.teachers, 1)}

    def extractors(self) -> Sequence[ReIDNet]:
        """E_1 and E_2, or theta_1 and theta_2."""
        return self.teachers if self.options.clustered == "averages" else self.students

    def relabel(self, table: FeatureTable, when: RoundOf) -> tuple[PseudoLabels, ...]:
        """Cluster the mean of both networks' embeddings; centers become the classifiers."""
        o = self.options
        mean_ND = table.mean()
        if o.normalize_mean:
            mean_ND /= np.maximum(np.linalg.norm(mean_ND, axis=1, keepdims=True), 1e-12)
        labels = self.clusterer(mean_ND, table.cameras)
        if not labels.clusters:
            return (labels,)  # the loop refuses them
        if o.classifier == "centers":
            start_from_centers(self.students + self.teachers, mean_ND, labels)
        else:
            for student, teacher in zip(self.students, self.teachers, strict=True):
                student.reset_classifier(labels.clusters)
                teacher.classifier = copy.deepcopy(student.classifier)
                teacher.requires_grad_(False)
        return (labels,)

    def step(self, batches: tuple[Batch, ...]) -> Losses:
        """Equation (9) on two views of the batch: view k belongs to theta_k and E_k.

        A network alone learns from the first view, its average looks at the second: pupil and
        teacher never see the same pixels, as with two.
        """
        o = self.options
        (batch,) = batches
        nets = len(self.students)
        for teacher in self.teachers:
            teacher.train(not o.average_statistics)
        out = [net(view) for net, view in zip(self.students, batch.views[:nets], strict=True)]
        with torch.no_grad():
            mean = [net(view) for net, view in zip(self.teachers, batch.views[-nets:], strict=True)]
        shares = mutual_weights(o.lambda_id, o.lambda_tri)
        terms: dict[str, Term] = {}
        stats: dict[str, torch.Tensor] = {}
        for k, peer in enumerate(reversed(range(nets))):
            n = k + 1
            four = mutual_terms(out[k], mean[peer], batch.label, o.label_smoothing)
            terms |= {f"{name}_{n}": Term(v, shares[name]) for name, v in four._asdict().items()}
            right = out[k].logits.argmax(1) == batch.label
            stats[f"accuracy_{n}"] = right.float().mean()
            stats[f"active_{n}"] = active_triplets(out[k], batch.label)
        return Losses(terms, stats)

    def after_step(self, step: int) -> None:
        """Equation (4)."""
        o = self.options
        momentum = ema_momentum(step, o.ema) if o.ema_ramp else o.ema
        for teacher, student in zip(self.teachers, self.students, strict=True):
            update_ema(teacher, student, momentum, statistics=o.average_statistics)

    def embedder(self) -> ReIDNet:
        """One of the averages."""
        return self.teachers[self.options.keep - 1]

"""AML: Asymmetric Mutual Learning.

Huang, Zhang, Diao, Wu, Zhou. Asymmetric Mutual Learning for Unsupervised Cross-Domain Person
Re-identification. 2021.

Where the equations live
    average of re-ranked distances (3.2)    adapt.clustering.graph.rows.AverageGraph, average_rows
    nearest images, within and across       adapt.clustering.graph.rows.nearest_lists, fill_up
        cameras (3.2)
    (1)-(4) merging of clusters             adapt.clustering.labels.merging.merge_clusters
    (5) triplet loss                        adapt.losses.triplet.margin_triplet
    (6) similarity-weighted triplet loss    the same of adapt.losses.similarity_weighted
                                            .weight_negatives
    (7) similarity to the positives         adapt.losses.similarity_weighted.positive_similarity
    (8) similarity-weighted identity loss   .similarity_weighted_cross_entropy
    (9), (10) their sums                    AML.step
Stage 1, with features of body parts: adapt.methods.source, `parts`.

Departures from the paper (docs/methods/aml.md argues each)
    1. "Density radius 1.6e-3" is read as rho, the share of pairs the radius is the mean of.
    2. Which clusters merge is decided on the original clusters at once; clusters that are
       connected through several pairs become one (transitivity). A chain over half the images
       stops the run.
    3. The re-ranked distance is without the original one (lambda 0): k1 20, k2 6. Where it cannot
       order, because nothing is shared, the original one does.
    4. Without cameras the 18 nearest are listed instead of 3 and 15: people with fewer crops than
       that are merged with strangers.
    5. d and f in (5)-(7) are of the pooled feature before the BN neck, not normalized (f by choice
       of the feature after it, `similarity`); positives and negatives are the hardest of the
       batch; alpha is 0.3.
    6. s_p is a weight, without gradient (`sw_grad`), clamped to [0, 1].
    7. "Until training converges" is a share of the rounds, `weighted_share`.
    8. Clusters are made anew each round; each classifier then starts from its own network's
       normalized cluster centers, and the optimizer anew.
    9. Features are centered per camera before clustering, as for every method here.
   10. The network kept at the end is chosen by `keep`; the paper does not say which it tests.
   13. Images of an identity come from several cameras (`batch.across_cameras`), as in MMT's code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from adapt.clustering.clusterer import Clusterer
from adapt.clustering.graph.jaccard import JaccardGraph
from adapt.clustering.graph.rows import AverageGraph, NearestLists, fill_up, nearest_lists
from adapt.clustering.labels.merging import merge_clusters, refuse_chain
from adapt.config import MethodOptions
from adapt.losses.classification import cross_entropy
from adapt.losses.distance import pairwise_distance
from adapt.losses.similarity_weighted import (
    positive_similarity,
    similarity_weighted_cross_entropy,
    weight_negatives,
)
from adapt.losses.triplet import active_share, margin_triplet, mine_hard_triplets
from adapt.methods.base import ClusteringMethod
from adapt.methods.parts.classifiers import start_from_centers
from adapt.types import Batch, FeatureTable, Losses, PseudoLabels, RoundOf, Term
from models.backbones.net import ReIDNet

ONE_CAMERA_WARNING = (
    "with one camera AML lists the {listed} nearest crops: people with more crops than that are "
    "hardly merged, and where people have fewer, strangers are merged; name the cameras with "
    "--camera-pattern, list fewer (options.merge_cross_camera), or set options.labels=original"
)


class AMLOptions(MethodOptions):
    """Hyper-parameters of AML (section 4.2 of the paper)."""

    labels: Literal["asymmetric", "original", "merged"] = Field(
        "asymmetric", description="one network learns from each kind, or both from one"
    )
    merge_nearest: int = Field(3, ge=1, description="k1 of (1), nearest images of any camera")
    merge_cross_camera: int = Field(15, ge=0, description="k2 of (1), nearest of other cameras")
    merge_threshold: float = Field(0.5, ge=0, lt=1, description="thresh of (3) and (4)")
    weighted_share: float = Field(
        1 / 3, ge=0, le=1, description="share of the rounds, the last ones, trained by (10)"
    )
    lambda_id: float = Field(0.01, ge=0, description="lambda of (9) and (10)")
    margin: float = Field(0.3, ge=0, description="alpha of (5) and (6)")
    beta: float = Field(0.7, gt=0, le=1, description="of (8): an identity loss weighs at most 1/it")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="of the identity loss")
    similarity: Literal["pooled", "neck"] = Field(
        "pooled", description="whose cosine s_p of (7) is: before or after the BN neck"
    )
    sw_grad: bool = Field(False, description="let gradients pass through s_p")
    keep: Literal[1, 2] = Field(1, description="the network that is exported")


class AML(ClusteringMethod[AMLOptions]):
    """Two networks: one learns from clusters, the other from clusters that were merged."""

    Options: ClassVar[type[MethodOptions]] = AMLOptions
    max_students: ClassVar[int] = 2

    def __init__(
        self, students: Sequence[ReIDNet], options: AMLOptions, clusterer: Clusterer
    ) -> None:
        """Start from two source-trained networks. Raises ConfigError for k-means."""
        super().__init__(students, options, clusterer)
        clusterer.require_distances()
        self._weighted = False
        self._figures: dict[str, float] = {}

    def networks(self) -> Mapping[str, ReIDNet]:
        """Both networks."""
        return dict(zip(("theta_1", "theta_2"), self.students, strict=True))

    def relabel(self, table: FeatureTable, when: RoundOf) -> tuple[PseudoLabels, ...]:
        """Cluster the averaged distances, merge clusters; the first set is for theta_1."""
        o = self.options
        self._weighted = when.number >= when.total - round(o.weighted_share * when.total)
        self._figures = {"phase": 2.0 if self._weighted else 1.0}
        graphs = [self.clusterer.graph(f, table.cameras) for f in table.features]
        average = AverageGraph(*graphs)
        original = self.clusterer.label(average)
        if not original.clusters:
            return original, original  # nothing to learn from: the loop stops
        labels = (original, original)
        if o.labels != "original":
            alone = bool((table.cameras == table.cameras[0]).all())
            if alone and when.number == 0:
                warning = ONE_CAMERA_WARNING.format(listed=o.merge_nearest + o.merge_cross_camera)
                original = replace(original, warnings=(*original.warnings, warning))
            lists = self._lists(graphs, average, table.cameras, alone=alone)
            merged = self._merged(original, lists)
            labels = (merged if o.labels == "merged" else original, merged)
        for net, features, own in zip(self.students, table.features, labels, strict=True):
            start_from_centers([net], features, own)
        return labels

    def _lists(
        self,
        graphs: Sequence[JaccardGraph],
        average: AverageGraph,
        cameras: NDArray[np.int64],
        *,
        alone: bool,
    ) -> NearestLists:
        """U(a) of (1); with one camera, as many images as with several."""
        nearest, across = self.options.merge_nearest, self.options.merge_cross_camera
        if alone:
            nearest, across = nearest + across, 0
        lists = nearest_lists(average.rows(1.0), cameras, nearest=nearest, cross_camera=across)
        return fill_up(lists, [graph.features[:] for graph in graphs], cameras)

    def _merged(self, original: PseudoLabels, lists: NearestLists) -> PseudoLabels:
        """Equations (1) to (4)."""
        merging = merge_clusters(original.labels, lists, self.options.merge_threshold)
        refuse_chain(merging)
        self._figures |= {
            "merges": merging.merges,
            "longest_chain": merging.longest_chain,
            "cross_camera_hits": merging.cross_camera_share,
        }
        return replace(original, labels=merging.labels, rule=f"{original.rule}, {merging}")

    def step(self, batches: tuple[Batch, ...]) -> Losses:
        """Equation (9), or (10) in the last rounds, of each network on its own batch."""
        o = self.options
        terms: dict[str, Term] = {}
        stats: dict[str, float | torch.Tensor] = dict(self._figures)
        for n, (net, batch) in enumerate(zip(self.students, batches, strict=True), start=1):
            (view,) = batch.views
            out = net(view)
            dist_BB = pairwise_distance(out.pooled)
            hard = mine_hard_triplets(dist_BB, batch.label)
            compared_BD = out.pooled if o.similarity == "pooled" else out.neck
            similarity_B = positive_similarity(compared_BD, batch.label)
            if not o.sw_grad:
                similarity_B = similarity_B.detach()
            weighted_BB = weight_negatives(dist_BB, hard, similarity_B)
            if self._weighted:
                triplet = margin_triplet(weighted_BB, hard, o.margin)
                identity = similarity_weighted_cross_entropy(
                    out.logits, batch.label, similarity_B, beta=o.beta, smoothing=o.label_smoothing
                )
            else:
                triplet = margin_triplet(dist_BB, hard, o.margin)
                identity = cross_entropy(out.logits, batch.label, o.label_smoothing)
            terms |= {
                f"tri_{n}": Term(triplet, 1.0),
                f"id_{n}": Term(identity, o.lambda_id),
            }
            right = out.logits.argmax(1) == batch.label
            stats[f"accuracy_{n}"] = float(right.float().mean())
            stats[f"similarity_{n}"] = float(similarity_B.detach().mean())
            stats[f"distance_{n}"] = float(dist_BB.detach().mean())
            stats[f"active_{n}"] = active_share(dist_BB, hard, o.margin)
            stats[f"active_weighted_{n}"] = active_share(weighted_BB, hard, o.margin)
        return Losses(terms, stats)

    def state_dict(self) -> Mapping[str, NDArray[Any]]:
        """The clusterer's state, the phase and the figures of this round's merging."""
        figures = {f"figures/{name}": np.array(value) for name, value in self._figures.items()}
        return {**super().state_dict(), "weighted": np.array(self._weighted), **figures}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._weighted = bool(state["weighted"])
        self._figures = {
            name.removeprefix("figures/"): float(value)
            for name, value in state.items()
            if name.startswith("figures/")
        }

    def embedder(self) -> ReIDNet:
        """One of the networks."""
        return self.students[self.options.keep - 1]

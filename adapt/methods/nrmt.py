"""NRMT: Noise Resistible Mutual-Training.

Zhao, Liao, Xie, Zhao, Zhang, Shao. Unsupervised Domain Adaptation with Noise Resistible
Mutual-Training for Person Re-identification. ECCV 2020.

Where the equations live
    (2), (3) collaborative clustering  NRMT.step
    L_tri of (2), (3)                  adapt.losses.selection.selected_triplet
    triplets of a batch                adapt.losses.selection.mine_pairs, mine_hardest
    (4), (5) relation of a triplet     adapt.losses.selection.triplet_gap
    (6), (7) peer confidence           adapt.losses.selection.peer_confident
    (8), (10), (11) disagreement       adapt.losses.selection.disagree
    ours: D in mean distances          adapt.losses.selection.relative_gap
    Algorithm 1                        NRMT.relabel, NRMT.step

Departures from the paper (docs/methods/nrmt.md argues each); no public code is known
    1. HDBSCAN runs on the re-ranked distance, over features that are made per camera and centered
       as in all our methods (`[clustering]`). The paper names neither distance nor space.
    2. A batch gives the triplets of UDAP's code, whose constants the paper shares: each pair of one
       identity with the nearest negative. `options.mining = "hard"` is the other reading.
    3. Triplets are mined under the network that learns; its peer judges the same ones.
    4. Of (9), only the signed forms (10) and (11) are built: (12) and (13) derive them from it.
    5. L_tri averages over the triplets that are kept, not over all that were mined.
    6. Both networks are stepped by one optimizer, from the same features: the two losses share no
       parameter. Its momentum runs on over the rounds, as in UDAP's code.
    7. Clusters and served embeddings stand on the normalized output of the BN neck, like all our
       methods; triplets and thresholds on pooled features, as in the paper.
    8. `options.thresholds = "relative"` measures gaps in mean distances of the batch: T_c and T_d
       were chosen on ResNet-50 and fit no network of another scale.
    9. Two equal networks are refused: they see the same crops, so they would stay equal.
    10. A round of selection that keeps nothing stops the run; the round before is the last.
    15. Images of an identity are of any camera, as in the paper; `batch.across_cameras` is the rule
       of MMT's public code.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from adapt.clustering.clusterer import Clusterer
from adapt.clustering.labels.guards import label_agreement
from adapt.config import MethodOptions
from adapt.errors import ConfigError, NothingLearnedError
from adapt.losses.distance import pairwise_distance
from adapt.losses.selection import (
    Triplets,
    disagree,
    mine_hardest,
    mine_pairs,
    peer_confident,
    relative_gap,
    selected_triplet,
    triplet_gap,
)
from adapt.methods.base import ClusteringMethod
from adapt.types import Batch, FeatureTable, Losses, PseudoLabels, RoundOf, Term
from models.backbones.net import ReIDNet

WARN_KEPT_SHARE = 0.01
"""Share of kept triplets below which a network hardly learns any more."""

ADVICE = (
    "the networks have become alike or the thresholds do not fit their distances: raise "
    "options.confidence, lower options.disagreement, or set options.thresholds to relative"
)


class NRMTOptions(MethodOptions):
    """Hyper-parameters of NRMT (section 4.2 of the paper)."""

    components: Literal["separate", "cc", "cc+sc", "cc+sc+sd"] = Field(
        "cc+sc+sd",
        description="of table 4: peer's labels, selection by confidence, by disagreement",
    )
    confidence: float = Field(1.0, allow_inf_nan=False, description="T_c of (6) and (7)")
    disagreement: float = Field(0.5, ge=0, allow_inf_nan=False, description="T_d of (10) and (11)")
    thresholds: Literal["raw", "relative"] = Field(
        "raw", description="what T_c and T_d are compared with: distances as they are, or scaled"
    )
    reference: float = Field(
        10.0, gt=0, allow_inf_nan=False, description="mean distance of a batch that T_c and T_d fit"
    )
    mining: Literal["pairs", "hard"] = Field("pairs", description="which triplets a batch gives")
    margin: float = Field(0.5, ge=0, allow_inf_nan=False, description="m of the triplet loss")
    keep: Literal[1, 2] = Field(1, description="the network that is exported")


class NRMT(ClusteringMethod[NRMTOptions]):
    """Two networks that learn from the clusters of both and from triplets their peer confirms."""

    Options: ClassVar[type[MethodOptions]] = NRMTOptions
    max_students: ClassVar[int] = 2
    fresh_optimizer = False

    def __init__(
        self, students: Sequence[ReIDNet], options: NRMTOptions, clusterer: Clusterer
    ) -> None:
        """Start from two source-trained networks.

        Raises ConfigError when they are equal.
        """
        super().__init__(students, options, clusterer)
        weights = (net.backbone.parameters() for net in students)
        if all(torch.equal(a, b) for a, b in zip(*weights, strict=True)):
            raise ConfigError(
                "NRMT needs two networks that differ: equal ones stay equal and have nothing to "
                "tell each other; pre-train a second one with another seed and give both"
            )
        # A clusterer keeps what it found in the first round (DBSCAN's radius): one per network.
        self.clusterers = tuple(copy.copy(clusterer) for _ in students)
        self.selecting = False
        self._agreement: dict[str, float] = {}

    def networks(self) -> Mapping[str, ReIDNet]:
        """The networks f and g."""
        return dict(zip(("f", "g"), self.students, strict=True))

    def relabel(self, table: FeatureTable, when: RoundOf) -> tuple[PseudoLabels, ...]:
        """Cluster each network's features; select instances from half time on."""
        self.selecting = "sc" in self.options.components and 2 * when.number >= when.total
        labels = tuple(
            cluster(features, table.cameras)
            for cluster, features in zip(self.clusterers, table.features, strict=True)
        )
        agreement = label_agreement(*(each.labels for each in labels))
        self._agreement = {} if agreement is None else {"agreement_of_nets": agreement}
        return labels

    def step(self, batches: tuple[Batch, ...]) -> Losses:
        """Equations (2) and (3) on a batch of Y_f and one of Y_g, selected by (6) to (11)."""
        o = self.options
        together = o.components != "separate"
        mine = mine_pairs if o.mining == "pairs" else mine_hardest
        dist = {
            (k, s): pairwise_distance(self.students[k](batch.views[0]).pooled)
            for s, batch in enumerate(batches)  # one by one: batch norm never mixes two batches
            for k in (0, 1)
            if together or k == s
        }
        terms: dict[str, Term] = {}
        stats: dict[str, list[float]] = defaultdict(list)
        for (k, s), dist_BB in dist.items():
            n = k + 1
            triplets = mine(dist_BB, batches[s].label)
            gap_T = triplet_gap(dist_BB, triplets)
            kept_T = torch.ones_like(gap_T, dtype=torch.bool)
            if together:
                peer_T = self._measure(dist[1 - k, s], triplets)
                confident_T = peer_confident(peer_T, o.confidence)
                stats[f"confident_{n}"].append(_share(confident_T))
                if self.selecting:
                    kept_T = confident_T
                    if o.components == "cc+sc+sd":
                        own_T = self._measure(dist_BB, triplets)
                        kept_T = kept_T & disagree(own_T, peer_T, o.disagreement)
            whose = "own" if k == s else "peer"
            terms[f"tri_{whose}_{n}"] = Term(selected_triplet(gap_T, kept_T, o.margin), 1.0)
            stats[f"kept_{n}"].append(_share(kept_T))
            stats[f"gap_{n}"].append(float(gap_T.detach().mean()))
            stats[f"active_{n}"].append(_share(gap_T.detach() + o.margin > 0))
        means = {name: float(np.mean(values)) for name, values in stats.items()}
        return Losses(terms, {**means, **self._agreement})

    def after_round(self, figures: Mapping[str, float]) -> Sequence[str]:
        """Warn of a network that kept almost no triplets.

        Raises NothingLearnedError when neither kept any.
        """
        kept = {name: figures[f"kept_{n}"] for n, name in enumerate(self.networks(), start=1)}
        if not any(kept.values()):
            raise NothingLearnedError(f"no triplet was kept in a whole round; {ADVICE}")
        return tuple(
            f"{name} kept {share:.2g} of its triplets; {ADVICE}"
            for name, share in kept.items()
            if share < WARN_KEPT_SHARE
        )

    def state_dict(self) -> Mapping[str, NDArray[Any]]:
        """Both clusterers' radius, whether instances are selected, how alike the labels are."""
        radii = {
            f"{name}_{k}": value
            for k, clusterer in enumerate(self.clusterers)
            for name, value in clusterer.state_dict().items()
        }
        agreement = {name: np.array(value) for name, value in self._agreement.items()}
        return {**radii, "selecting": np.array(self.selecting), **agreement}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state_dict` returned."""
        for k, clusterer in enumerate(self.clusterers):
            own = f"radius_{k}"
            clusterer.load_state_dict({"radius": state[own]} if own in state else {})
        self.selecting = bool(state["selecting"])
        name = "agreement_of_nets"
        self._agreement = {name: float(state[name])} if name in state else {}

    def embedder(self) -> ReIDNet:
        """One of the two; the paper finds them alike."""
        return self.students[self.options.keep - 1]

    def _measure(self, dist_BB: torch.Tensor, triplets: Triplets) -> torch.Tensor:
        """Gaps in the units of the thresholds; selection carries no gradient."""
        dist_BB = dist_BB.detach()
        gap_T = triplet_gap(dist_BB, triplets)
        raw = self.options.thresholds == "raw"
        return gap_T if raw else relative_gap(gap_T, dist_BB, self.options.reference)


def _share(chosen_T: torch.Tensor) -> float:
    return float(chosen_T.float().mean())

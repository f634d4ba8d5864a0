"""DAAL: Domain Adaptive Attention Learning.

Domain Adaptive Attention Learning for Unsupervised Person Re-Identification. AAAI 2020.

Where the equations live
    (1) domain-shared map           models.backbones.net.ReIDNet.feature_map, DAAL.step
    (2) domain-specific map         models.backbones.attention.DomainBranch
    (3) hard loss on the source     adapt.losses.classification.cross_entropy
    (4) soft weights                adapt.clustering.labels.soft_weights.soft_weights
    (5) soft-label loss             adapt.losses.classification.weighted_cross_entropy
    (6) domain loss                 adapt.losses.classification.cross_entropy
    (7) their sum                   DAAL.step
    figure 3                        models.backbones.attention.DomainAttention
    Algorithm 1                     DAAL.relabel, DAAL.step

Departures from the paper (docs/methods/daal.md argues each)
    1. The BN neck of the source-trained network stays: f_sh is what leaves it, in the
       classifiers, in (4), in clustering and in matching. The paper has none.
    2. The attention is not part of pre-training; it starts nearly constant.
    3. Readings of garbled places: C/2 kernels of two channels each in the spatial step, no ReLU
       before the last sigmoid, epsilon of (4) added to the own weight.
    4. (4) takes f_sh and C_k of unit length, and squared distances of at least 1e-3.
    5. Outliers have no identity loss but a domain loss.
    6. Target classifier: cluster centers, anew each round. Source classifier: centers of the
       people's embeddings. Both without bias, scaled by `options.start_logit`.
    7. As many source as target images in a step; the optimizer starts anew each round.
    8. The radius of DBSCAN is found in the first round and kept.
    9. Features are centered per camera before clustering, as in our MMT.
    10. Learning rates drop at epochs 20, 80, 140 and 200 of a round's 260, as we read it.
    11. The last round is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from adapt.clustering.clusterer import Clusterer
from adapt.clustering.labels.centers import cluster_centers
from adapt.clustering.labels.soft_weights import (
    MIN_SQUARED_TO_CENTER,
    one_hot_weights,
    soft_weights,
    weight_figures,
)
from adapt.config import MethodOptions
from adapt.errors import ConfigError
from adapt.losses.classification import cross_entropy, weighted_cross_entropy
from adapt.methods.base import ClusteringMethod
from adapt.methods.parts.attention_watch import AttentionWatch
from adapt.methods.parts.classifiers import classifier_at
from adapt.types import OUTLIER, Batch, FeatureTable, Losses, PseudoLabels, RoundOf, Term
from models.backbones.attention import START, DomainBranch
from models.backbones.net import ReIDNet
from models.wording import plural

HEAVY = 5.0
"""Mean sum of the weights (4) from which on a round is warned of.

They sum to 0.9 + mean(1/d^2), about 1.5 for people who look different (d^2 about 2). At 5 the
site's loss counts five times as much against the other two as labels that sum to 1.
"""


class DAALOptions(MethodOptions):
    """Hyper-parameters of DAAL and the switches of its table 4."""

    labels: Literal["soft", "lsr", "hard"] = Field("soft", description="target labels in (5)")
    epsilon: float = Field(0.9, ge=0, le=1, description="least weight of the own cluster in (4)")
    normalize: bool = Field(False, description="scale the weights of (4) to sum 1")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="of labels = lsr")
    attention: Literal["residual", "independent", "none"] = Field(
        "residual", description="the domain-specific map has 1 - A, an attention of its own, or all"
    )
    attention_start: float = Field(START, gt=0, lt=1, description="A before training")
    start_logit: float = Field(8.0, gt=0, allow_inf_nan=False, description="of new classifiers")
    domain_branch: bool = Field(True, description="domain-specific branch and its loss (6)")
    source: Literal["given", "none"] = Field("given", description="none: degraded, target only")

    def source_wanted(self) -> bool:
        """Without source crops the soft-label loss is all there is."""
        return self.source == "given"

    @model_validator(mode="after")
    def _consistent(self) -> DAALOptions:
        if self.attention == "independent" and not self.domain_branch:
            raise ValueError("attention = independent belongs to the domain branch: switch it on")
        return self


class DAAL(ClusteringMethod[DAALOptions]):
    """One network that attends to what source and target share."""

    Options: ClassVar[type[MethodOptions]] = DAALOptions
    sampling: ClassVar[Literal["identities", "images"]] = "images"
    max_students: ClassVar[int] = 1

    def __init__(
        self, students: Sequence[ReIDNet], options: DAALOptions, clusterer: Clusterer
    ) -> None:
        """Start from one source-trained network; one with attention keeps its own."""
        super().__init__(students, options, clusterer)
        (self.net,) = self.students
        if options.attention == "none" and self.net.attention is not None:
            raise ConfigError("the --init network has an attention: options.attention is not none")
        if options.attention != "none" and self.net.attention is None:
            self.net.add_attention(options.attention_start)
        self.heads = nn.ModuleDict()
        if options.domain_branch and options.source_wanted():
            own = options.attention == "independent"
            self.heads["domain"] = DomainBranch(self.net.dimension, independent=own)
        self._feat_ND = self._center_KD = np.empty((0, self.net.dimension), np.float32)
        self._watch = AttentionWatch()

    def start_source(self, center_KD: NDArray[np.float32]) -> None:
        """Make the classifier of (3)."""
        self.heads["source"] = classifier_at(center_KD, self.net, self.options.start_logit)

    def networks(self) -> Mapping[str, nn.Module]:
        """The shared branch, and the heads with the specific branch, which are not kept."""
        return {"theta": self.net, "heads": self.heads}

    def trained(self) -> Sequence[nn.Module]:
        """Both."""
        return (self.net, self.heads)

    def relabel(self, table: FeatureTable, when: RoundOf) -> tuple[PseudoLabels, ...]:
        """Cluster f_sh; keep it and the centers C_k for equation (4)."""
        (self._feat_ND,) = table.features
        labels = self.clusterer(self._feat_ND, table.cameras)
        self._center_KD = cluster_centers(self._feat_ND, labels.labels, normalize=True)
        start_logit = self.options.start_logit
        self.heads["target"] = classifier_at(self._center_KD, self.net, start_logit)
        return (labels,)

    def step(self, batches: tuple[Batch, ...]) -> Losses:
        """Equation (7), averaged over a batch of both domains that passes the network as one."""
        target, *source = batches
        images = torch.cat([batch.views[0] for batch in batches])
        map_BChw = self.net.trunk(images)
        attention_BChw = None if self.net.attention is None else self.net.attention(map_BChw)
        shared_BChw = map_BChw if attention_BChw is None else attention_BChw * map_BChw
        feat_BD = self.net.from_map(shared_BChw).neck
        size = len(target.label)
        label_B = target.label.cpu().numpy()
        weight_BK = self._weights(target.index.numpy(), label_B)
        stats = weight_figures(weight_BK, label_B)
        logits_BK = self.heads["target"](feat_BD[:size])
        weight = torch.from_numpy(weight_BK).to(logits_BK)
        share = size / len(images)
        terms = {"id_target": Term(weighted_cross_entropy(logits_BK, weight), share)}
        stats |= _accuracy("target", logits_BK, target.label)
        for batch in source:
            logits_BK = self.heads["source"](feat_BD[size:])
            loss = cross_entropy(logits_BK, batch.label, 0.0)
            terms["id_source"] = Term(loss, 1 - share)
            stats |= _accuracy("source", logits_BK, batch.label)
        if "domain" in self.heads:
            logits_B2 = self.heads["domain"](map_BChw, attention_BChw)
            domain_B = (torch.arange(len(images), device=images.device) >= size).long()
            terms["domain"] = Term(cross_entropy(logits_B2, domain_B, 0.0), 1.0)
            stats |= _accuracy("domain", logits_B2, domain_B)
        if attention_BChw is not None:
            stats |= self._watch(attention_BChw)
        return Losses(terms, stats)

    def after_round(self, figures: Mapping[str, float]) -> Sequence[str]:
        """Warn of soft labels that outweigh the other losses."""
        total = figures.get("weight_sum", 0.0)
        if total < HEAVY:
            return ()
        clusters = len(self._center_KD)
        return (
            f"the soft labels of a crop sum to {total:.1f} on average, usual is 1.5: its features "
            f"are on cluster centers, and with {plural(clusters, 'cluster')} a weight reaches "
            f"{1 / (MIN_SQUARED_TO_CENTER * clusters):.0f}, so that the source's loss and the "
            "domain loss hardly count; set options.normalize=true",
        )

    def state_dict(self) -> Mapping[str, NDArray[Any]]:
        """f_sh and C_k of this round, sizes of the classifiers, what was seen of the attention."""
        sizes = {
            f"{name}_classes": np.array(cast(nn.Linear, self.heads[name]).out_features)
            for name in ("source", "target")
            if name in self.heads
        }
        return {
            **super().state_dict(),
            **sizes,
            "features": self._feat_ND,
            "centers": self._center_KD,
            "stuck_steps": np.array(self._watch.stuck_steps),
        }

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state_dict` returned; classifiers get their size, not their weights."""
        super().load_state_dict(state)
        self._feat_ND, self._center_KD = state["features"], state["centers"]
        self._watch.stuck_steps = int(state["stuck_steps"])
        for name in ("source", "target"):
            if f"{name}_classes" in state:
                classes = int(state[f"{name}_classes"])
                self.heads[name] = nn.Linear(self.net.dimension, classes, bias=False)

    def embedder(self) -> ReIDNet:
        """The shared branch."""
        return self.net

    def _weights(
        self, index_B: NDArray[np.int64], label_B: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        o = self.options
        if o.labels != "soft":
            smoothing = o.label_smoothing if o.labels == "lsr" else 0.0
            return one_hot_weights(label_B, len(self._center_KD), smoothing)
        feat_BD = self._feat_ND[index_B]
        return soft_weights(
            feat_BD, self._center_KD, label_B, epsilon=o.epsilon, normalize=o.normalize
        )


def _accuracy(name: str, logits_BK: Tensor, label_B: Tensor) -> dict[str, float]:
    kept = label_B != OUTLIER
    right = (logits_BK.argmax(dim=1) == label_B)[kept]
    return {f"accuracy_{name}": float(right.float().mean())} if len(right) else {}

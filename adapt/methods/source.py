"""Source pre-training: a network learns from labelled crops before any site is seen.

Ge, Chen, Li. Mutual Mean-Teaching. ICLR 2020, section 3.2.1, equation (3):
    L = L_id + lambda L_tri
with the identity loss (1), its labels smoothed, and the triplet loss in its softmax form (6) as
in the public code (the paper prints the margin form (2): `margin`).

Huang et al. Asymmetric Mutual Learning. 2021, section 4.2, stage 1 (`parts`):
    L = L_id + L_id(upper) + L_id(lower) + lambda L_tri
with identity losses of upper- and lower-body features, pooled from the same feature map under
masks, each through a head as in PCB (models.backbones.parts). The heads are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn

from adapt.config import MethodOptions
from adapt.losses.classification import cross_entropy
from adapt.losses.distance import pairwise_distance
from adapt.losses.triplet import (
    active_share,
    margin_triplet,
    mine_hard_triplets,
    softmax_triplet,
)
from adapt.types import Batch, FeatureTable, Losses, PseudoLabels, RoundOf, Term
from models.backbones.net import ReIDNet
from models.backbones.parts import PARTS, PartHeads, cell_masks, half_masks, masked_pool

RGB = 3
"""Channels of an image; body-part masks follow them."""


class SourceOptions(MethodOptions):
    """Hyper-parameters of source pre-training.

    The default classes are those of LIP: hat, hair, glove, sunglasses, upper clothes, dress, coat,
    jumpsuit, scarf, face, arms; and socks, pants, skirt, legs, shoes.
    """

    lambda_tri: float = Field(1.0, ge=0, description="weight of the triplet loss, lambda^s of (3)")
    margin: float = Field(0.0, ge=0, description="of the triplet loss; 0 for its softmax form")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="of the identity loss")
    parts: Literal["none", "halves", "masks"] = Field(
        "none", description="body parts with an identity loss of their own, and where they lie"
    )
    parts_model: str = Field("", description="ONNX human-parsing model, of `masks`")
    upper_classes: tuple[int, ...] = Field(
        (1, 2, 3, 4, 5, 6, 7, 10, 11, 13, 14, 15), min_length=1, description="of that model"
    )
    lower_classes: tuple[int, ...] = Field(
        (8, 9, 12, 16, 17, 18, 19), min_length=1, description="of that model"
    )

    def absolute(self) -> Self:
        """The same with an absolute `parts_model`."""
        if not self.parts_model:
            return self
        return self.model_copy(update={"parts_model": str(Path(self.parts_model).resolve())})

    @model_validator(mode="after")
    def _model_for_masks(self) -> Self:
        if (self.parts == "masks") != bool(self.parts_model):
            raise ValueError("parts = masks and parts_model, an ONNX file, go together")
        if min(*self.upper_classes, *self.lower_classes) < 0:
            raise ValueError("upper_classes and lower_classes must not be negative")
        return self


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
        rule = f"{len(ids)} true identities"
        self.labels = PseudoLabels(labels.astype(np.int64), rule, known=True)
        net.reset_classifier(self.labels.clusters)
        self.heads: PartHeads | None = None
        if options.parts != "none":
            self.heads = PartHeads(net.dimension, self.labels.clusters)

    def networks(self) -> Mapping[str, nn.Module]:
        """The one network, and the heads of its parts."""
        return (
            {"theta": self.net} if self.heads is None else {"theta": self.net, "parts": self.heads}
        )

    def trained(self) -> Sequence[nn.Module]:
        """All of it."""
        return tuple(self.networks().values())

    def extractors(self) -> Sequence[ReIDNet]:
        """None: the labels are known."""
        return ()

    def relabel(self, table: FeatureTable, when: RoundOf) -> tuple[PseudoLabels, ...]:
        """The true identities, every round."""
        return (self.labels,)

    def label_seconds(self) -> Mapping[str, float]:
        """None: there is nothing to find."""
        return {}

    def step(self, batches: tuple[Batch, ...]) -> Losses:
        """Equation (3), with the identity losses of body parts if asked for."""
        o = self.options
        (batch,) = batches
        (view,) = batch.views
        features = self.net.feature_map(view[:, :RGB])
        out = self.net.from_map(features)
        dist_BB = pairwise_distance(out.pooled)
        hard = mine_hard_triplets(dist_BB, batch.label)
        tri = (
            margin_triplet(dist_BB, hard, o.margin) if o.margin else softmax_triplet(dist_BB, hard)
        )
        logits = {"": cast(torch.Tensor, out.logits), **self._part_logits(features, view[:, RGB:])}
        terms = {
            f"id{part}": Term(cross_entropy(each, batch.label, o.label_smoothing), 1.0)
            for part, each in logits.items()
        }
        stats = {
            f"accuracy{part}": (each.argmax(1) == batch.label).float().mean()
            for part, each in logits.items()
        } | {"active": active_share(dist_BB, hard, o.margin)}
        return Losses(terms | {"tri": Term(tri, o.lambda_tri)}, stats)

    def _part_logits(self, features: torch.Tensor, masks: torch.Tensor) -> dict[str, torch.Tensor]:
        """features: (B,C,h,w). masks: (B,2,H,W), moved with their images; (B,0,H,W) for halves."""
        if self.heads is None:
            return {}
        height, width = features.shape[2:]
        cells = (
            cell_masks(masks, height, width)
            if self.options.parts == "masks"
            else half_masks(height, width, like=features)
        )
        found = self.heads(masked_pool(features, cells))
        return {f"_{part}": each for part, each in zip(PARTS, found, strict=True)}

    def after_step(self, step: int) -> None:
        """Nothing follows a step."""

    def after_round(self, figures: Mapping[str, float]) -> Sequence[str]:
        """Nothing to warn of."""
        return ()

    def state_dict(self) -> Mapping[str, NDArray[Any]]:
        """Nothing: the labels are known."""
        return {}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Nothing was kept."""

    def embedder(self) -> ReIDNet:
        """The one network."""
        return self.net

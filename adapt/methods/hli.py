"""HLI: Human Learning Imitation.

Unsupervised Domain Adaptive Person Re-Identification via Human Learning Imitation. 2021.

Where the equations live
    (1) most informative point      models.backbones.cam.class_activation_map,
                                    adapt.losses.imitation.informative_point
        erasing around it (AULM)    adapt.data.batches.transforms.erase_at
    (2) mimic loss (ITBS)           adapt.losses.imitation.mimic_loss
    (3) exploitation loss (ITBS)    adapt.losses.imitation.repel_loss + attract_loss
    (5) relation matrix (ALMS)      adapt.losses.imitation.relation_matrix
    (6) structure distillation      adapt.losses.imitation.structure_loss
    (4), (7) weighted sums          HLI.step
    (7) its four terms of MMT       adapt.losses.mutual.mutual_terms, mutual_weights
    temporal average                adapt.methods.parts.ema.ema_momentum, update_ema

Departures from the paper, numbered as in docs/methods/hli.md, which argues each
    1. One student and its average, as the text says; `peers` = 2 crosses two pairs as MMT does.
    2. A student and its teacher see the two views of a crop, as in MMT's equation (5).
    3. The map is the temporal average's, in eval mode, of the augmented view and the crop's
       cluster, made anew in each step; the paper's is the student's.
    4. The erased box, of no given size, is drawn as in random erasing, of at most a fifth of the
       image. A map without a maximum gives a random point.
    5. "Features" are b(x) of unit length, their squared distances summed over the dimensions.
    6. The repelling half of (3) ends at `bound`: without one, features that are not normalized
       run away.
    7. "Normalized inverse Euclidean distance" is 1/(1 + d); `relation` has two other readings.
    8. The weights listed as "lambda_dis" and "beta = gamma" are lambda_imi and alpha = beta.
    9. A teacher is right where its largest logit is the crop's cluster; empty sets give 0.
    10. What the paper takes over from MMT departs as adapt.methods.mmt does.
    11. The average is kept; the paper does not say which network is.
    12. The randomness of erasing follows from the crops in the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from adapt.clustering.clusterer import Clusterer
from adapt.config import MethodOptions
from adapt.data.batches.transforms import erase_at
from adapt.losses.imitation import (
    Relation,
    attract_loss,
    informative_point,
    mimic_loss,
    repel_loss,
    structure_loss,
)
from adapt.losses.mutual import active_triplets, mutual_terms, mutual_weights
from adapt.methods.base import ClusteringMethod
from adapt.methods.parts.classifiers import start_from_centers
from adapt.methods.parts.ema import ema_momentum, start_averages, update_ema
from adapt.types import Batch, FeatureTable, Losses, PseudoLabels, RoundOf, Term
from models.backbones.cam import class_activation_map
from models.backbones.net import NetOutput, ReIDNet

MOSTLY_FLAT = 0.9
"""Share of flat maps from which on adaptive erasing is random erasing, and a round is warned of."""


class HLIOptions(MethodOptions):
    """Hyper-parameters of HLI (section 4.2.2 of the paper)."""

    peers: Literal[1, 2] = Field(1, description="students, each with its temporal average")
    lambda_id: float = Field(0.5, ge=0, le=1, description="share of the soft identity loss")
    lambda_tri: float = Field(1.0, ge=0, le=1, description="share of the soft triplet loss")
    lambda_imi: float = Field(0.5, ge=0, description="weight of selective imitation")
    alpha: float = Field(0.5, ge=0, description="weight of the mimic loss in it")
    beta: float = Field(0.5, ge=0, description="weight of the exploitation loss in it")
    lambda_sd: float = Field(1.0, ge=0, description="weight of structure distillation")
    features: Literal["unit", "raw"] = Field("unit", description="what is imitated and related")
    bound: float = Field(4.0, gt=0, description="squared distance up to which it repels")
    relation: Relation = Field("inverse", description="element of the relation matrix")
    erase: float = Field(0.4, ge=0, le=1, description="probability of adaptive erasing")
    erase_area_min: float = Field(0.02, gt=0, lt=1, description="least share of the image erased")
    erase_area_max: float = Field(0.2, gt=0, lt=1, description="largest share of the image erased")
    erase_aspect: float = Field(0.3, gt=0, le=1, description="height/width from [this, 1/this]")
    ema: float = Field(0.999, ge=0, lt=1, description="momentum of the temporal average")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="of the identity loss")
    keep: Literal[1, 2] = Field(1, description="the average that is exported")

    @model_validator(mode="after")
    def _fits(self) -> HLIOptions:
        if self.keep > self.peers:
            raise ValueError(f"keep = {self.keep} of {self.peers} peers")
        if self.erase_area_min > self.erase_area_max:
            raise ValueError("erase_area_min must not exceed erase_area_max")
        return self

    def students_wanted(self, max_students: int) -> int:
        """`peers`."""
        return self.peers


class HLI(ClusteringMethod[HLIOptions]):
    """A student that imitates its temporal average where that is right, and avoids it elsewhere."""

    Options: ClassVar[type[MethodOptions]] = HLIOptions
    views: ClassVar[int] = 2
    max_students: ClassVar[int] = 2

    def __init__(
        self, students: Sequence[ReIDNet], options: HLIOptions, clusterer: Clusterer
    ) -> None:
        """Start from source-trained networks, one per peer; their averages start as copies."""
        super().__init__(students, options, clusterer)
        self.teachers = start_averages(students)

    def networks(self) -> Mapping[str, ReIDNet]:
        """theta and its average E, numbered where there are two."""
        numbers = ("",) if self.options.peers == 1 else ("_1", "_2")
        names = [f"{kind}{number}" for kind in ("theta", "E") for number in numbers]
        return dict(zip(names, self.students + self.teachers, strict=True))

    def extractors(self) -> Sequence[ReIDNet]:
        """Their averages."""
        return self.teachers

    def relabel(self, table: FeatureTable, when: RoundOf) -> tuple[PseudoLabels, ...]:
        """Cluster the averages' embeddings (their mean); centers become the classifiers."""
        mean_ND = table.mean()
        labels = self.clusterer(mean_ND, table.cameras)
        start_from_centers(self.students + self.teachers, mean_ND, labels)
        return (labels,)

    def step(self, batches: tuple[Batch, ...]) -> Losses:
        """Equation (7): student k on view k, its teacher on the other view."""
        o = self.options
        (batch,) = batches
        views, stats = self._update_materials(batch)
        out = [net(view) for net, view in zip(self.students, views, strict=False)]
        with torch.no_grad():  # with two peers E_2 teaches theta_1, with one E does
            crossed = zip(reversed(self.teachers), reversed(views), strict=False)
            mean = [net(view) for net, view in crossed]
        shares = mutual_weights(o.lambda_id, o.lambda_tri)
        terms: dict[str, Term] = {}
        for n, (student, teacher) in enumerate(zip(out, mean, strict=True), start=1):
            right_B = teacher.logits.argmax(1) == batch.label
            feat_BD, taught_BD = self._features(student), self._features(teacher)
            four = mutual_terms(student, teacher, batch.label, o.label_smoothing)
            mimic = mimic_loss(feat_BD, taught_BD, right_B)
            repel = repel_loss(feat_BD, taught_BD, right_B, o.bound)
            attract = attract_loss(feat_BD, taught_BD, right_B, batch.label)
            structure = structure_loss(feat_BD, taught_BD, o.relation)
            terms |= {f"{name}_{n}": Term(v, shares[name]) for name, v in four._asdict().items()}
            terms |= {
                f"mim_{n}": Term(mimic, o.lambda_imi * o.alpha),
                f"repel_{n}": Term(repel, o.lambda_imi * o.beta),
                f"attract_{n}": Term(attract, o.lambda_imi * o.beta),
                f"sd_{n}": Term(structure, o.lambda_sd),
            }
            named_B = student.logits.argmax(1) == batch.label
            stats[f"accuracy_{n}"] = named_B.float().mean()
            stats[f"teacher_accuracy_{n}"] = right_B.float().mean()
            stats[f"active_{n}"] = active_triplets(student, batch.label)
        return Losses(terms, stats)

    def after_step(self, step: int) -> None:
        """The temporal average, as in MMT."""
        momentum = ema_momentum(step, self.options.ema)
        for teacher, student in zip(self.teachers, self.students, strict=True):
            update_ema(teacher, student, momentum)

    def after_round(self, figures: Mapping[str, float]) -> Sequence[str]:
        """Warn of maps without a maximum."""
        flat = figures.get("flat_share", 0.0)
        if flat < MOSTLY_FLAT:
            return ()
        return (
            f"{flat:.0%} of the activation maps are flat, so boxes were erased at random: the "
            "images are so small that a map has one cell (pre-train with a larger --height and "
            "--width), or the network is dead (lower optimizer.lr)",
        )

    def embedder(self) -> ReIDNet:
        """One of the averages."""
        return self.teachers[self.options.keep - 1]

    def _features(self, out: NetOutput) -> Tensor:
        """(B, D), so scaled that |.|^2 is a sum over unit vectors or a mean over raw ones."""
        unit = self.options.features == "unit"
        feat_BD: Tensor = (
            F.normalize(out.neck, dim=1) if unit else out.pooled / out.pooled.shape[1] ** 0.5
        )
        return feat_BD

    def _update_materials(self, batch: Batch) -> tuple[list[Tensor], dict[str, float | Tensor]]:
        """Erase where the activation map of each view's average is largest (equation 1)."""
        o = self.options
        if not o.erase:
            return list(batch.views), {}
        generator = _generator_of(batch)
        views, points, flat = [], [], []
        for k, view in enumerate(batch.views):
            height, width = view.shape[2:]
            cam_Bhw = class_activation_map(self.teachers[k % o.peers], view, batch.label)
            point_B2, flat_B = informative_point(cam_Bhw, height, width, generator)
            area = (o.erase_area_min, o.erase_area_max)
            views.append(
                erase_at(
                    view,
                    point_B2,
                    probability=o.erase,
                    area=area,
                    aspect=o.erase_aspect,
                    generator=generator,
                )
            )
            points.append(point_B2 / torch.tensor([height, width]))
            flat.append(flat_B)
        row, column = torch.cat(points).mean(dim=0).tolist()
        changed = torch.stack([(a != b).any(1) for a, b in zip(views, batch.views, strict=True)])
        return views, {
            "peak_row": row,
            "peak_column": column,
            "flat_share": float(torch.cat(flat).float().mean()),
            "erased_share": float(changed.float().mean()),
        }


def _generator_of(batch: Batch) -> torch.Generator:
    """Randomness of one step: follows from the crops drawn for it, so from the run's seed."""
    digest = hashlib.blake2b(batch.index.cpu().numpy().tobytes(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))

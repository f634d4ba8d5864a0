"""Hyper-parameters of a run: frozen, validated whole, built once at the edge.

Leaf functions never see these records; they take plain values. A recipe (`adapt/recipes`) is one
`Recipe` written as TOML; docs/recipes.md lists every field.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator


class _Section(BaseModel):
    """A part of a recipe: immutable, and a field it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Schedule(_Section):
    """How long to train.

    A round extracts features, makes labels and trains `iterations` steps. The papers say epoch.
    """

    rounds: int = Field(40, ge=1)
    iterations: int = Field(400, ge=1, description="steps in one round")
    passes: int = Field(
        0,
        ge=0,
        description="if not 0, this many passes over the clusters (over all crops, where a method "
        "draws images) instead of `iterations`",
    )


class BatchShape(_Section):
    """P x S batches: P identities with S images each."""

    identities: int = Field(16, ge=2, description="P")
    instances: int = Field(4, ge=2, description="S")
    across_cameras: bool = Field(
        True,
        description="the other images of an identity come from other cameras where there are some",
    )
    ghost: int = Field(
        0, ge=0, description="images in a batch-norm group while training; 0: the whole batch"
    )

    @model_validator(mode="after")
    def _in_groups(self) -> BatchShape:
        if self.ghost == 1 or (self.ghost and self.size % self.ghost):
            raise ValueError(
                f"ghost = {self.ghost} cannot divide batches of {self.size} images into groups: "
                "give a divisor of identities x instances from 2 on, or 0"
            )
        return self

    @property
    def size(self) -> int:
        """Images in one batch."""
        return self.identities * self.instances


class Augmentation(_Section):
    """Random changes of a training image, each image on its own (as in MMT)."""

    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    pad: int = Field(10, ge=0, description="zero pixels added on each side before the random crop")
    erase: float = Field(0.5, ge=0, le=1, description="probability of random erasing")
    erase_area_min: float = Field(0.02, gt=0, lt=1, description="minimum share of the image erased")
    erase_area_max: float = Field(0.4, gt=0, lt=1, description="maximum share of the image erased")
    erase_aspect: float = Field(
        0.3, gt=0, le=1, description="height/width drawn from [this, 1/this]"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        if self.erase_area_min > self.erase_area_max:
            raise ValueError("erase_area_min must not exceed erase_area_max")
        return self


class OptimizerSettings(_Section):
    """One optimizer over all trained networks."""

    algorithm: Literal["adam", "sgd"] = "adam"
    lr: float = Field(3.5e-4, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd; adam has its own betas")
    warmup_rounds: int = Field(0, ge=0, description="rounds of linear warm-up from 0.01 lr")
    milestones: tuple[int, ...] = Field((), description="rounds after which lr is multiplied")
    decay: float = Field(0.1, gt=0, le=1, description="factor at each milestone and drop")
    drops: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (), description="shares of each round after which lr is multiplied, anew in each round"
    )
    new_layers: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="factor of lr for layers outside the backbone, which ImageNet's weights lack",
    )


class Compute(_Section):
    """Precision of the networks, and whether they are compiled."""

    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the trunks' matrix products; auto: bfloat16 on a GPU that has it, else "
        "float32",
    )
    compile: bool = Field(False, description="compile the trunks that train with torch.compile")


class Clustering(_Section):
    """How pseudo labels are made from features."""

    algorithm: Literal["kmeans", "dbscan", "hdbscan"] = "kmeans"
    camera_centering: bool | Literal["auto"] = Field(
        "auto",
        description="subtract each camera's mean feature before clustering; auto: where images "
        "of one camera are neighbors more often than by chance",
    )
    camera_statistics: bool = Field(
        True, description="extract each camera's features with its own batch-norm statistics"
    )
    clusters: int | Literal["auto"] = Field(
        "auto", description="K of k-means; auto = N/20 within [P, N/4]"
    )
    k1: int = Field(20, ge=1, description="neighbors of the k-reciprocal sets (dbscan, hdbscan)")
    k2: int = Field(6, ge=1, description="neighbors of the local query expansion (dbscan, hdbscan)")
    variant: Literal["classic", "faiss"] = Field("classic", description="of the Jaccard distance")
    radius: Annotated[float, Field(gt=0, lt=1)] | Literal["auto", "pairs", "rho"] = Field(
        "auto", description="DBSCAN's eps: a number, or the rule that finds it in round 0"
    )
    pairs_per_image: float = Field(
        10.35, gt=0, allow_inf_nan=False, description="of the rule `pairs`"
    )
    rho: float = Field(1.6e-3, gt=0, lt=1, description="of the rule `rho`")
    min_samples: int = Field(
        4, ge=1, description="neighbors of a core point (dbscan: itself included)"
    )
    min_cluster_size: int = Field(8, ge=2, description="minimum images of a cluster (hdbscan)")

    @property
    def smallest_cluster(self) -> int:
        """Images of the smallest cluster to expect; k-means with a given K may leave one image."""
        mean = 4 if self.clusters == "auto" else 1
        smallest = {"kmeans": mean, "dbscan": self.min_samples, "hdbscan": self.min_cluster_size}
        return smallest[self.algorithm]


class Thinning(_Section):
    """Which crops of a track are used; crops without a track all are."""

    difference: float = Field(
        10.0,
        ge=0,
        le=255,
        description="mean difference in gray levels of 255 below which small pictures of two crops "
        "of a track count as near-duplicates; 0: none do",
    )
    per_track: int = Field(10, ge=0, description="maximum crops of a track; 0: all")


class MethodOptions(_Section):
    """Base class of the options of one method; each method file defines its own."""

    def students_wanted(self, max_students: int) -> int:
        """Number of source-trained networks with these options; see `adapt.methods.students_of`."""
        return max_students

    def absolute(self) -> Self:
        """The same with absolute paths, where an option names a file."""
        return self

    def source_wanted(self) -> bool:
        """Whether the method learns from labelled source crops, too, with these options."""
        return False


class Recipe(_Section):
    """All settings of a run, except the data, the seed and the initial networks.

    source: where the values come from (paper and table), for people.
    """

    method: str
    source: str = ""
    schedule: Schedule = Schedule()
    batch: BatchShape = BatchShape()
    augment: Augmentation = Augmentation()
    optimizer: OptimizerSettings = OptimizerSettings()
    compute: Compute = Compute()
    clustering: Clustering = Clustering()
    thinning: Thinning = Thinning()
    options: SerializeAsAny[MethodOptions] = MethodOptions()

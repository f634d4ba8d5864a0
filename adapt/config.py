"""Hyper-parameters of a run: frozen, validated whole, built once at the edge.

Leaf functions never see these records; they take plain values. A recipe (`adapt/recipes`) is one
`Recipe` written as TOML; docs/recipes.md lists every field.
"""

from __future__ import annotations

from typing import Annotated, Literal

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
    """Random changes of a training image, each image on its own (methods.md of the papers: MMT)."""

    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    pad: int = Field(10, ge=0, description="zero pixels added on each side before the random crop")
    erase: float = Field(0.5, ge=0, le=1, description="probability of random erasing")
    erase_area_min: float = Field(0.02, gt=0, lt=1, description="least share of the image erased")
    erase_area_max: float = Field(0.4, gt=0, lt=1, description="largest share of the image erased")
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
        description="factor of lr for layers outside the backbone, new to ImageNet's weights",
    )


class Compute(_Section):
    """In what numbers, and by what code, networks are computed."""

    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the trunks' matrix products; auto: bfloat16 on a GPU that has it, else "
        "float32",
    )
    compile: bool = Field(False, description="let torch.compile make code for training's trunks")


class Clustering(_Section):
    """How pseudo labels are made from features."""

    algorithm: Literal["kmeans", "dbscan", "hdbscan"] = "kmeans"
    camera_centering: bool | Literal["auto"] = Field(
        "auto",
        description="take each camera's mean feature away before clustering; auto: where images "
        "of one camera are neighbors oftener than by chance",
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
    min_cluster_size: int = Field(8, ge=2, description="fewest images of a cluster (hdbscan)")

    @property
    def smallest_cluster(self) -> int:
        """Images below which no cluster is expected; k-means with a K of its own may leave one."""
        mean = 4 if self.clusters == "auto" else 1
        fewest = {"kmeans": mean, "dbscan": self.min_samples, "hdbscan": self.min_cluster_size}
        return fewest[self.algorithm]


class Thinning(_Section):
    """Which crops of a track are enough; crops without a track all stay."""

    difference: float = Field(
        10.0,
        ge=0,
        le=255,
        description="gray levels of 255 by which small pictures of a track's crops have to differ "
        "on average; 0: none are left out as near-duplicates",
    )
    per_track: int = Field(10, ge=0, description="most crops of a track; 0: all")


class MethodOptions(_Section):
    """Base of what one method alone knows; each method file defines its own."""

    def students_wanted(self, most: int) -> int:
        """How many source-trained networks these options leave of the method's `most`."""
        return most

    def source_wanted(self) -> bool:
        """Whether these options let the method learn from labelled source crops, too."""
        return False


class Recipe(_Section):
    """Everything that decides a run, but for the data, the seed and the initial networks.

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

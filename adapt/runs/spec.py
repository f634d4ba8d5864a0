"""The spec of a run: what its user asked for.

A run is decided by its spec, the content of what the spec names (origin: the sha256 of networks and
weights; data: the fingerprints of crops), the versions of libraries and the device. run.json has
all five (`adapt.runs.info.RunInfo`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from adapt.config import Recipe
from adapt.data.catalog.splits import Split
from adapt.errors import ConfigError
from adapt.recipes import parse_recipe
from models.backbones.trunks import BACKBONES
from models.backbones.weights import TORCHVISION
from models.image import Preprocessing

MAX_SEED = 2**32 - 1
"""NumPy's RandomState, which k-means is seeded by, takes no more."""


RunKind = Literal["pretrain", "adapt", "import"]
"""What a run folder holds."""

_OF_A_SITE = ("target", "inits", "camera_pattern", "hold_back")

_NEEDED: Mapping[RunKind, tuple[str, ...]] = {
    "pretrain": ("sources", "backbone", "preprocessing"),
    "adapt": ("target", "inits"),
    "import": ("weights", "backbone", "preprocessing"),
}
_UNUSED: Mapping[RunKind, tuple[str, ...]] = {
    "pretrain": _OF_A_SITE,
    "adapt": ("weights",),
    "import": (*_OF_A_SITE, "sources", "validation", "keep_rounds"),
}


def _to_recipe(value: Recipe | Mapping[str, Any]) -> Recipe:
    """A recipe as it is, or read from JSON with the options of its method."""
    if isinstance(value, Recipe):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("a recipe is a table of sections")
    return parse_recipe(value)


class RunSpec(BaseModel):
    """What was asked for; run.json has it whole.

    kind: `pretrain` on labelled crops, `adapt` to a site's unlabelled crops, or `import` of a
        network that others trained.
    recipe: whole, with every default; an import trains nothing and has that of pre-training.
    recipe_name: its name and what --set changed.
    backbone, preprocessing: of the network. An adaptation takes them from its `inits`, but for the
        decoder, which is the `models.image.DECODER` of its beginning; `open_session` fills them
        in. Other kinds need both.
    weights: what pre-training starts from: a run folder, or see `models.backbones.weights.
        load_weights`; None starts from random numbers. An import needs them.
    inits: run folders of the networks that an adaptation starts from.
    target: the site's crops, see `adapt.data.catalog.folders.read_site`; no identity is read.
    camera_pattern: regular expression that finds the camera in a crop's path.
    hold_back: share of the site's crops to leave out, in [0, 1).
    sources, splits: labelled folders, each once, and which of their parts to learn from.
    validation: labelled set scored after each round, for the curves only.
    keep_rounds: keep the network of every round.

    seed: of all that is drawn, 0 to `MAX_SEED`.

    Raises ConfigError when fields contradict each other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: RunKind
    recipe: Annotated[Recipe, BeforeValidator(_to_recipe)]
    recipe_name: str
    seed: int
    backbone: str | None = None
    preprocessing: Preprocessing | None = None
    weights: str | None = None
    inits: tuple[Path, ...] = ()
    target: Path | None = None
    camera_pattern: str | None = None
    hold_back: float = 0.0
    sources: tuple[Path, ...] = ()
    splits: tuple[Split, ...] = ("train",)
    validation: Path | None = None
    keep_rounds: bool = False

    def model_post_init(self, context: object) -> None:
        """Check what no field can know alone."""
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigError(f"the seed is {self.seed}: give 0 to {MAX_SEED}")
        if self.backbone is not None and self.backbone not in BACKBONES:
            raise ConfigError(
                f"no backbone {self.backbone!r}; choose one of: {', '.join(BACKBONES)}"
            )
        if not 0 <= self.hold_back < 1:
            raise ConfigError(
                f"a share to hold back is in [0, 1), as 0.2 for a fifth, not {self.hold_back}"
            )
        if (self.recipe.method == "source") != (self.kind != "adapt"):
            raise ConfigError(
                f"a recipe of method {self.recipe.method} cannot {self.kind}: pre-training takes "
                "method source, an adaptation any other"
            )
        for name in _NEEDED[self.kind]:
            if not getattr(self, name):
                raise ConfigError(f"a run of {self.kind} needs {name}")
        for name in _UNUSED[self.kind]:
            if getattr(self, name):
                raise ConfigError(f"a run of {self.kind} takes no {name}")

    @property
    def known_backbone(self) -> str:
        """`backbone` of a complete spec; only an adaptation that nobody opened has none.

        Raises ValueError.
        """
        if self.backbone is None:
            raise ValueError("spec.backbone is missing")
        return self.backbone

    @property
    def known_preprocessing(self) -> Preprocessing:
        """`preprocessing` of a complete spec; raises as `known_backbone`."""
        if self.preprocessing is None:
            raise ValueError("spec.preprocessing is missing")
        return self.preprocessing

    def absolute(self) -> RunSpec:
        """The same with absolute paths, the recipe's too, to be read from another folder.

        `weights` stay as they are where they name no file (`TORCHVISION`).
        """
        options = self.recipe.options.absolute()
        weights = self.weights
        if weights is not None and weights != TORCHVISION:
            weights = str(Path(weights).resolve())
        return self.changed(
            recipe=self.recipe.model_copy(update={"options": options}),
            weights=weights,
            inits=tuple(path.resolve() for path in self.inits),
            target=self.target and self.target.resolve(),
            sources=tuple(path.resolve() for path in self.sources),
            validation=self.validation and self.validation.resolve(),
        )

    def changed(self, **fields: object) -> RunSpec:
        """The same with other values of some fields. Raises ConfigError as for a new spec."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return RunSpec.model_validate(values | fields)

    def recipe_hash(self) -> str:
        """sha256 of the recipe's JSON, whatever the order of its fields."""
        written = self.recipe.model_dump(mode="json")
        return hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()

"""What adaptation and its plan begin with: crops read and judged, networks loaded, method built."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from adapt.clustering.clusterer import Clusterer
from adapt.config import Recipe
from adapt.data.catalog.folders import read_labelled, read_site
from adapt.data.catalog.holdback import without_held_back
from adapt.data.catalog.minimum import check_amount
from adapt.data.catalog.sources import merge_sources, refuse_twice
from adapt.data.catalog.splits import Split
from adapt.data.decoding.decode import CropAllocator, DecodedCrops, allocate_crops
from adapt.data.decoding.loading import load_crops
from adapt.data.decoding.run_crops import RunCrops
from adapt.data.decoding.thinning import thin_crops
from adapt.errors import ConfigError, RunError
from adapt.evaluation.scoring import LabelledCrops
from adapt.methods import METHODS, SiteMethod, SourceMethod
from adapt.runs.folder import SOURCE_CROPS, TARGET_CROPS, Run
from adapt.types import CropSet, FloatAllocator
from models.backbones.net import ReIDNet
from models.image import Preprocessing

log = logging.getLogger("resight")


@dataclass(frozen=True)
class PreparedSite:
    """All that adaptation needs, before its first step.

    inits: the runs that the method's networks come from. data: the site's crops, thinned.
    source: labelled crops, where the method learns from some. labelled: for the curves.
    """

    method: SiteMethod
    inits: tuple[Run, ...]
    data: DecodedCrops
    source: DecodedCrops | None
    labelled: LabelledCrops | None


def prepare(
    target: Path,
    *,
    camera_pattern: str | None,
    hold_back: float = 0.0,
    inits: Sequence[Path],
    recipe: Recipe,
    clusterer: Clusterer,
    sources: Sequence[Path] = (),
    splits: Sequence[Split] = ("train",),
    validation: Path | None = None,
    crops: RunCrops,
) -> PreparedSite:
    """Read a site and everything that is adapted to it; nothing that it writes has a name.

    What refuses a run is checked as early as it can be known, crops that are too few before
    any is opened. Args, errors: those of `adapt.workflows.training.adapt`. crops: where its
    crops are decoded.
    """
    runs = tuple(Run.open(path) for path in inits)
    listing = list_site(target, camera_pattern, hold_back)
    _check_amount(listing, recipe)
    method_type = METHODS[recipe.method]
    nets = _students(runs, recipe.options.students_wanted(method_type.students_wanted))
    method = method_type(nets, recipe.options, clusterer)
    if len(runs) < len(nets):
        log.warning(
            "one --init for %d networks: they start equal; pre-train a second seed for the full "
            "method",
            len(nets),
        )
    _check_sources(method, recipe, sources)
    preprocessing = runs[0].info.preprocessing
    data = read_target(listing, recipe, preprocessing, crops)
    for warning in _check_amount(data.crops, recipe):
        log.warning("%s", warning)
    source = None
    if sources and isinstance(method, SourceMethod):
        source = read_sources(sources, splits, preprocessing, crops)
    if len({run.network_hash() for run in runs}) < len(runs):
        log.warning("two --init runs hold the same network; give two that differ by their seed")
    return PreparedSite(method, runs, data, source, read_validation(validation, preprocessing))


def list_site(target: Path, camera_pattern: str | None, hold_back: float) -> CropSet:
    """A site's crops but for the share that is held back (`adapt.data.catalog.holdback`)."""
    return without_held_back(read_site(target, camera_pattern), hold_back)


def read_crops(
    listing: CropSet,
    recipe: Recipe,
    preprocessing: Preprocessing,
    allocate: CropAllocator = allocate_crops,
) -> DecodedCrops:
    """A site's crops as they are learned from: decoded, in no telling order, thinned."""
    return thin_crops(
        load_crops(listing, preprocessing, forget_names=True, allocate=allocate),
        difference=recipe.thinning.difference,
        per_track=recipe.thinning.per_track,
    )


def read_target(
    listing: CropSet, recipe: Recipe, preprocessing: Preprocessing, crops: RunCrops
) -> DecodedCrops:
    """`read_crops` for a run."""
    decode = partial(read_crops, listing, recipe, preprocessing)
    return crops.read(TARGET_CROPS, listing, made_by(preprocessing, recipe), decode)


def site_clusterer(
    recipe: Recipe, seed: int, device: torch.device, allocate: FloatAllocator
) -> Clusterer:
    """Clusters as the recipe says, on the device if it is a GPU. allocate: see `Clusterer`."""
    return Clusterer(
        recipe.clustering,
        identities_per_batch=recipe.batch.identities,
        seed=seed,
        device=None if device.type == "cpu" else device,
        allocate=allocate,
    )


def read_sources(
    sources: Sequence[Path],
    splits: Sequence[Split],
    preprocessing: Preprocessing,
    crops: RunCrops,
) -> DecodedCrops:
    """Labelled folders, each once, as one decoded set for a run."""
    refuse_twice(sources)
    listing = merge_sources([read_labelled(root, splits) for root in sources])
    return crops.read(
        SOURCE_CROPS,
        listing,
        made_by(preprocessing),
        lambda allocate: load_crops(listing, preprocessing, allocate=allocate),
    )


def made_by(preprocessing: Preprocessing, recipe: Recipe | None = None) -> dict[str, Any]:
    """What decoded crops follow from besides the files. recipe: of a site's, which is thinned."""
    thinning = None if recipe is None else recipe.thinning.model_dump()
    return {"preprocessing": preprocessing.model_dump(mode="json"), "thinning": thinning}


def read_validation(root: Path | None, preprocessing: Preprocessing) -> LabelledCrops | None:
    """The labelled set for the curves, if there is one."""
    return None if root is None else LabelledCrops.read(root, preprocessing)


def _check_amount(crops: CropSet, recipe: Recipe) -> tuple[str, ...]:
    return check_amount(
        crops,
        identities=recipe.batch.identities,
        instances=recipe.batch.instances,
        smallest_cluster=recipe.clustering.smallest_cluster,
        by_identity=METHODS[recipe.method].sampling == "identities",
    )


def _check_sources(method: SiteMethod, recipe: Recipe, sources: Sequence[Path]) -> None:
    """Raise ConfigError unless source crops are given where they are used, and only there."""
    name, wanted = recipe.method, recipe.options.source_wanted()
    if wanted and not sources:
        raise ConfigError(
            f"{name} learns from labelled source crops, too: give --source, the folder that the "
            "--init network was pre-trained on; without one, --set options.source=none"
        )
    if sources and not wanted:
        why = "options.source is none" if isinstance(method, SourceMethod) else "it uses none"
        raise ConfigError(f"--source is given, but {name} learns from no source crops: {why}")
    if isinstance(method, SourceMethod) and not wanted:
        log.warning(
            "%s without source crops is a degraded mode: only its losses on the site are left", name
        )


def _students(runs: Sequence[Run], wanted: int) -> list[ReIDNet]:
    if not 1 <= len(runs) <= wanted:
        most = f"1 to {wanted} networks" if wanted > 1 else "1 network"
        raise RunError(f"this method starts from {most}, --init gave {len(runs)}")
    kinds = {(run.info.backbone, run.info.attention, run.info.preprocessing) for run in runs}
    if len(kinds) > 1:
        raise RunError(
            "the --init runs differ in backbone, attention or input size; pre-train them alike"
        )
    nets = [run.network() for run in runs]
    return [nets[i] if i < len(nets) else copy.deepcopy(nets[0]) for i in range(wanted)]

"""From a spec to what is trained: crops read and judged, networks loaded, the method built.

`open_session` is the only way in which a run comes to be, be it new, resumed or only planned.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch

from adapt.clustering.clusterer import Clusterer
from adapt.config import Recipe
from adapt.data.catalog.folders import read_labelled, read_site
from adapt.data.catalog.holdback import without_held_back
from adapt.data.catalog.minimum import check_amount
from adapt.data.catalog.sources import merge_sources, refuse_twice, warn_of_copies
from adapt.data.decoding.decode import CropAllocator, DecodedCrops, allocate_crops
from adapt.data.decoding.loading import load_crops
from adapt.data.decoding.part_masks import PartParser, with_part_masks
from adapt.data.decoding.run_crops import RunCrops
from adapt.data.decoding.thinning import thin_crops
from adapt.errors import ConfigError, DataError, RunError
from adapt.evaluation.scoring import LabelledCrops
from adapt.methods import METHODS, Source, SourceMethod, students_of
from adapt.methods.source import SourceOptions
from adapt.runs.folder import SOURCE_CROPS, TARGET_CROPS, Run, refuse_taken_run
from adapt.runs.info import DataInfo, Origin, RunInfo
from adapt.runs.spec import RunSpec
from adapt.runtime.context import RunContext
from adapt.runtime.disk_arrays import Scratch
from adapt.training.loop import TrainingSession
from adapt.types import CropSet, FloatAllocator
from models.backbones.net import ReIDNet
from models.backbones.trunks import refuse_small_images
from models.backbones.weights import load_weights, weights_file
from models.files import sha256_file
from models.image import Preprocessing

log = logging.getLogger("resight")


@dataclass(frozen=True, kw_only=True)
class Session(TrainingSession):
    """All that a run needs before its first step.

    spec: whole, with the backbone and pre-processing of the networks.
    labelled: scored after each round, for the curves.
    origin, data_info: what run.json says of the networks and of the crops.
    crops: the decoded crops, to be kept in the run folder.
    """

    spec: RunSpec
    labelled: LabelledCrops | None
    origin: Origin
    data_info: tuple[DataInfo, ...]
    crops: RunCrops


def open_session(
    spec: RunSpec,
    context: RunContext,
    folder: Path,
    *,
    begun: RunInfo | None = None,
    clusterer: Clusterer | None = None,
) -> Session:
    """Read all that a spec names and build its method; writes nothing that has a name.

    What refuses a run is checked as early as it can be known, crops that are too few before
    any is opened.

    Args:
        spec: what to do.
        context: every process of its group opens the same session.
        folder: run folder; crops are decoded on its disk. It need not exist.
        begun: of a run to be resumed. Its networks then are empty, to be filled from the
            checkpoint, and its crops must not have changed.
        clusterer: in place of the recipe's.

    Raises:
        DataError, ConfigError, RunError, WeightsError: what is read cannot be used, or the folder
            is taken.
    """
    batch = spec.recipe.batch
    context.group.refuse_uneven(batch.size, batch.ghost)
    if begun is None:
        if context.group.is_main:
            refuse_taken_run(folder)
        torch.manual_seed(spec.seed)
    crops = RunCrops(folder, context.group)
    if spec.kind == "pretrain":
        return _open_pretraining(spec, crops, begun)
    if clusterer is None:
        clusterer = site_clusterer(spec, context.device, Scratch(folder).table)
    return _open_adaptation(spec, crops, clusterer, begun)


def _open_pretraining(spec: RunSpec, crops: RunCrops, begun: RunInfo | None) -> Session:
    options = cast(SourceOptions, spec.recipe.options)
    if begun is None:
        net, weights, learned = _initial_network(spec)
    else:
        net, weights, learned = ReIDNet(begun.backbone), begun.origin.weights, ()
    parser, parser_hash = _part_parser(options)
    if begun is not None and parser_hash != begun.origin.parser:
        raise RunError(
            f"{options.parts_model} is another model than the run began with; restore it"
        )
    data = _read_sources(spec, crops)
    _refuse_changed(begun, data, "source")
    source_info = DataInfo.of(data.crops, "source")
    if parser is not None:
        data = with_part_masks(data, parser)
    labelled = _read_validation(spec)
    return Session(
        method=Source(net, options, data.crops.persons),
        data=data,
        spec=spec,
        labelled=labelled,
        origin=Origin(weights=weights, parser=parser_hash),
        data_info=(source_info, *learned, *_validation_infos(labelled)),
        crops=crops,
    )


@dataclass(frozen=True)
class _Start:
    """What an adaptation starts or continues from.

    spec: complete. listing: the site's crops, not yet opened.
    learned: labelled crops that the networks were pre-trained on.
    """

    spec: RunSpec
    networks: list[ReIDNet]
    origin: Origin
    learned: tuple[DataInfo, ...]
    listing: CropSet


def _new_start(spec: RunSpec) -> _Start:
    """The networks of the `inits`, and the decoder of new runs, whatever the `inits` decoded by.

    Raises unless the site has enough crops for the recipe.
    """
    runs = [Run.open(path) for path in spec.inits]
    networks = _students(runs, students_of(spec.recipe))
    first = runs[0].info
    preprocessing = first.preprocessing.with_new_decoder()
    spec = spec.changed(backbone=first.backbone, preprocessing=preprocessing)
    listing = list_site(spec)
    _check_amount(listing, spec.recipe)
    hashes = tuple(run.network_hash() for run in runs)
    learned = tuple(info for run in runs for info in run.info.data if info.role == "source")
    return _Start(spec, networks, Origin(inits=hashes), learned, listing)


def _resumed_start(spec: RunSpec, begun: RunInfo) -> _Start:
    """Networks to be filled from the checkpoint."""
    wanted = students_of(spec.recipe)
    networks = [ReIDNet(begun.backbone, attention=begun.attention) for _ in range(wanted)]
    learned = tuple(info for info in begun.data if info.role == "source")
    return _Start(spec, networks, begun.origin, learned, list_site(spec))


def _open_adaptation(
    spec: RunSpec, crops: RunCrops, clusterer: Clusterer, begun: RunInfo | None
) -> Session:
    start = _new_start(spec) if begun is None else _resumed_start(spec, begun)
    spec, recipe = start.spec, start.spec.recipe
    method = METHODS[recipe.method](start.networks, recipe.options, clusterer)
    if begun is None:  # not before: the method may refuse the number of networks
        _warn_of_inits(start.origin.inits, len(start.networks))
    learns_source = isinstance(method, SourceMethod)
    _check_sources(spec, learns_source)
    preprocessing = spec.known_preprocessing
    decode = partial(read_crops, start.listing, recipe, preprocessing)
    data = crops.read(TARGET_CROPS, start.listing, made_by(preprocessing, recipe), decode)
    _check_target(begun, data, recipe)
    source, learned = None, start.learned
    if spec.sources:
        source = _read_sources(spec, crops)
        _refuse_changed(begun, source, "source")
        learned = (*learned, DataInfo.of(source.crops, "source"))
    labelled = _read_validation(spec)
    return Session(
        method=method,
        data=data,
        source=source,
        spec=spec,
        labelled=labelled,
        origin=start.origin,
        data_info=(
            DataInfo.of(data.crops, "target"),
            *{info.fingerprint: info for info in learned}.values(),
            *_validation_infos(labelled),
        ),
        crops=crops,
    )


def list_site(spec: RunSpec) -> CropSet:
    """The site's crops but for the share that is held back (`adapt.data.catalog.holdback`)."""
    listing = read_site(cast(Path, spec.target), spec.camera_pattern)
    return without_held_back(listing, spec.hold_back)


def read_crops(
    listing: CropSet,
    recipe: Recipe,
    preprocessing: Preprocessing,
    allocate: CropAllocator = allocate_crops,
) -> DecodedCrops:
    """A site's crops as they are learned from: decoded, ordered by content, thinned.

    allocate: makes the array for the pixels.
    """
    return thin_crops(
        load_crops(listing, preprocessing, forget_names=True, allocate=allocate),
        difference=recipe.thinning.difference,
        per_track=recipe.thinning.per_track,
    )


def site_clusterer(spec: RunSpec, device: torch.device, allocate: FloatAllocator) -> Clusterer:
    """Clusters as the recipe says, on the device if it is a GPU. allocate: see `Clusterer`."""
    return Clusterer(
        spec.recipe.clustering,
        identities_per_batch=spec.recipe.batch.identities,
        seed=spec.seed,
        device=None if device.type == "cpu" else device,
        allocate=allocate,
    )


def _read_sources(spec: RunSpec, crops: RunCrops) -> DecodedCrops:
    """Labelled folders, each once, as one decoded set for a run."""
    preprocessing = spec.known_preprocessing
    refuse_twice(spec.sources)
    listing = merge_sources([read_labelled(root, spec.splits) for root in spec.sources])
    if len(spec.sources) > 1:
        warn_of_copies(listing)
    return crops.read(
        SOURCE_CROPS,
        listing,
        made_by(preprocessing),
        lambda allocate: load_crops(listing, preprocessing, allocate=allocate),
    )


def made_by(preprocessing: Preprocessing, recipe: Recipe | None = None) -> dict[str, Any]:
    """What decides decoded crops besides the files. recipe: of a site, whose crops are thinned."""
    thinning = None if recipe is None else recipe.thinning.model_dump()
    return {"preprocessing": preprocessing.model_dump(mode="json"), "thinning": thinning}


def _read_validation(spec: RunSpec) -> LabelledCrops | None:
    if spec.validation is None:
        return None
    labelled = LabelledCrops.read(spec.validation, spec.known_preprocessing)
    try:
        labelled.check("market")
    except DataError as error:
        raise DataError(
            f"{error}; for a run leave out --validation, and score its network with `evaluate`"
        ) from None
    return labelled


def _validation_infos(labelled: LabelledCrops | None) -> list[DataInfo]:
    if labelled is None:
        return []
    sets = [labelled.query]
    if labelled.gallery is not labelled.query:
        sets.append(labelled.gallery)
    return [DataInfo.of(data.crops, "validation") for data in sets]


def _refuse_changed(
    begun: RunInfo | None, data: DecodedCrops, role: Literal["source", "target"]
) -> None:
    """Raise RunError unless a resumed run finds the crops that it began with."""
    if begun is None:
        return
    known = {each.fingerprint for each in begun.data if each.role == role}
    if data.crops.fingerprint not in known:
        raise RunError(
            f"the crops below {data.crops.root} are not those that the run began with: restore "
            "them, or start a new run"
        )


def _check_target(begun: RunInfo | None, data: DecodedCrops, recipe: Recipe) -> None:
    """Refuse too few crops of a new run, and other crops than a resumed one began with."""
    if begun is not None:
        _refuse_changed(begun, data, "target")
        return
    for warning in _check_amount(data.crops, recipe):
        log.warning("%s", warning)


def _check_amount(crops: CropSet, recipe: Recipe) -> tuple[str, ...]:
    return check_amount(
        crops,
        identities=recipe.batch.identities,
        instances=recipe.batch.instances,
        smallest_cluster=recipe.clustering.smallest_cluster,
        by_identity=METHODS[recipe.method].sampling == "identities",
    )


def _check_sources(spec: RunSpec, learns_source: bool) -> None:
    """Raise ConfigError unless source crops are given where they are used, and only there."""
    name, wanted = spec.recipe.method, spec.recipe.options.source_wanted()
    if wanted and not spec.sources:
        raise ConfigError(
            f"{name} learns from labelled source crops, too: give --source, the folder that the "
            "--init network was pre-trained on; without one, --set options.source=none"
        )
    if spec.sources and not wanted:
        why = "options.source is none" if learns_source else "it uses none"
        raise ConfigError(f"--source is given, but {name} learns from no source crops: {why}")
    if learns_source and not wanted:
        log.warning(
            "%s without source crops is a degraded mode: only its losses on the site are left", name
        )


def _students(runs: Sequence[Run], wanted: int) -> list[ReIDNet]:
    if not 1 <= len(runs) <= wanted:
        allowed = f"1 to {wanted} networks" if wanted > 1 else "1 network"
        raise RunError(f"this method starts from {allowed}, --init gave {len(runs)}")
    first = runs[0].info
    alike = all(
        (run.info.backbone, run.info.attention) == (first.backbone, first.attention)
        and run.info.preprocessing.fits(first.preprocessing)
        for run in runs
    )
    if not alike:
        raise RunError(
            "the --init runs differ in backbone, attention or input size; pre-train them alike"
        )
    nets = [run.network() for run in runs]
    return [nets[i] if i < len(nets) else copy.deepcopy(nets[0]) for i in range(wanted)]


def _warn_of_inits(hashes: Sequence[str], wanted: int) -> None:
    if len(hashes) < wanted:
        log.warning(
            "one --init for %d networks: they start equal; pre-train a second seed for the full "
            "method",
            wanted,
        )
    if len(set(hashes)) < len(hashes):
        log.warning("two --init runs hold the same network; give two that differ by their seed")


def _part_parser(options: SourceOptions) -> tuple[PartParser | None, str]:
    """The model that finds body parts and its sha256; none unless `parts = masks`."""
    if options.parts != "masks":
        return None, ""
    path = Path(options.parts_model)
    parser = PartParser(path, (options.upper_classes, options.lower_classes))
    return parser, sha256_file(path)


def _initial_network(spec: RunSpec) -> tuple[ReIDNet, str, tuple[DataInfo, ...]]:
    """The network that pre-training starts from, sha256 of its weights, what it learned from.

    Raises RunError when a run's network is of another architecture, BackboneError when the
    images are too small for it.
    """
    weights, backbone = spec.weights, spec.known_backbone
    size = spec.known_preprocessing
    refuse_small_images(backbone, size.height, size.width)
    if weights is not None and Run.is_at(Path(weights)):
        run = Run.open(Path(weights))
        if run.info.backbone != backbone or run.info.attention:
            kind = run.info.backbone + (" with attention" if run.info.attention else "")
            raise RunError(f"{weights} is a {kind}, not a {backbone}; choose one architecture")
        learned = tuple(d for d in run.info.data if d.role != "validation")
        return run.network(), run.network_hash(), learned
    net = ReIDNet(backbone)
    if weights is None:
        return net, "", ()
    log.info("%s", load_weights(net, weights))
    return net, weights_hash(backbone, weights), ()


def weights_hash(backbone: str, source: str) -> str:
    """sha256 of the file behind `RunSpec.weights`, once it is loaded."""
    return sha256_file(weights_file(backbone, source))

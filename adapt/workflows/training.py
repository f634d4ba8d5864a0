"""Whole runs: pre-train on source sets, adapt to a site. Data in, run folder out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from adapt.clustering.labels.centers import cluster_centers
from adapt.config import Recipe
from adapt.data.catalog.splits import Split
from adapt.data.decoding.decode import DecodedCrops
from adapt.data.decoding.part_masks import PartParser, with_part_masks
from adapt.data.decoding.run_crops import RunCrops
from adapt.errors import RunError
from adapt.evaluation.scoring import LabelledCrops
from adapt.methods import Source, SourceMethod
from adapt.methods.source import SourceOptions
from adapt.runs.checkpoints import StopRequest
from adapt.runs.folder import Run, refuse_taken
from adapt.runs.info import DataInfo, Inputs, RunInfo, WeightsInfo, library_versions
from adapt.runtime.disk_arrays import Scratch
from adapt.runtime.distributed import ProcessGroup
from adapt.runtime.progress import progress
from adapt.training.extraction import extract
from adapt.workflows.fit import Machine, fit
from adapt.workflows.session import (
    prepare,
    read_sources,
    read_validation,
    site_clusterer,
)
from models.backbones.net import ReIDNet
from models.backbones.weights import load_weights
from models.files import sha256_file
from models.image import Preprocessing

log = logging.getLogger("resight")


def pretrain(
    sources: Sequence[Path],
    *,
    splits: Sequence[Split],
    backbone: str,
    weights: str | None,
    preprocessing: Preprocessing,
    recipe: Recipe,
    recipe_name: str,
    out: Path,
    machine: Machine,
    validation: Path | None = None,
    stop: StopRequest | None = None,
) -> Run:
    """Train one network on labelled crops.

    sources: labelled folders (`read_labelled`), each once; identities of different folders are
    different people.
    splits: which of their parts to learn from. weights: a run folder, whose network is trained
    on, or see `load_weights`; None starts from random numbers. validation: labelled set scored
    after each round, for the curves only.
    A recipe with `parts = masks` has every crop parsed once, before training.
    Raises DataError, ConfigError, RunError, WeightsError.
    """
    _check_start(out, recipe, machine.group)
    torch.manual_seed(machine.seed)
    net, start, learned = _start(backbone, weights)
    options = cast(SourceOptions, recipe.options)
    parser, parsing = part_parser(options)
    crops = RunCrops(out, machine.group)
    data = read_sources(sources, splits, preprocessing, crops)
    if parser is not None:
        data = with_part_masks(data, parser)
    method = Source(net, options, data.crops.persons)
    labelled = read_validation(validation, preprocessing)
    info = _describe(
        "pretrain",
        recipe,
        recipe_name,
        machine,
        backbone=backbone,
        preprocessing=preprocessing,
        weights=start,
        parsing=parsing,
        init=(),
        data=(DataInfo.of(data.crops, "source"), *learned, *_validation_infos(labelled)),
        inputs=_inputs(None, sources, splits, validation),
    )
    run = _start_run(out, info, machine.group)
    crops.keep()
    return fit(run, method, data, recipe, machine, labelled, stop=stop)


def adapt(
    target: Path,
    *,
    camera_pattern: str | None,
    inits: Sequence[Path],
    recipe: Recipe,
    recipe_name: str,
    out: Path,
    machine: Machine,
    sources: Sequence[Path] = (),
    splits: Sequence[Split] = ("train",),
    validation: Path | None = None,
    keep_rounds: bool = False,
    stop: StopRequest | None = None,
    hold_back: float = 0.0,
) -> Run:
    """Adapt source-trained networks to the unlabelled crops of a site.

    target: see `adapt.data.catalog.folders.read_site`; no identity is read. inits: run folders of
    one architecture and input size. sources, splits: labelled crops as in `pretrain`, for a method
    that learns from them, too. validation: labelled set scored after each round, for the
    curves only; nothing is chosen by it. keep_rounds: keep the network of every round. hold_back:
    share of the crops to leave out, in [0, 1), see `adapt.data.catalog.holdback`.
    Raises DataError, ClusteringError, ConfigError, RunError.
    """
    _check_start(out, recipe, machine.group)
    torch.manual_seed(machine.seed)
    crops = RunCrops(out, machine.group)
    site = prepare(
        target,
        camera_pattern=camera_pattern,
        hold_back=hold_back,
        inits=inits,
        recipe=recipe,
        clusterer=site_clusterer(recipe, machine.seed, machine.device, Scratch(out).table),
        sources=sources,
        splits=splits,
        validation=validation,
        crops=crops,
    )
    source = site.source
    if source is not None and isinstance(site.method, SourceMethod):
        _start_source(site.method, source, machine)
    learned = [d for run in site.inits for d in run.info.data if d.role == "source"]
    if source is not None:
        learned.append(DataInfo.of(source.crops, "source"))
    first = site.inits[0].info
    info = _describe(
        "adapt",
        recipe,
        recipe_name,
        machine,
        backbone=first.backbone,
        attention=site.method.embedder().attention is not None,
        preprocessing=first.preprocessing,
        camera_pattern=camera_pattern,
        hold_back=hold_back,
        init=tuple(run.network_hash() for run in site.inits),
        data=(
            DataInfo.of(site.data.crops, "target"),
            *{d.fingerprint: d for d in learned}.values(),
            *_validation_infos(site.labelled),
        ),
        inputs=_inputs(target, sources, splits, validation),
        keep_rounds=keep_rounds,
    )
    run = _start_run(out, info, machine.group)
    crops.keep()
    return fit(
        run,
        site.method,
        site.data,
        recipe,
        machine,
        site.labelled,
        source,
        stop=stop,
    )


def _inputs(
    target: Path | None,
    sources: Sequence[Path],
    splits: Sequence[Split],
    validation: Path | None,
) -> Inputs:
    return Inputs(
        target="" if target is None else str(target.resolve()),
        sources=tuple(str(root.resolve()) for root in sources),
        splits=tuple(splits),
        validation="" if validation is None else str(validation.resolve()),
    )


def part_parser(options: SourceOptions) -> tuple[PartParser | None, WeightsInfo | None]:
    """The model that finds body parts, and which one it is; none unless `parts = masks`."""
    if options.parts != "masks":
        return None, None
    path = Path(options.parts_model)
    parser = PartParser(path, (options.upper_classes, options.lower_classes))
    return parser, WeightsInfo(source=str(path), sha256=sha256_file(path))


def _start(
    backbone: str, weights: str | None
) -> tuple[ReIDNet, WeightsInfo | None, tuple[DataInfo, ...]]:
    """The network that pre-training starts from, where its weights are from, what it learned from.

    Raises RunError when a run's network is of another architecture.
    """
    if weights is not None and (Path(weights) / "run.json").is_file():
        run = Run.open(Path(weights))
        if run.info.backbone != backbone or run.info.attention:
            kind = run.info.backbone + (" with attention" if run.info.attention else "")
            raise RunError(f"{weights} is a {kind}, not a {backbone}; choose one architecture")
        learned = tuple(d for d in run.info.data if d.role != "validation")
        return run.network(), WeightsInfo(source=weights, sha256=run.network_hash()), learned
    net = ReIDNet(backbone)
    if weights is None:
        return net, None, ()
    log.info("%s", load_weights(net, weights))
    return net, WeightsInfo.of(backbone, weights), ()


def _check_start(out: Path, recipe: Recipe, group: ProcessGroup) -> None:
    """Refuse what can be refused before anything is read."""
    group.refuse_uneven(recipe.batch.size, recipe.batch.ghost)
    if group.is_main:
        refuse_taken(out)


def _start_run(out: Path, info: RunInfo, group: ProcessGroup) -> Run:
    """The run folder; all processes but the first leave it alone."""
    return Run.create(out, info) if group.is_main else Run(out, info)


def _start_source(method: SourceMethod, source: DecodedCrops, machine: Machine) -> None:
    group = machine.group
    group.barrier()
    with progress("extract source", len(source)) as tick:
        (features,) = extract(
            [method.embedder()], source.images, device=machine.device, progress=tick, group=group
        )
    if not group.is_main:
        return  # the others get what it learns with the first state
    _, persons = np.unique(source.crops.persons, return_inverse=True)
    method.start_source(cluster_centers(features, persons, normalize=True))


def _describe(
    kind: Literal["pretrain", "adapt"],
    recipe: Recipe,
    recipe_name: str,
    machine: Machine,
    **start: Any,
) -> RunInfo:
    """start: the fields of `RunInfo` that the two kinds fill differently."""
    return RunInfo(
        kind=kind,
        method=recipe.method,
        recipe=recipe.model_dump(mode="json"),
        recipe_name=recipe_name,
        seed=machine.seed,
        device=str(machine.device) if machine.group.size == 1 else machine.device.type,
        processes=machine.group.size,
        threads=torch.get_num_threads(),
        versions=library_versions(),
        started=datetime.now(UTC),
        **start,
    )


def _validation_infos(labelled: LabelledCrops | None) -> list[DataInfo]:
    if labelled is None:
        return []
    sets = [labelled.query]
    if labelled.gallery is not labelled.query:
        sets.append(labelled.gallery)
    return [DataInfo.of(data.crops, "validation") for data in sets]

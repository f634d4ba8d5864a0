"""Go on with a run that was stopped, or whose process died."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, cast

import torch

from adapt.config import Recipe
from adapt.data.decoding.decode import DecodedCrops
from adapt.data.decoding.part_masks import with_part_masks
from adapt.data.decoding.run_crops import RunCrops
from adapt.errors import RunError
from adapt.methods import METHODS, Method, Source
from adapt.methods.source import SourceOptions
from adapt.recipes import parse_recipe
from adapt.runs.checkpoints import StopRequest
from adapt.runs.folder import Run
from adapt.runs.info import Inputs, RunInfo, library_versions
from adapt.runtime.disk_arrays import Scratch
from adapt.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from adapt.training.state import LoopState
from adapt.workflows.fit import Machine, fit
from adapt.workflows.session import (
    list_site,
    read_sources,
    read_target,
    read_validation,
    site_clusterer,
)
from adapt.workflows.training import part_parser
from models.backbones.net import ReIDNet

BEFORE_PRECISIONS = {"compute": {"precision": "float32"}}
"""What runs did whose recipe has no such section yet."""

log = logging.getLogger("resight")


def resume(
    path: Path,
    device: torch.device,
    stop: StopRequest | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
    *,
    target: Path | None = None,
) -> Run:
    """Go on with a run that was stopped or died, as if it never had.

    On the same machine it ends with the network of an unbroken run, bit for bit, where as many
    processes and threads go on as began it.
    target: where the site's crops of an adaptation lie, if they were moved since it began.
    Raises RunError when the run is over, its crops have changed or its checkpoint cannot be used.
    """
    run = Run.reopen(path) if group.is_main else Run.open(path)
    try:
        info = run.info
        state = LoopState(*run.checkpoint()) if group.is_main else None
        if device.type != torch.device(info.device).type:
            raise RunError(
                f"{path} was trained on {info.device}: give --device {info.device}, or start anew"
            )
        changed = {k for k, v in library_versions().items() if info.versions.get(k) != v}
        if changed:
            log.warning(
                "other versions of %s than the run began with: it may end otherwise",
                ", ".join(sorted(changed)),
            )
        threads = torch.get_num_threads()
        if info.threads not in (None, threads):
            log.warning(
                "%d threads, the run began with %d (OMP_NUM_THREADS): it may end otherwise",
                threads,
                info.threads,
            )
        machine = Machine(device, info.seed, group)
        recipe = parse_recipe({**BEFORE_PRECISIONS, **info.recipe})
        group.refuse_uneven(recipe.batch.size, recipe.batch.ghost)
        inputs = cast(Inputs, info.inputs)
        if target is not None:
            inputs = inputs.model_copy(update={"target": str(target)})
        rebuild = _pretraining if info.kind == "pretrain" else _adaptation
        method, data, source = rebuild(run, inputs, recipe, machine)
        validation = Path(inputs.validation) if inputs.validation else None
        labelled = read_validation(validation, info.preprocessing)
        if state is not None:
            run.rewind(state.rounds, group.size)
            log.info("%s goes on in round %d", path, state.rounds + 1)
    except BaseException:
        run.release()
        raise
    return fit(run, method, data, recipe, machine, labelled, source, stop=stop, state=state)


def _pretraining(
    run: Run, inputs: Inputs, recipe: Recipe, machine: Machine
) -> tuple[Method, DecodedCrops, None]:
    """What `pretrain` trains, but for its weights."""
    info, options = run.info, cast(SourceOptions, recipe.options)
    parser, parsing = part_parser(options)
    if parsing != info.parsing:
        raise RunError(f"{options.parts_model} is another model than the run began with")
    crops = RunCrops(run.path, machine.group)
    data = _sources(run, inputs, crops)
    crops.keep()
    if parser is not None:
        data = with_part_masks(data, parser)
    return Source(ReIDNet(info.backbone), options, data.crops.persons), data, None


def _adaptation(
    run: Run, inputs: Inputs, recipe: Recipe, machine: Machine
) -> tuple[Method, DecodedCrops, DecodedCrops | None]:
    """What `adapt` trains, but for its weights."""
    info, method_type = run.info, METHODS[recipe.method]
    wanted = recipe.options.students_wanted(method_type.students_wanted)
    nets = [ReIDNet(info.backbone, attention=info.attention) for _ in range(wanted)]
    room = Scratch(run.path).table
    clusterer = site_clusterer(recipe, machine.seed, machine.device, room)
    method = method_type(nets, recipe.options, clusterer)
    listing = list_site(Path(inputs.target), info.camera_pattern, info.hold_back)
    crops = RunCrops(run.path, machine.group)
    data = read_target(listing, recipe, info.preprocessing, crops)
    _check_unchanged(info, data, "target")
    source = _sources(run, inputs, crops) if inputs.sources else None
    crops.keep()
    return method, data, source


def _sources(run: Run, inputs: Inputs, crops: RunCrops) -> DecodedCrops:
    roots = [Path(root) for root in inputs.sources]
    data = read_sources(roots, inputs.splits, run.info.preprocessing, crops)
    _check_unchanged(run.info, data, "source")
    return data


def _check_unchanged(info: RunInfo, data: DecodedCrops, role: Literal["source", "target"]) -> None:
    known = {each.fingerprint for each in info.data if each.role == role}
    if data.crops.fingerprint not in known:
        raise RunError(
            f"the crops below {data.crops.root} are not those that the run began with: restore "
            "them, or start a new run"
        )

"""A method trained as its recipe says, each round kept in the run folder."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from adapt.clustering.labels.truth import truth_figures
from adapt.config import Recipe
from adapt.data.decoding.decode import DecodedCrops
from adapt.errors import AdaptError, RunError
from adapt.evaluation.scoring import LabelledCrops, network_embedder
from adapt.methods import Method
from adapt.runs.checkpoints import StopRequest, checkpoints_of
from adapt.runs.folder import Run
from adapt.runtime.disk_arrays import Scratch
from adapt.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from adapt.training.loop import Round, train
from adapt.training.state import LoopState
from models.backbones.net import ReIDNet

log = logging.getLogger("resight")


@dataclass(frozen=True)
class Machine:
    """Where a run happens and what its randomness starts from.

    group: the processes that do it together; each gives the same arguments to what trains.
    """

    device: torch.device
    seed: int
    group: ProcessGroup = SINGLE_PROCESS


def fit(
    run: Run,
    method: Method,
    data: DecodedCrops,
    recipe: Recipe,
    machine: Machine,
    labelled: LabelledCrops | None,
    source: DecodedCrops | None = None,
    *,
    stop: StopRequest | None = None,
    state: LoopState | None = None,
) -> Run:
    """Train a method as its recipe says and keep each round in the run folder.

    Whatever stops it (`RunInfo.reason`), the folder has the network of the last good round.
    labelled: scored after each round; where it holds the site's very crops, so are the clusters.
    source: see `adapt.training.loop.train`. stop: asks the run to end
    after the step it is in. state: where to go on.
    Of several processes the first alone scores and writes.
    Raises what the loop raises, and RunError when the folder cannot be written.
    """
    start = time.monotonic() - (0.0 if state is None else float(state.notes["seconds"]))
    group = machine.group
    try:
        rounds = train(
            method,
            data,
            schedule=recipe.schedule,
            batch=recipe.batch,
            augmentation=recipe.augment,
            optimizer=recipe.optimizer,
            camera_statistics=recipe.clustering.camera_statistics,
            compute=recipe.compute,
            seed=machine.seed,
            device=machine.device,
            source=source,
            checkpoints=checkpoints_of(run, stop or StopRequest(), start, group),
            resume=state,
            group=group,
            allocate=Scratch(run.path).table,
        )
        persons = None
        if group.is_main and labelled is not None and run.info.kind == "adapt":
            persons = labelled.persons_of(data.crops)
        for result in rounds:
            if group.is_main:
                scores = _validate(method.embedder(), labelled, machine)
                scores |= _beside_truth(result, persons)
                _record(run, result, method, scores)
                _log_round(result, recipe.schedule.rounds, scores)
        if group.is_main:
            run.finish(time.monotonic() - start)
    except (AdaptError, KeyboardInterrupt) as error:
        if group.is_main:
            _close(run, time.monotonic() - start, error)
        raise
    finally:
        run.release()
    group.barrier()
    return run


def _record(run: Run, result: Round, method: Method, scores: dict[str, float]) -> None:
    run.record(
        {
            "round": result.number,
            "labels": _rules(result),
            "warnings": result.warnings,
            **result.metrics,
            **scores,
        },
        method.embedder(),
        [each.labels for each in result.labels] if run.info.kind == "adapt" else (),
    )


def _close(run: Run, seconds: float, error: AdaptError | KeyboardInterrupt) -> None:
    try:
        run.finish(seconds, stopped_by=error)
    except RunError:
        log.warning("%s cannot be marked as failed; it reads as if it still ran", run.path)
    if run.info.rounds:
        log.warning("stopped; %s holds the network of round %d", run.path, run.info.rounds)


def _validate(net: ReIDNet, labelled: LabelledCrops | None, machine: Machine) -> dict[str, float]:
    if labelled is None:
        return {}
    scores = labelled.score(network_embedder(net, machine.device))
    return {"val_mAP": scores.mAP, **{f"val_cmc{rank}": scores.cmc(rank) for rank in (1, 5, 10)}}


def _beside_truth(result: Round, persons: NDArray[np.int64] | None) -> dict[str, float]:
    """Figures of the round's clusters beside true identities; numbered where sets are several."""
    if persons is None:
        return {}
    several = len(result.labels) > 1
    return {
        f"val_{name}_{number}" if several else f"val_{name}": value
        for number, each in enumerate(result.labels, start=1)
        for name, value in truth_figures(each.labels, persons).items()
    }


def _rules(result: Round) -> str:
    return "; ".join(labels.rule for labels in result.labels)


def _log_round(result: Round, rounds: int, scores: dict[str, float]) -> None:
    for warning in result.warnings:
        log.warning("round %d: %s", result.number, warning)
    m = result.metrics
    shown = {name: scores[name] for name in ("val_mAP", "val_cmc1") if name in scores}
    extra = "".join(f", {name} {value:.3f}" for name, value in shown.items())
    log.info(
        "round %d/%d: %s, %s clusters, %.0f%% outliers, loss %.3f%s, %.0f s",
        result.number,
        rounds,
        _rules(result),
        "+".join(str(labels.clusters) for labels in result.labels),
        100 * max(labels.outlier_share for labels in result.labels),
        m["loss"],
        extra,
        sum(value for name, value in m.items() if name.startswith("seconds_")),
    )

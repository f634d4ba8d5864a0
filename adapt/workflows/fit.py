"""A session trained as its recipe says, each round kept in the run folder."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adapt.clustering.labels.truth import truth_figures
from adapt.errors import AdaptError, RunError
from adapt.evaluation.metrics import RANKS
from adapt.evaluation.scoring import LabelledCrops, network_embedder
from adapt.methods import Method
from adapt.runs.checkpoints import make_checkpointer
from adapt.runs.folder import Run
from adapt.runs.info import RunInfo, library_versions
from adapt.runtime.context import RunContext
from adapt.runtime.disk_arrays import Scratch
from adapt.training.loop import RoundResult, train
from adapt.training.state import Snapshot
from adapt.workflows.session import Session
from models.backbones.net import ReIDNet

log = logging.getLogger("resight")


def start_run(session: Session, context: RunContext, folder: Path) -> Run:
    """Make the run folder of a new session; only the main process writes there.

    Raises RunError when the folder cannot be made or is taken.
    """
    device, group = context.device, context.group
    info = RunInfo(
        spec=session.spec.absolute(),
        origin=session.origin,
        attention=session.method.embedder().attention is not None,
        data=session.data_info,
        device=str(device) if group.size == 1 else device.type,
        processes=group.size,
        threads=torch.get_num_threads(),
        versions=library_versions(),
        started=datetime.now(UTC),
    )
    run = Run.create(folder, info) if group.is_main else Run(folder, info)
    session.crops.keep()
    return run


def fit(run: Run, session: Session, context: RunContext, snapshot: Snapshot | None = None) -> Run:
    """Train a session and keep each round in the run folder.

    Whatever stops it (`RunInfo.reason`), the folder has the network of the last good round.
    Where `session.labelled` are the site's very crops, clusters are scored, too.
    snapshot: the state to continue from. Of several processes only the main one scores and writes.
    Raises what the loop raises, and RunError when the folder cannot be written.
    """
    start = time.monotonic() - (0.0 if snapshot is None else float(snapshot.notes["seconds"]))
    group, spec = context.group, session.spec
    try:
        rounds = train(
            session,
            spec.recipe,
            context,
            seed=spec.seed,
            checkpointer=make_checkpointer(run, context, start),
            resume=snapshot,
            allocate=Scratch(run.path).table,
        )
        labelled, persons = session.labelled, None
        if group.is_main and labelled is not None and spec.kind == "adapt":
            persons = labelled.persons_of(session.data.crops)
        for result in rounds:
            if group.is_main:
                scores = _validate(session.method.embedder(), labelled, context.device, result)
                scores |= _beside_truth(result, persons)
                _record(run, result, session.method, scores)
                _log_round(result, spec.recipe.schedule.rounds, scores)
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


def _record(run: Run, result: RoundResult, method: Method, scores: dict[str, float]) -> None:
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
        log.warning("%s cannot be marked as failed; its state stays `running`", run.path)
    if run.info.rounds:
        log.warning("stopped; %s holds the network of round %d", run.path, run.info.rounds)


def _validate(
    net: ReIDNet, labelled: LabelledCrops | None, device: torch.device, result: RoundResult
) -> dict[str, float]:
    if labelled is None:
        return {}
    scores = labelled.score(network_embedder(net, device))
    for doubt in scores.doubts() if result.number == 1 else ():
        log.warning("validation: %s", doubt)
    return {
        "val_mAP": scores.mAP,
        **{f"val_cmc{rank}": scores.cmc(rank) for rank in RANKS},
        "val_queries": scores.queries,
        "val_queries_without_match": scores.without_match,
    }


def _beside_truth(result: RoundResult, persons: NDArray[np.int64] | None) -> dict[str, float]:
    """Figures of the round's clusters beside true identities; numbered where sets are several."""
    if persons is None:
        return {}
    several = len(result.labels) > 1
    return {
        f"val_{name}_{number}" if several else f"val_{name}": value
        for number, each in enumerate(result.labels, start=1)
        for name, value in truth_figures(each.labels, persons).items()
    }


def _rules(result: RoundResult) -> str:
    return "; ".join(labels.rule for labels in result.labels)


def _log_round(result: RoundResult, rounds: int, scores: dict[str, float]) -> None:
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

"""Resume a run that was stopped, or whose process crashed."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from adapt.errors import RunError
from adapt.runs.folder import Run
from adapt.runs.info import RunInfo, library_versions
from adapt.runtime.context import RunContext
from adapt.training.state import Snapshot
from adapt.workflows.fit import fit
from adapt.workflows.session import open_session

log = logging.getLogger("resight")


def resume(path: Path, context: RunContext, *, target: Path | None = None) -> Run:
    """Continue a run from its checkpoint, as if it had never stopped.

    On the same machine it ends with the network of an unbroken run, bit for bit, if it has as many
    processes and threads as at its start.
    target: where the site's crops of an adaptation are now, if they were moved.
    Raises RunError when the run is over, its crops have changed or its checkpoint cannot be used.
    """
    group = context.group
    run = Run.reopen(path) if group.is_main else Run.open(path)
    try:
        snapshot = Snapshot(*run.load_checkpoint()) if group.is_main else None
        _check_machine(run, context.device)
        spec = run.info.spec
        if target is not None:
            spec = spec.changed(target=target)
        session = open_session(spec, context, path, begun=run.info)
        session.crops.keep()
        if snapshot is not None:
            if target is not None:
                run.move_target(target, session.data_info[0])
            run.rewind(snapshot.rounds, group.size)
            log.info("%s continues in round %d", path, snapshot.rounds + 1)
    except BaseException:
        run.release()
        raise
    return fit(run, session, context, snapshot)


def _check_machine(run: Run, device: torch.device) -> None:
    """Raise RunError on another kind of device; warn of other versions and thread counts."""
    info: RunInfo = run.info
    if device.type != torch.device(info.device).type:
        raise RunError(
            f"{run.path} was trained on {info.device}: give --device {info.device}, or start anew"
        )
    changed = {k for k, v in library_versions().items() if info.versions.get(k) != v}
    if changed:
        log.warning(
            "other versions of %s than at the start of the run: its result may differ",
            ", ".join(sorted(changed)),
        )
    threads = torch.get_num_threads()
    if info.threads != threads:
        log.warning(
            "%d threads, the run started with %d (OMP_NUM_THREADS): its result may differ",
            threads,
            info.threads,
        )

"""One adaptation that a server asked for, as a folder (`models.job_contract`).

What is done already is not done again: a job that was stopped, or whose process crashed, is started
again with the same arguments.
"""

from __future__ import annotations

import errno
from contextlib import nullcontext
from pathlib import Path
from typing import cast

from adapt.errors import AdaptError, ConfigError, RunError, WriteError
from adapt.methods import students_of
from adapt.recipes import load_recipe, recipe_label
from adapt.runs.folder import FolderUse, Run
from adapt.runs.info import TRANSIENT_REASONS
from adapt.runs.spec import RunSpec
from adapt.runtime.context import RunContext, StopRequest
from adapt.runtime.distributed import ProcessGroup, join
from adapt.workflows.adapt import adapt
from adapt.workflows.export import export_run
from adapt.workflows.gate import GateRequest, run_gate
from adapt.workflows.resume import resume
from models.errors import DamagedFileError, ModelError
from models.files import FileLock
from models.job_contract import (
    BUNDLE_FOLDER,
    CROPS_FOLDER,
    GATE_FILE,
    JOB_FILE,
    RUN_FOLDER,
    Job,
    JobOutcome,
)

_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Of a disk, a quota or a limit that has no room, or of a disk that fails for a moment."""


def outcome_of(error: AdaptError | ModelError | OSError, folder: Path) -> JobOutcome:
    """How the training of a job ended with an error: stopped where it can continue, else failed.

    Raises `error` itself where it is an OSError that another try would not mend.
    """
    if isinstance(error, OSError):  # the run is over: its model could not be written
        return _stopped_by_disk(error)
    if error.reason in TRANSIENT_REASONS and _is_unfinished(folder / RUN_FOLDER):
        return JobOutcome(state="stopped", reason=error.reason, error=str(error))
    return JobOutcome(state="failed", reason=error.reason, error=str(error))


def gate_outcome_of(error: AdaptError | ModelError | OSError) -> JobOutcome:
    """How the gate of a job ended with an error: stopped where another try may succeed.

    Raises `error` itself as `outcome_of`.
    """
    if isinstance(error, OSError):
        return _stopped_by_disk(error)
    if error.reason in TRANSIENT_REASONS:
        return JobOutcome(state="stopped", reason=error.reason, error=str(error))
    return JobOutcome(state="failed", reason=error.reason, error=str(error))


def _stopped_by_disk(error: OSError) -> JobOutcome:
    if error.errno not in _DISK_ERRORS:
        raise error
    return JobOutcome(state="stopped", reason=WriteError.reason, error=str(error))


def run_job(folder: Path, stop: StopRequest) -> JobOutcome:
    """Do what is left of a job: train and export. Returns `finished`, or how the run failed before.

    Processes that `torchrun` started do it together; the main one alone exports.
    Raises AdaptError and ModelError as `adapt`, `resume` and `export_run`, StoppedError when it was
    asked to stop; `outcome_of` says whether it can be started again.
    """
    job = read_job(folder)
    device, group = join(job.device)
    context = RunContext(device, group, stop)
    with _only_process(folder) if group.is_main else nullcontext():
        outcome = _done_by(context, folder, job)
    group.shutdown()
    return outcome


def judge_job(folder: Path, old: Path, device: str) -> JobOutcome:
    """Compare the new model of a job with a bundle; the verdict is in `GATE_FILE`.

    Raises as `run_gate`.
    """
    job = read_job(folder)
    request = GateRequest(
        old=old,
        new=folder / BUNDLE_FOLDER,
        target=folder / CROPS_FOLDER,
        hold_back=job.hold_back or None,
        device=device,
    )
    with _only_process(folder):
        run_gate(request, folder / GATE_FILE)
    return JobOutcome(state="finished")


def read_job(folder: Path) -> Job:
    """The job of a folder. Raises ConfigError."""
    try:
        return Job.read(folder)
    except FileNotFoundError:
        raise ConfigError(f"{folder} is not the folder of a job: no {JOB_FILE}") from None
    except DamagedFileError as error:
        raise ConfigError(str(error)) from None


def _only_process(folder: Path) -> FileLock:
    """Wait for the end of an earlier process: a killed server leaves one for some seconds."""
    return FileLock(folder / JOB_FILE, wait=True)


def _done_by(context: RunContext, folder: Path, job: Job) -> JobOutcome:
    group = context.group
    run = _earlier_run(folder / RUN_FOLDER) if group.is_main else None
    left = _told(group, _what_is_left(run))
    if left == "nothing":
        info = cast(Run, run or _earlier_run(folder / RUN_FOLDER)).info
        if info.state == "failed":
            return JobOutcome(state="failed", reason=info.reason, error=info.error)
    elif left == "the rest":
        # The crops of this folder: it may have been moved since the run began.
        run = resume(folder / RUN_FOLDER, context, target=folder / CROPS_FOLDER)
    else:
        run = _new_run(folder, job, context)
    if group.is_main and not (folder / BUNDLE_FOLDER).exists():
        export_run(cast(Run, run), folder / BUNDLE_FOLDER, name=job.name, version=job.version)
    return JobOutcome(state="finished")


def _what_is_left(run: Run | None) -> str:
    """Of the training: `nothing`, `the rest` or `all`."""
    if run is None:
        return "all"
    if run.info.is_over:  # also where it finished no round: it would fail again
        return "nothing"
    return "the rest" if run.use is FolderUse.RESUME else "all"


def _is_unfinished(path: Path) -> bool:
    """Whether the run of this folder is not over; it need not have begun."""
    try:
        return _what_is_left(_earlier_run(path)) != "nothing"
    except RunError:
        return False


def _told(group: ProcessGroup, left: str) -> str:
    """What the main process found; the others may look later, when the folder has changed."""
    if group.size == 1:
        return left
    notes = group.broadcast(({}, {"left": left}) if group.is_main else None)[1]
    return str(notes["left"])


def _earlier_run(path: Path) -> Run | None:
    return Run.open(path) if Run.is_at(path) else None


def _new_run(folder: Path, job: Job, context: RunContext) -> Run:
    recipe = load_recipe(job.recipe, method=job.method, overrides=job.overrides)
    wanted = students_of(recipe)
    spec = RunSpec(
        kind="adapt",
        recipe=recipe,
        recipe_name=recipe_label(job.recipe, job.overrides),
        seed=job.seed,
        inits=job.inits[:wanted],
        target=folder / CROPS_FOLDER,
        hold_back=job.hold_back,
        sources=job.sources if recipe.options.source_wanted() else (),
    )
    return adapt(spec, context, folder / RUN_FOLDER)

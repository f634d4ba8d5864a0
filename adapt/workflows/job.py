"""One adaptation that a server asked for, as a folder: from a site's crops to a bundle.

FOLDER/job.json        what to do (`Job`), written by the server
FOLDER/crops           the site's crops, see `adapt.data.catalog.folders.read_site`
FOLDER/run             the run folder
FOLDER/bundle          the model
FOLDER/outcome.json    how it ended (`Outcome`)

Whatever is done already is not done again, so that a job that was stopped or died is started again
in the same way.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from adapt.errors import AdaptError, ConfigError, RunError
from adapt.methods import METHODS
from adapt.recipes import load_recipe, recipe_label
from adapt.runs.checkpoints import StopRequest
from adapt.runs.folder import Run
from adapt.runs.info import RESUMABLE_REASONS, TRANSIENT_REASONS
from adapt.runtime.distributed import ProcessGroup, join
from adapt.workflows.export import export_run
from adapt.workflows.fit import Machine
from adapt.workflows.resume import resume
from adapt.workflows.training import adapt
from models.errors import ModelError
from models.files import FileLock, write_atomically
from models.validation import explain

_JOB, _OUTCOME, _CROPS, _RUN, _BUNDLE = "job.json", "outcome.json", "crops", "run", "bundle"


class Job(BaseModel):
    """Contents of job.json.

    recipe, overrides: as `--recipe` and `--set`. inits: run folders of pre-trained networks; a
    method takes as many as it wants, from the first on. sources: labelled crops, for methods that
    learn from them. hold_back: share of the crops to leave out. name, version: of the bundle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    recipe: str
    overrides: tuple[str, ...]
    seed: int
    device: str
    inits: tuple[Path, ...]
    sources: tuple[Path, ...]
    hold_back: float
    name: str
    version: str

    @classmethod
    def read(cls, folder: Path) -> Job:
        """Read the job of a folder. Raises ConfigError."""
        try:
            job = cls.model_validate_json((folder / _JOB).read_bytes())
        except OSError as error:
            raise ConfigError(f"{folder / _JOB} cannot be read: {error.strerror}") from None
        except ValidationError as error:
            raise ConfigError(f"{folder / _JOB} is invalid: {explain(error, cls)}") from None
        if job.method not in METHODS:
            raise ConfigError(f"no method {job.method!r}; choose one of: {', '.join(METHODS)}")
        return job


class Outcome(BaseModel):
    """Contents of outcome.json.

    state: `stopped` is a job that goes on when it is started again in the same way: it was asked to
    stop, or met what may pass, as a full disk. reason, error: as in run.json; empty where it is
    finished.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Literal["finished", "failed", "stopped"]
    reason: str = ""
    error: str = ""

    @classmethod
    def of(cls, error: AdaptError | ModelError, folder: Path) -> Outcome:
        """What becomes of the job of a folder that ended with an error."""
        goes_on = error.reason in TRANSIENT_REASONS and _can_go_on(folder / _RUN)
        return cls(state="stopped" if goes_on else "failed", reason=error.reason, error=str(error))

    def write(self, folder: Path) -> None:
        """Replace outcome.json."""
        write_atomically(folder / _OUTCOME, self.model_dump_json(indent=1).encode())


def run_job(folder: Path, stop: StopRequest) -> Outcome:
    """Do what is left of a job; how it ended, `finished` or as the run failed before.

    Processes that `torchrun` started do it together; the first one alone exports.
    Raises AdaptError and ModelError as `adapt`, `resume` and `export_run`, StoppedError when it was
    asked to stop; `Outcome.of` says whether it can be started again.
    """
    job = Job.read(folder)
    device, group = join(job.device)
    machine = Machine(device, job.seed, group)
    # A killed server leaves an earlier process of this job for some seconds: wait for its end.
    with FileLock(folder / _JOB, wait=True) if group.is_main else nullcontext():
        outcome = _done_by(machine, folder, job, stop)
    group.shutdown()
    return outcome


def _done_by(machine: Machine, folder: Path, job: Job, stop: StopRequest) -> Outcome:
    group = machine.group
    run = _earlier_run(folder / _RUN) if group.is_main else None
    left = _told(group, _what_is_left(run))
    if left == "nothing":
        info = cast(Run, run or _earlier_run(folder / _RUN)).info
        if info.state == "failed":
            return Outcome(state="failed", reason=info.reason, error=info.error)
    elif left == "the rest":
        # Not where they lay when it began: the folder of a server may be moved.
        run = resume(folder / _RUN, machine.device, stop, group, target=folder / _CROPS)
    else:
        run = _new_run(folder, job, machine, stop)
    if group.is_main and not (folder / _BUNDLE).exists():
        export_run(cast(Run, run), folder / _BUNDLE, name=job.name, version=job.version)
    return Outcome(state="finished")


def _what_is_left(run: Run | None) -> str:
    """Of the training: `nothing`, `the rest` or `all`."""
    if run is None:
        return "all"
    if run.can_continue:
        return "the rest"
    info = run.info
    over = info.state == "finished" or (
        info.state == "failed" and info.reason not in RESUMABLE_REASONS
    )
    return "nothing" if over else "all"


def _can_go_on(path: Path) -> bool:
    """Whether the run of this folder is not over; it need not have begun."""
    try:
        return _what_is_left(_earlier_run(path)) != "nothing"
    except RunError:
        return False


def _told(group: ProcessGroup, left: str) -> str:
    """What the first process found; the others may look later, when the folder has changed."""
    if group.size == 1:
        return left
    notes = group.broadcast(({}, {"left": left}) if group.is_main else None)[1]
    return str(notes["left"])


def _earlier_run(path: Path) -> Run | None:
    return Run.open(path) if (path / "run.json").exists() else None


def _new_run(folder: Path, job: Job, machine: Machine, stop: StopRequest) -> Run:
    recipe = load_recipe(job.recipe, method=job.method, overrides=job.overrides)
    wanted = recipe.options.students_wanted(METHODS[job.method].students_wanted)
    return adapt(
        folder / _CROPS,
        camera_pattern=None,
        inits=job.inits[:wanted],
        recipe=recipe,
        recipe_name=recipe_label(job.recipe, job.overrides),
        out=folder / _RUN,
        machine=machine,
        sources=job.sources if recipe.options.source_wanted() else (),
        stop=stop,
        hold_back=job.hold_back,
    )

"""Runs one adaptation: what is left of it, after a stop or a crash of the server, too.

    crops of the site -> python -m adapt train -> python -m adapt gate -> registry

The files in its folder decide what is left (`models.job_contract`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from models.errors import DamagedFileError, ModelConflictError, ModelError, RegistryError
from models.files import write_atomically
from models.job_contract import (
    MIN_GATE_CROPS,
    NEEDS_SOURCES,
    UNJUDGED,
    WORKER,
    GateVerdict,
    Job,
    JobOutcome,
    gate_arguments,
    train_arguments,
)
from models.json_text import json_text
from models.registry import DAMAGED, GateRecord, ModelReference, Registry
from models.wording import plural
from service.errors import DamagedRowError
from service.jobs.folder import JobFolder
from service.jobs.records import Adaptation, JobReason, JobResult, JobState, model_name
from service.store.records import SeenCrop
from service.types import ModelInUse

log = logging.getLogger("resight.jobs")

RESTART_DELAYS_S = (10.0, 60.0, 600.0, 3600.0)
"""Long enough for memory or a disk to become free, or for an operator to notice."""


@dataclass(frozen=True, slots=True)
class JobSetup:
    """Settings of all adaptations of a server.

    inits: run folders of pre-trained networks. sources: folders of labelled crops. device: `auto`,
    `cpu`, `cuda` or `cuda:N`. hold_back: share of the crops in [0, 1) that new adaptations do not
    train on, and that the gate judges by; with 0 it judges by all. stop_s: seconds that a process
    may take to save its state. own_model: reference of the server's own model, which no new model
    may have. restart_delays_s: see `Restarts`. Raises ValueError: there are no delays.
    """

    inits: tuple[Path, ...]
    sources: tuple[Path, ...]
    device: str
    hold_back: float
    stop_s: float
    own_model: str
    restart_delays_s: tuple[float, ...] = RESTART_DELAYS_S

    def __post_init__(self) -> None:
        if not self.restart_delays_s:
            raise ValueError("restart_delays_s is empty; give at least one delay in seconds")


class Restarts:
    """Decides whether a process that ended early is started again, and when.

    The delay grows with each process in a row that finished no round. One that finished a round
    starts the row anew.
    """

    def __init__(self, delays_s: Sequence[float], rounds: int) -> None:
        """delays_s: one or more, in seconds. rounds: finished before the first start."""
        self._delays_s = delays_s
        self._rounds = rounds
        self._in_row = 0

    @property
    def in_row(self) -> int:
        """Processes in a row, up to the last one, that finished no round."""
        return self._in_row

    def delay_after(self, rounds: int) -> float | None:
        """Seconds until the next start, None to give up. rounds: finished by now."""
        self._in_row = self._in_row + 1 if rounds <= self._rounds else 0
        self._rounds = max(self._rounds, rounds)
        if self._in_row > len(self._delays_s):
            return None
        return self._delays_s[max(self._in_row - 1, 0)]


class JobInterruptedError(Exception):
    """The adaptation was cancelled, or the server stops."""


class _TrainingFailedError(Exception):
    """There is no model; `result` says why."""

    def __init__(self, result: JobResult) -> None:
        super().__init__(result.error)
        self.result = result


class Crops(Protocol):
    """Gives the kept crops of a site."""

    def kept_crops(self, site: str) -> Iterable[Sequence[SeenCrop]]:
        """See `JobRows.kept_crops`."""
        ...


@dataclass(frozen=True, slots=True)
class JobContext:
    """What a runner needs from the server.

    in_use: the model that a site answers with, None if it answers with none. run_process: runs
    `python -m` with a module and arguments to its end and returns its exit code; raises OSError.
    pause: waits so many seconds. Both raise `JobInterruptedError`. interrupted: whether to give up.
    """

    setup: JobSetup
    crops: Crops
    registry: Registry
    in_use: Callable[[str], ModelInUse | None]
    run_process: Callable[[str, Sequence[str]], Awaitable[int]]
    pause: Callable[[float], Awaitable[None]]
    interrupted: Callable[[], bool]


class JobRunner:
    """Runs one adaptation."""

    def __init__(self, adaptation: Adaptation, folder: JobFolder, context: JobContext) -> None:
        self._adaptation = adaptation
        self._folder = folder
        self._context = context
        self._setup = context.setup

    async def run(self) -> JobResult:
        """Do all that is left; raises `JobInterruptedError`, and errors of the store."""
        try:
            if not self._folder.prepared:
                # Now, not after hours of training.
                registry = self._context.registry.root
                await asyncio.to_thread(registry.mkdir, parents=True, exist_ok=True)
                await asyncio.to_thread(self.prepare)
            await self._train()
            return await self._deliver()
        except _TrainingFailedError as error:
            return error.result
        except RegistryError as error:
            return JobResult(JobState.FAILED, JobReason.REGISTRY_REFUSED, str(error))
        except DamagedRowError as error:
            return JobResult(JobState.FAILED, JobReason.DATABASE_DAMAGED, str(error))
        except (OSError, DamagedFileError) as error:
            return JobResult(JobState.FAILED, JobReason.JOB_FOLDER_UNUSABLE, str(error))

    def prepare(self) -> None:
        """Write the folder; raises OSError and `JobInterruptedError`."""
        site, spec = self._adaptation.site, self._adaptation.spec
        name = model_name(site)
        crops = self._folder.prepare(
            self._until_interrupted(self._context.crops.kept_crops(site)),
            Job(
                method=spec.method,
                recipe=spec.recipe,
                overrides=spec.overrides,
                seed=spec.seed,
                device=self._setup.device,
                inits=self._setup.inits,
                sources=self._setup.sources if spec.method in NEEDS_SOURCES else (),
                hold_back=self._setup.hold_back,
                name=name,
                version=self._context.registry.next_version(name, self._setup.own_model),
            ),
        )
        judged = int(crops * (self._setup.hold_back or 1.0))
        if judged < MIN_GATE_CROPS:
            message = "adaptation %s: of %d crops the gate sees some %d; below %d it says hold"
            log.warning(message, self._adaptation.id, crops, judged, MIN_GATE_CROPS)

    def _until_interrupted(
        self, chunks: Iterable[Sequence[SeenCrop]]
    ) -> Iterator[Sequence[SeenCrop]]:
        for chunk in chunks:
            if self._context.interrupted():
                raise JobInterruptedError
            yield chunk

    async def _train(self) -> None:
        """Train and export, with restarts; raises `_TrainingFailedError`."""
        folder = self._folder
        restarts = Restarts(self._setup.restart_delays_s, await self._rounds())
        while True:
            folder.discard_outcome()
            ended = await self._run(train_arguments(folder.path))
            outcome = folder.outcome()
            if outcome is not None and outcome.state == "finished":
                return
            if outcome is not None and outcome.state == "failed":
                raise _TrainingFailedError(
                    JobResult(JobState.FAILED, outcome.reason, outcome.error)
                )
            delay = restarts.delay_after(await self._rounds())
            if delay is None:
                raise _TrainingFailedError(self._given_up(outcome, ended, restarts.in_row))
            why = outcome.error if outcome is not None else "it gave no reason"
            message = "adaptation %s continues in %.0f s; its process %s: %s"
            log.warning(message, self._adaptation.id, delay, ended, why)
            await self._context.pause(delay)

    async def _rounds(self) -> int:
        """How many rounds are finished; raises DamagedFileError."""
        return len(await asyncio.to_thread(self._folder.rounds))

    async def _run(self, arguments: Sequence[str]) -> str:
        """Run a process of the job; returns how it ended, for people."""
        try:
            return f"ended with exit code {await self._context.run_process(WORKER, arguments)}"
        except OSError as error:  # no memory, no descriptor: as transient as a killed process
            return f"could not be started ({error})"

    def _given_up(self, outcome: JobOutcome | None, ended: str, starts: int) -> JobResult:
        """The result after too many processes in a row that ended early."""
        folder = self._folder
        in_row = f"{plural(starts, 'process', 'processes')} in a row finished no round"
        if outcome is not None:
            error = f"{outcome.error} ({in_row}); when that is mended, start another adaptation"
            return JobResult(JobState.FAILED, outcome.reason, error)
        return JobResult(
            JobState.FAILED,
            JobReason.PROCESS_DIED,
            f"{in_row}, the last one {ended} ({folder.last_log_line() or 'no output'}); see "
            f"{folder.log}, make room in memory and on the disk, and start another adaptation",
        )

    async def _deliver(self) -> JobResult:
        """Run the gate, and register the model with its verdict.

        Where the disk is full, registering is tried again; the gate has its verdict already.
        """
        folder = self._folder
        gate, report = await self._judge()
        restarts = Restarts(self._setup.restart_delays_s, rounds=0)
        while True:
            try:
                model, kept = await asyncio.to_thread(self._register, report)
            except ModelConflictError:
                error = (
                    "another model was registered under its name and version meanwhile; export it "
                    f"under another version with `resight export --run {folder.run}`, and add that"
                )
            except ModelError as fault:
                error = self._not_registered(fault)
            except OSError as fault:
                error = self._not_registered(fault)
                delay = restarts.delay_after(0)
                if delay is not None:
                    message = "adaptation %s: %s; it is tried again in %.0f s"
                    log.warning(message, self._adaptation.id, error, delay)
                    await self._context.pause(delay)
                    continue
            else:
                return JobResult(JobState.SUCCEEDED, model=model, gate=_that_counts(gate, kept))
            return JobResult(JobState.FAILED, JobReason.REGISTRY_REFUSED, error, gate=gate)

    def _register(self, report: bytes | None) -> tuple[str, GateRecord]:
        """Add the model to the registry; returns its reference, and its verdict there."""
        file, registry = self._folder.report_file, self._context.registry
        # First beside the bundle: whoever adds that by hand later adds its verdict, too.
        if report is None:
            file.unlink(missing_ok=True)
        else:
            write_atomically(file, report)
        bundle = registry.add(self._folder.bundle)
        return bundle.reference, registry.gate_record(ModelReference.parse(bundle.reference))

    def _not_registered(self, error: Exception) -> str:
        return (
            f"the model cannot be registered ({error}); it is in {self._folder.bundle}: add it "
            "with `resight models add`"
        )

    async def _judge(self) -> tuple[GateVerdict, bytes] | tuple[None, None]:
        """The gate's verdict on the new model, and its report for the registry.

        A gate that crashes or meets a transient condition is started again. The verdict is
        `UNJUDGED` where none of them gave one; None where the site answers with no model. Raises
        DamagedFileError: a verdict that cannot be read is not the same as none.
        """
        folder, site = self._folder, self._adaptation.site
        restarts = Restarts(self._setup.restart_delays_s, rounds=0)
        while True:
            folder.discard_outcome()
            folder.discard_verdict()
            old = self._context.in_use(site)
            if old is None:
                return None, None
            ended = await self._run(gate_arguments(folder.path, old.bundle, self._setup.device))
            verdict = folder.verdict()
            origin = {
                "adaptation": f"sites/{site}/adaptations/{self._adaptation.id}",
                "against": old.reference,
            }
            if verdict is not None:
                return verdict, _report(origin, json.loads(folder.gate_file.read_bytes()))
            outcome = folder.outcome()
            why = outcome.error if outcome is not None else folder.last_log_line()
            error = f"the gate {ended}: {why or 'no output'}"
            early = outcome is None or outcome.state == "stopped"
            delay = restarts.delay_after(0) if early else None
            if delay is None:
                log.warning("adaptation %s has no verdict; %s", self._adaptation.id, error)
                verdict = GateVerdict(verdict=UNJUDGED, reasons=(error,))
                return verdict, _report(origin, {"verdict": UNJUDGED, "reasons": [error]})
            message = "the gate of adaptation %s is started again in %.0f s; %s"
            log.warning(message, self._adaptation.id, delay, error)
            await self._context.pause(delay)


def _that_counts(said: GateVerdict | None, kept: GateRecord) -> GateVerdict | None:
    """The verdict that counts: an earlier attempt may have registered the model with a safer one.

    kept: of the registry.
    """
    if kept.verdict in ("", DAMAGED) or (said is not None and said.verdict == kept.verdict):
        return said
    why = "the model was registered with this verdict before, and the safer of two counts"
    return GateVerdict.model_validate({"verdict": kept.verdict, "reasons": (why,)})


def _report(origin: Mapping[str, str], said: Mapping[str, Any]) -> bytes:
    """The gate's report as the registry keeps it; origin: what the server adds."""
    return json_text({**origin, **said}, indent=1).encode() + b"\n"

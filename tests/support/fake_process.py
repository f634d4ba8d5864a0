"""A double of `service.jobs.process.Starter`: processes that do what a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from models.job_contract import (
    EXIT_CODES,
    GATE_FILE,
    METRICS_FILE,
    RESUME_FILES,
    RUN_FOLDER,
    JobOutcome,
)
from tests.support.tiny_model import write_tiny_bundle

KILLED = -9


class FakeProcess:
    """Runs until a test ends it, or it is asked to end."""

    def __init__(self, module: str, arguments: Sequence[str], log: Path) -> None:
        self.module = module
        self.arguments = list(arguments)
        self.log = log
        self.deaf = False
        self.said: list[str] = []
        self._ended = asyncio.Event()
        self._code = 0

    @property
    def folder(self) -> Path:
        """Of the adaptation."""
        return self.log.parent

    @property
    def job(self) -> dict[str, Any]:
        """What it is to do."""
        job: dict[str, Any] = json.loads((self.folder / "job.json").read_text())
        return job

    async def wait(self) -> int:
        await self._ended.wait()
        return self._code

    def terminate(self) -> None:
        self.said.append("terminate")
        if not self.deaf:
            self.end(EXIT_CODES["stopped"])

    def kill(self) -> None:
        self.said.append("kill")
        self.end(KILLED)

    def end(self, code: int) -> None:
        """Let it end."""
        self._code = code
        self._ended.set()

    def finish_round(self, number: int, **figures: float) -> None:
        """Write the line of a round, as a run does."""
        (self.folder / RUN_FOLDER).mkdir(exist_ok=True)
        raw = {"round": number, "labels": "dbscan", "warnings": [], **figures}
        with (self.folder / RUN_FOLDER / METRICS_FILE).open("a") as file:
            file.write(json.dumps(raw) + "\n")

    def keep_state(self) -> None:
        """Leave what a run is resumed from."""
        (self.folder / RUN_FOLDER).mkdir(exist_ok=True)
        for name in RESUME_FILES:
            (self.folder / RUN_FOLDER / name).write_bytes(b"x")

    def succeed(self) -> None:
        """Export a bundle and end."""
        if not (self.folder / "bundle").exists():
            job = self.job
            write_tiny_bundle(
                self.folder / "bundle", name=job["name"], version=job["version"], shift=40.0
            )
        self._leave("finished")

    def fail(self, reason: str, error: str) -> None:
        """End with a reason."""
        self._leave("failed", reason, error)

    def stop(self, reason: str, error: str) -> None:
        """End early, for a transient reason."""
        self._leave("stopped", reason, error)

    def judge(self, verdict: str, *reasons: str) -> None:
        """End as the gate does."""
        report = {"verdict": verdict, "reasons": reasons}
        (self.folder / GATE_FILE).write_text(json.dumps(report))
        self._leave("finished")

    def _leave(
        self, state: Literal["finished", "failed", "stopped"], reason: str = "", error: str = ""
    ) -> None:
        JobOutcome(state=state, reason=reason, error=error).write(self.folder)
        self.end(EXIT_CODES[state])


class FakeStarter:
    """Remembers what was started; `script` is told of each process at its start. What is in
    `refusals` is raised first, one at each start."""

    def __init__(self) -> None:
        self.started: list[FakeProcess] = []
        self.script: Callable[[FakeProcess], None] = lambda process: None
        self.refusals: list[OSError] = []
        self._one_more = asyncio.Condition()

    async def __call__(self, module: str, arguments: Sequence[str], log: Path) -> FakeProcess:
        if self.refusals:
            raise self.refusals.pop(0)
        process = FakeProcess(module, arguments, log)
        self.script(process)
        async with self._one_more:
            self.started.append(process)
            self._one_more.notify_all()
        return process

    async def number(self, number: int) -> FakeProcess:
        """The process of this number, from 1, as soon as it is started."""
        async with self._one_more, asyncio.timeout(10):
            await self._one_more.wait_for(lambda: len(self.started) >= number)
        return self.started[number - 1]

"""A site learns itself while it is served: `python -m benchmarks.served_adaptation --data DIR ...`.

A real server, started with a source network, gets a labelled set's crops without their labels. It
adapts by MMT, is killed (SIGKILL) as a round ends and started again, continues, gives a model;
the site is rolled over to it, and back. mAP is of searches over gRPC: every crop as a query against
those of the other cameras; the labels are read for that alone.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from adapt.data.catalog.folders import read_labelled
from adapt.runs.folder import Run
from adapt.types import UNLABELLED, CropSet
from adapt.workflows.export import export_run
from benchmarks.served_ranking import average_precision
from service.client import CallFailedError, ResightClient
from service.jobs.records import Adaptation, AdaptationSpec, JobState
from service.types import NewSighting, SightingFilter

SITE = "site"
_READY = re.compile(r"ready: grpc (\S+?),")
_SERVER_TIMEOUT_S = 600.0
MAX_ANSWERS = 1000
"""Of a search; the server gives no more."""


@dataclass
class ServedProcess:
    """`resight serve` in a process of its own, on a free port, whose end a caller may choose."""

    out: Path
    inits: list[Path]
    address: str = ""
    process: subprocess.Popen[str] = field(init=False)

    def start(self) -> None:
        """Start it, also again on the same data."""
        listen = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
        with (self.out / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "cli.main", "serve", *listen),
                    *("--data-dir", str(self.out / "data"), "--model", str(self.out / "source")),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ
                | {
                    "RESIGHT_REGISTRY": str(self.out / "registry"),
                    "RESIGHT_ADAPT_INITS": os.pathsep.join(map(str, self.inits)),
                    "RESIGHT_ADAPT_DEVICE": "cpu",
                },
            )
        line = self.process.stdout.readline() if self.process.stdout else ""
        ready = _READY.search(line)
        if ready is None:
            raise SystemExit(f"the server did not start, see {self.out / 'server.log'}")
        self.address = ready[1]

    def end(self, number: signal.Signals) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(_SERVER_TIMEOUT_S)

    @contextmanager
    def client(self) -> Iterator[ResightClient]:
        """A connection."""
        with ResightClient(self.address, timeout_s=_SERVER_TIMEOUT_S) as client:
            yield client


def enroll(server: ServedProcess, listing: CropSet) -> None:
    """Make the site of all crops, by camera and number, without a label."""
    with server.client() as client:
        client.create_site(SITE)
        new = (
            NewSighting(s.path.read_bytes(), camera=listing.cameras[s.camera], id=f"s{row:06d}")
            for row, s in enumerate(listing.samples)
        )
        failed = [r for r in client.enroll(SITE, new) if isinstance(r, CallFailedError)]
    if failed:
        raise failed[0]


@dataclass(frozen=True)
class Searched:
    """Searches in the other cameras. mAP: of those whose person is there, a match that is not
    answered counting as 0. judged: how many these are, of `asked`. model: that answered them all.
    """

    mAP: float  # noqa: N815 - the field's name for it
    judged: int
    asked: int
    model: str


def score(server: ServedProcess, listing: CropSet) -> Searched:
    """Search for every crop."""
    persons = np.array([sample.person for sample in listing.samples])
    cameras = np.array([sample.camera for sample in listing.samples])
    precisions, models = [], set()
    with server.client() as client:
        for row, sample in enumerate(listing.samples):
            others = SightingFilter(exclude_cameras=(listing.cameras[sample.camera],))
            answer = client.search(SITE, f"s{row:06d}", limit=MAX_ANSWERS, wanted=others)
            models.add(answer.model)
            found = np.array([int(match.sighting.id[1:]) for match in answer.matches], int)
            wanted = (persons == sample.person) & (persons != UNLABELLED)
            matches = int((wanted & (cameras != sample.camera)).sum())
            precisions.append(average_precision(wanted[found], matches))
    (model,) = models
    judged = [each for each in precisions if each is not None]
    if not judged:
        raise SystemExit("no crop shows a person of another camera: give a set of several cameras")
    return Searched(float(np.mean(judged)), len(judged), len(precisions), model)


def adapt(server: ServedProcess, spec: AdaptationSpec, kill_after: int) -> Adaptation:
    """Adapt the site; the server is killed after a round, and started again."""
    with server.client() as client:
        job = client.start_adaptation(SITE, spec)
        for _, round_ in client.watch_adaptation(SITE, job.id):
            if round_ is not None:
                print(f"  round {round_.number}", flush=True)
                if round_.number == kill_after:
                    break
    folder = server.out / "data" / "adaptations" / job.id
    started = Run.open(folder / "run").info.started
    print(f"  killed: {server.end(signal.SIGKILL)}", flush=True)
    server.start()
    with server.client() as client:
        for now, round_ in client.watch_adaptation(SITE, job.id):
            job = now
            if round_ is not None and round_.number > kill_after:
                print(f"  round {round_.number}", flush=True)
    if job.state is not JobState.SUCCEEDED:
        raise SystemExit(f"{job.state.value}: {job.reason}: {job.error}")
    assert Run.open(folder / "run").info.started == started, "it was resumed, not begun anew"
    return job


def main() -> None:
    """Do all of it and print what came of it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.served_adaptation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="labelled set, as pku_a")
    add("--inits", type=Path, nargs=2, required=True, help="run folders of source networks")
    add("--out", type=Path, default=Path("runs/served-adaptation"), help="must not exist")
    add("--recipe", default="mmt_small")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change the recipe")
    add("--kill-after", type=int, default=2, metavar="ROUND")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    listing = read_labelled(options.data, ("train",))
    export_run(Run.open(options.inits[0]), options.out / "source", name="source", version="1")
    server = ServedProcess(options.out, [path.resolve() for path in options.inits])
    server.start()
    try:
        enroll(server, listing)
        rows = [("enrolled", score(server, listing))]
        began = time.monotonic()
        job = adapt(
            server, AdaptationSpec("mmt", options.recipe, tuple(options.set)), options.kill_after
        )
        minutes = (time.monotonic() - began) / 60
        with server.client() as client:
            list(client.activate_model(SITE, job.model))
            rows.append(("activated", score(server, listing)))
            list(client.rollback_model(SITE))
            rows.append(("rolled back", score(server, listing)))
        verdict = job.gate.verdict if job.gate else "no verdict"
        print(f"{len(listing.samples)} crops, {minutes:.0f} minutes; gate: {verdict}")
        print("\n".join(f"  {reason}" for reason in (job.gate.reasons if job.gate else ())))
        print("| | model | other-camera mAP over the wire | queries |\n|---|---|---|---|")
        for what, each in rows:
            print(f"| {what} | {each.model} | {each.mAP:.3f} | {each.judged} of {each.asked} |")
    finally:
        code = server.end(signal.SIGTERM)
    print(f"the server ended with {code}")


if __name__ == "__main__":
    main()

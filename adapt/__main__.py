"""One task of a server's adaptation (`models.job_contract`), as a process.

    python -m adapt train FOLDER
    python -m adapt gate FOLDER --old BUNDLE --device DEVICE

`train` saves its state and ends on SIGTERM. Exit codes are those of `EXIT_CODES`: 0 finished,
1 failed, 75 stopped: started again with the same arguments it continues. Several processes train
together with `torchrun --standalone --nproc-per-node N -m adapt train FOLDER`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from models.job_contract import EXIT_CODES, GATE, TRAIN, WORKER, JobOutcome
from models.wording import OneLineFormatter


def main(arguments: Sequence[str]) -> int:
    """Do the task and write outcome.json; returns the exit code."""
    given = _parsed(arguments)
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(OneLineFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(handlers=[to_stderr])
    logging.getLogger("resight").setLevel(logging.INFO)
    try:
        outcome = _train(given.folder) if given.task == TRAIN else _judge(given)
    except ModuleNotFoundError as error:
        outcome = JobOutcome(
            state="failed",
            reason="NOT_INSTALLED",
            error=f"the server's installation lacks {error.name}: pip install 'resight[adapt]'",
        )
    if os.environ.get("RANK", "0") == "0":  # the other processes of torchrun end alike
        outcome.write(given.folder)
    if outcome.error:
        print(f"{outcome.state}: {outcome.error}", file=sys.stderr)
    return EXIT_CODES[outcome.state]


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {WORKER}", description="Tasks of a server.")
    tasks = parser.add_subparsers(dest="task", required=True)
    train = tasks.add_parser(TRAIN, help="Do what is left of a job: train and export.")
    gate = tasks.add_parser(GATE, help="Compare the new model of a job with one in use.")
    for task in (train, gate):
        task.add_argument("folder", type=Path, help="Folder of the job.")
    gate.add_argument("--old", type=Path, required=True, help="Bundle of the model in use.")
    gate.add_argument("--device", required=True, help="auto, cpu, cuda or cuda:N.")
    return parser.parse_args(arguments)


def _train(folder: Path) -> JobOutcome:
    from adapt.errors import AdaptError
    from adapt.runtime.context import stopped_by_sigterm
    from adapt.workflows.job import outcome_of, run_job
    from models.errors import ModelError

    try:
        with stopped_by_sigterm() as stop:
            return run_job(folder, stop)
    except (AdaptError, ModelError, OSError) as error:
        return outcome_of(error, folder)


def _judge(given: argparse.Namespace) -> JobOutcome:
    from adapt.errors import AdaptError
    from adapt.workflows.job import gate_outcome_of, judge_job
    from models.errors import ModelError

    try:
        return judge_job(given.folder, given.old, given.device)
    except (AdaptError, ModelError, OSError) as error:
        return gate_outcome_of(error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What `python -m adapt train` does, in a process with thin trunks, such as its job's networks."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.support.two_processes import forks


def start_training(folder: Path, log: Path, told: Mapping[str, str] | None = None) -> BaseProcess:
    """Start the job of a folder. log: gets what it prints. told: by the one who starts it."""
    process = forks().Process(target=_train, args=(folder, log, dict(told or {})), daemon=True)
    process.start()
    return process


def _train(folder: Path, log: Path, told: dict[str, str]) -> None:
    from adapt import __main__ as worker
    from models.job_contract import train_arguments
    from tests.support.thin_trunks import thin_trunks

    os.environ.update(told)
    with log.open("a") as sys.stderr, thin_trunks():
        sys.exit(worker.main(train_arguments(folder)))

"""`python -m adapt FOLDER`: do the job of a folder (`adapt.workflows.job`), for a server.

On SIGTERM it keeps its state and ends. Exit codes: 0 finished, 1 failed, 75 stopped: started again
it goes on. Several processes (`torchrun --standalone --nproc-per-node N -m adapt FOLDER`) do one
job together.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

_EXIT_CODES = {"finished": 0, "failed": 1, "stopped": 75}


def main(folder: Path) -> int:
    """Do the job and write down how it ended; the exit code."""
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("resight").setLevel(logging.INFO)
    try:
        return _do(folder)
    except ModuleNotFoundError as error:
        # Plain, as what would write it properly may be what is missing.
        said = f"the server's installation lacks {error.name}: pip install 'resight[adapt]'"
        failed = {"state": "failed", "reason": "NOT_INSTALLED", "error": said}
        (folder / "outcome.json").write_text(json.dumps(failed))
        print(f"error: {said}", file=sys.stderr)
        return 1


def _do(folder: Path) -> int:
    from adapt.errors import AdaptError
    from adapt.runs.checkpoints import stopped_by_sigterm
    from adapt.workflows.job import Outcome, run_job
    from models.errors import ModelError

    try:
        with stopped_by_sigterm() as stop:
            outcome = run_job(folder, stop)
    except (AdaptError, ModelError) as error:
        outcome = Outcome.of(error, folder)
    if os.environ.get("RANK", "0") == "0":  # the others end alike
        outcome.write(folder)
    if outcome.error:
        print(f"{outcome.state}: {outcome.error}", file=sys.stderr)
    return _EXIT_CODES[outcome.state]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

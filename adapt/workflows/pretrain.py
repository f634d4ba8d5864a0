"""Pre-train one network on labelled crops."""

from __future__ import annotations

from pathlib import Path

from adapt.runs.folder import Run
from adapt.runs.spec import RunSpec
from adapt.runtime.context import RunContext
from adapt.workflows.fit import fit, start_run
from adapt.workflows.session import open_session


def pretrain(spec: RunSpec, context: RunContext, out: Path) -> Run:
    """Train one network on labelled crops into a new run folder.

    Identities of different source folders are different people. A recipe with `parts = masks`
    has every crop parsed once, before training.
    Raises DataError, ConfigError, RunError, WeightsError.
    """
    session = open_session(spec, context, out)
    return fit(start_run(session, context, out), session, context)

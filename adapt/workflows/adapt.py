"""Adapt source-trained networks to the unlabelled crops of a site."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adapt.clustering.labels.centers import cluster_centers
from adapt.data.decoding.decode import DecodedCrops
from adapt.methods import SourceMethod
from adapt.runs.folder import Run
from adapt.runs.spec import RunSpec
from adapt.runtime.context import RunContext
from adapt.runtime.progress import progress
from adapt.training.extraction import extract
from adapt.workflows.fit import fit, start_run
from adapt.workflows.session import open_session


def adapt(spec: RunSpec, context: RunContext, out: Path) -> Run:
    """Adapt the networks of `spec.inits` to a site, in a new run folder.

    Nothing is chosen by `spec.validation`.
    Raises DataError, ClusteringError, ConfigError, RunError.
    """
    session = open_session(spec, context, out)
    if session.source is not None and isinstance(session.method, SourceMethod):
        _start_source(session.method, session.source, context)
    return fit(start_run(session, context, out), session, context)


def _start_source(method: SourceMethod, source: DecodedCrops, context: RunContext) -> None:
    group = context.group
    group.barrier()
    with progress("extract source", len(source)) as tick:
        (features,) = extract(
            [method.embedder()], source.images, device=context.device, progress=tick, group=group
        )
    if not group.is_main:
        return  # the others get what it learns with the first state
    _, persons = np.unique(source.crops.persons, return_inverse=True)
    method.start_source(cluster_centers(features, persons, normalize=True))

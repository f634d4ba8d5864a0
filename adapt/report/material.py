"""What a report can show of a run beyond its figures, and why not where it cannot."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adapt.data.decoding.decode import CropAllocator, DecodedCrops, allocate_crops
from adapt.errors import ConfigError, DataError, RunError
from adapt.evaluation.scoring import network_embedder
from adapt.runs.folder import Run
from adapt.workflows.session import list_site, read_crops

log = logging.getLogger("resight")


@dataclass(frozen=True)
class Material:
    """Crops, labels and embeddings of a run's site; N crops.

    data: the very crops that the run learned from, or None. labels: (N,) per set, of the last
    round; may be none. embeddings: model -> (N, D) unit vectors, the old model's first; may be
    none. problems: part -> why it is missing, for people; parts are `crops`, `labels`, `models`.
    notes: what has to be known of what is there.
    """

    data: DecodedCrops | None = None
    labels: tuple[NDArray[np.int64], ...] = ()
    embeddings: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def gather(
    run: Run,
    target: Path | None,
    old: Run | None,
    device: torch.device,
    allocate: CropAllocator = allocate_crops,
) -> Material:
    """Find the crops again and embed them with the new network and the old one.

    target: where the crops are now; by default where the run read them. old: run of the network to
    compare with. allocate: makes the array for the decoded crops. What is missing or has changed
    is named in `Material.problems`, which the page shows.
    Raises ConfigError when `target` or `old` cannot belong to the run at all, and what `allocate`
    raises.
    """
    if run.info.kind == "import":
        raise ConfigError(
            f"{run.path} holds an imported network: there was no training to report on; "
            "`resight evaluate` scores it"
        )
    if run.info.kind != "adapt":
        if target is not None or old is not None:
            raise ConfigError(f"{run.path} is a pre-training run: leave out --target and --old")
        return Material(problems={"crops": "Pictures are made of the site that a run adapts to."})
    if old is not None and not old.info.preprocessing.fits(run.info.preprocessing):
        raise ConfigError(
            f"{old.path} takes crops of another size than {run.path}; leave out --old"
        )
    problems: dict[str, str] = {}
    data: DecodedCrops | None = None
    try:
        data = _crops(run, target, allocate)
    except (ConfigError, DataError) as error:
        problems["crops"] = str(error)
    labels: tuple[NDArray[np.int64], ...] = ()
    try:
        labels = run.labels()
    except RunError as error:
        problems["labels"] = str(error)
    if data is not None and any(len(each) != len(data) for each in labels):
        problems["labels"] = f"the labels of {run.path} are of another number of crops"
        labels = ()
    embeddings: dict[str, NDArray[np.float32]] = {}
    notes: list[str] = []
    if data is not None:
        try:
            embeddings = _embed(run, old, data, device)
            notes = [_of_old(run, old)]
        except RunError as error:
            problems["models"] = str(error)
    for problem in problems.values():
        log.warning("%s", problem)
    return Material(data, labels, embeddings, problems, tuple(notes))


def _crops(run: Run, target: Path | None, allocate: CropAllocator) -> DecodedCrops:
    """The run's crops.

    Raises DataError when they are gone or are not the same.
    """
    info, spec = run.info, run.info.spec
    if target is not None:
        spec = spec.changed(target=target)
    known = next((d for d in info.data if d.role == "target"), None)
    data = read_crops(list_site(spec), spec.recipe, info.preprocessing, allocate)
    if known is None or data.crops.fingerprint != known.fingerprint:
        was = f" ({known.crops} then, {len(data)} now)" if known else ""
        raise DataError(
            f"the crops below {spec.target} are not those that the run learned from{was}: some "
            "were added, removed or changed since; give the folder of the original crops as "
            "--target"
        )
    return data


def _embed(
    run: Run, old: Run | None, data: DecodedCrops, device: torch.device
) -> dict[str, NDArray[np.float32]]:
    models = {"after": run} if old is None else {"before": old, "after": run}
    return {
        name: network_embedder(each.network(), device)(data.images) for name, each in models.items()
    }


def _of_old(run: Run, old: Run | None) -> str:
    if old is None:
        return "Only the new model is shown: --old RUN shows the old one beside it."
    if old.network_hash() in run.info.origin.inits:
        return f"Before: the network of {old.path}, which this run started from."
    return f"Before: the network of {old.path}, which this run did NOT start from."

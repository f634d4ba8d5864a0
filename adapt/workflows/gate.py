"""A new model compared with an old one on a site's crops: `resight gate`, and the gate of a job."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapt.data.catalog.folders import read_site
from adapt.data.catalog.holdback import only_held_back
from adapt.data.decoding.decode import CropAllocator
from adapt.data.decoding.loading import load_crops
from adapt.data.decoding.mapped_file import MappedCrops
from adapt.evaluation.gate import GateReport, compare
from adapt.evaluation.proxies.sightings import Sightings
from adapt.evaluation.scoring import Embed, open_model
from adapt.types import CropSet
from models.files import write_atomically
from models.image import Preprocessing
from models.json_text import json_text


@dataclass(frozen=True)
class GateRequest:
    """What the gate compares, and on which crops.

    old, new: bundle or run folder. target: folder of the site's crops; no labels are read.
    hold_back: share of the crops that training left out, which then decide; None for all crops.
    camera_pattern: see `read_site`. seed: of the resamples. device: of the networks of run folders,
    `auto`, `cpu`, `cuda` or `cuda:N`.
    """

    old: Path
    new: Path
    target: Path
    hold_back: float | None = None
    camera_pattern: str | None = None
    seed: int = 1
    device: str = "auto"


def run_gate(request: GateRequest, json_file: Path | None = None) -> GateReport:
    """Compare both models, and write figures and verdict to a file of JSON.

    Raises:
        DataError, RunError, BundleError, ConfigError: a model or the crops cannot be used.
        OSError: the file cannot be written.
    """
    models = [open_model(path, request.device) for path in (request.old, request.new)]
    listing = read_site(request.target, request.camera_pattern)
    everything = len(listing)
    if request.hold_back is not None:
        listing = only_held_back(listing, request.hold_back)
    scratch = Path(tempfile.gettempdir()) if json_file is None else json_file.parent
    crops, (old_ND, new_NE) = _embedded(listing, models, MappedCrops(scratch).allocate)
    report = replace(
        compare(old_ND, new_NE, Sightings.of(crops), seed=request.seed),
        unreadable=sum(drop.image for drop in crops.dropped),
        not_held_back=everything - len(listing),
    )
    if json_file is not None:
        write_atomically(json_file, json_text(report.to_dict(), indent=1).encode() + b"\n")
    return report


def _embedded(
    listing: CropSet, models: list[tuple[Embed, Preprocessing]], allocate: CropAllocator
) -> tuple[CropSet, list[NDArray[np.float32]]]:
    """The readable crops, and each model's embeddings; pixels are kept for one input size only."""
    (embed_old, size), (embed_new, new_size) = models
    data = load_crops(listing, size, allocate=allocate)
    tables = [embed_old(data.images)]
    if new_size != size:
        del data
        data = load_crops(listing, new_size, allocate=allocate)
    return data.crops, [*tables, embed_new(data.images)]

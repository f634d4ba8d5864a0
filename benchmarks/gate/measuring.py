"""Part `measure`: proxies and true scores of every network of a site's runs, kept on disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapt.checkpoint import write_atomically
from adapt.data.cache import DecodedCrops
from adapt.data.folders import read_site
from adapt.data.holdback import only_held_back
from adapt.data.loading import load_crops
from adapt.device import pick_device
from adapt.errors import NonFiniteFeaturesError
from adapt.proxies.measure import PROXIES, ModelFigures, measure
from adapt.proxies.sightings import Measured, Sightings
from adapt.scoring import LabelledCrops, network_embedder
from adapt.types import CropSet
from benchmarks.gate.networks import KeptNetwork, kept_networks
from benchmarks.methods.results import PROTOCOLS
from models.files import sha256_file
from models.image import Preprocessing

log = logging.getLogger("resight")

SITE_FILE = "site.npz"


@dataclass(frozen=True)
class ModelResult:
    """One network on a site. scores: mAP by protocol, from the labels."""

    name: str
    method: str
    scores: Mapping[str, float]
    figures: ModelFigures


@dataclass(frozen=True)
class SiteResult:
    """All networks of a site. groups: (N,) of the crops that the proxies were measured on."""

    name: str
    groups: NDArray[np.int64]
    models: tuple[ModelResult, ...]


@dataclass(frozen=True)
class SiteToMeasure:
    """Crops that proxies are measured on, and labelled crops that tell the truth.

    hold_back: share that adaptation left out, to measure on these; 0 for all crops.
    """

    name: str
    target: Path
    data: Path
    hold_back: float = 0.0
    camera_pattern: str | None = None

    def listing(self) -> CropSet:
        """What the proxies are measured on."""
        crops = read_site(self.target, self.camera_pattern)
        return only_held_back(crops, self.hold_back) if self.hold_back else crops


def measure_site(site: SiteToMeasure, runs: Sequence[Path], out: Path, device: str) -> None:
    """Measure every network of the runs; what is in `out` already is not measured again.

    out: folder of this site. Raises SystemExit when it holds figures of other crops.
    """
    out.mkdir(parents=True, exist_ok=True)
    crops = _Crops(site)
    for kept in [network for run in runs for network in kept_networks(run)]:
        file = out / f"{sha256_file(kept.file)[:16]}.json"
        if file.exists():
            continue
        loaded = crops.decoded(kept.run.info.preprocessing)
        _check_site(out / SITE_FILE, loaded[0].crops)
        try:
            result = _measured(kept, *loaded, device)
        except NonFiniteFeaturesError as error:
            log.warning("%s is left out: %s", kept.name, error)
            continue
        write_result(file, result)
        log.info("%s: mAP %s", kept.name, {k: round(v, 3) for k, v in result.scores.items()})


class _Crops:
    """Decoded crops of the size asked for last."""

    def __init__(self, site: SiteToMeasure) -> None:
        self._site = site
        self._held: tuple[Preprocessing, DecodedCrops, LabelledCrops] | None = None

    def decoded(self, size: Preprocessing) -> tuple[DecodedCrops, LabelledCrops]:
        if self._held is None or self._held[0] != size:
            self._held = None
            target = load_crops(self._site.listing(), size)
            self._held = (size, target, LabelledCrops.read(self._site.data, size))
        return self._held[1:]


def _measured(
    kept: KeptNetwork, target: DecodedCrops, labelled: LabelledCrops, device: str
) -> ModelResult:
    embed = network_embedder(kept.load(), pick_device(device))
    figures = measure(embed(target.images), Sightings.of(target.crops))
    query = embed(labelled.query.images)
    gallery = query if labelled.gallery is labelled.query else embed(labelled.gallery.images)
    scores: dict[str, float] = {p: labelled.rank(query, gallery, protocol=p).mAP for p in PROTOCOLS}
    return ModelResult(kept.name, kept.run.info.method, scores, figures)


def _check_site(file: Path, crops: CropSet) -> None:
    """Write down which crops these are, or compare with what was written."""
    if not file.exists():
        np.savez(file, groups=Sightings.of(crops).groups, fingerprint=crops.fingerprint)
        return
    with np.load(file, allow_pickle=False) as kept:
        if str(kept["fingerprint"]) != crops.fingerprint:
            raise SystemExit(f"{file.parent} holds figures of other crops: remove it")


def write_result(file: Path, result: ModelResult) -> None:
    """Keep figures as JSON, and their parts beside it; the JSON is written last."""
    parts: dict[str, NDArray[Any]] = {}
    for name, each in result.figures.proxies.items():
        if each is not None and each.part is not None and each.row is not None:
            parts |= {name: each.part, f"{name}.row": each.row}
    np.savez(file.with_suffix(".npz"), **parts)  # type: ignore[arg-type]
    content = {
        "name": result.name,
        "method": result.method,
        "mAP": dict(result.scores),
        "proxies": {n: each and each.value for n, each in result.figures.proxies.items()},
        "largest_cluster": result.figures.largest_cluster,
        "dimension": result.figures.dimension,
    }
    write_atomically(file, json.dumps(content, indent=1).encode())


def read_site_result(folder: Path) -> SiteResult:
    """What `measure_site` left in a folder, ordered by the networks' names."""
    with np.load(folder / SITE_FILE, allow_pickle=False) as kept:
        groups = kept["groups"]
    models = [_read_result(file) for file in sorted(folder.glob("*.json"))]
    return SiteResult(folder.name, groups, tuple(sorted(models, key=lambda model: model.name)))


def _read_result(file: Path) -> ModelResult:
    content = json.loads(file.read_text())
    with np.load(file.with_suffix(".npz"), allow_pickle=False) as parts:
        proxies: dict[str, Measured | None] = {}
        for name in PROXIES:
            value = content["proxies"][name]
            if value is None:
                proxies[name] = None
            elif name in parts:
                proxies[name] = Measured(value, parts[name], parts[f"{name}.row"])
            else:
                proxies[name] = Measured(value)
    figures = ModelFigures(proxies, content["largest_cluster"], content["dimension"])
    return ModelResult(content["name"], content["method"], content["mAP"], figures)

"""Part `measure`: proxies and true scores of every network of a site's runs, kept on disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapt.data.catalog.holdback import held_back
from adapt.errors import NonFiniteFeaturesError, ZeroFeaturesError
from adapt.evaluation.gate import DEFAULT_RULE
from adapt.evaluation.proxies.measure import PROXIES, ModelFigures, measure
from adapt.evaluation.proxies.sightings import ProxyValue, Sightings
from adapt.evaluation.scoring import LabelledCrops, network_embedder
from adapt.runtime.device import pick_device
from adapt.types import CropSet
from benchmarks.gate.networks import KeptNetwork, NetworkStage
from benchmarks.gate.simulated import simulated_tracks
from benchmarks.methods.results import PROTOCOLS
from models.files import sha256_file, write_atomically
from models.image import Preprocessing
from models.json_text import json_text

log = logging.getLogger("resight")

SITE_FILE = "site.npz"


@dataclass(frozen=True)
class ModelResult:
    """One network on a site. scores: mAP by protocol, from the labels."""

    name: str
    stage: NetworkStage
    scores: Mapping[str, float]
    figures: ModelFigures


@dataclass(frozen=True)
class SiteResult:
    """All networks of a site. kind: sites of one kind are not evidence for each other.

    groups: (N,) of the crops that the proxies were measured on.
    """

    name: str
    kind: str
    groups: NDArray[np.int64]
    models: tuple[ModelResult, ...]


@dataclass(frozen=True)
class SiteToMeasure:
    """Labelled crops, read as `LabelledCrops`, that the proxies are measured on and judged by.

    To the proxies queries and gallery are one crowd without labels, but for `tracks`: these are
    `simulated_tracks`, what a tracker would tell. hold_back: if not 0, they see this share of the
    crops alone, of the tracks where there are some; the true mAP is of all crops.
    """

    name: str
    kind: str
    data: Path
    tracks: bool = False
    hold_back: float = 0.0

    def seen(self, crops: CropSet) -> tuple[NDArray[np.int64], Sightings]:
        """Rows that the proxies see, and what they may know of them."""
        of = simulated_tracks(crops) if self.tracks else Sightings.of(crops)
        rows = np.arange(len(crops))
        if self.hold_back:
            keys = [sample.key for sample in crops.samples]
            rows = np.flatnonzero(held_back(keys, of.tracks, self.hold_back))
        return rows, Sightings(of.cameras[rows], of.tracks[rows], of.times[rows])


def measure_site(
    sites: Sequence[SiteToMeasure], networks: Sequence[KeptNetwork], out: Path, device: str
) -> None:
    """Measure networks on sites of the same crops, which differ in what is known of these.

    What is below `out`, in a folder for each site, already is not measured again.
    Raises SystemExit when a folder holds figures of other crops.
    """
    crops = _Crops(sites[0].data)
    for kept in networks:
        name = f"{sha256_file(kept.file)[:16]}.json"
        missing = [site for site in sites if not (out / site.name / name).exists()]
        if not missing:
            continue
        labelled = crops.decoded(kept.run.info.preprocessing)
        everything = _everything(labelled)
        try:
            features, scores = _embedded(kept, labelled, device)
            for site in missing:
                rows, sightings = site.seen(everything)
                _check_site(out / site.name / SITE_FILE, site, sightings, everything)
                figures = measure(features[rows], sightings)
                result = ModelResult(kept.name, kept.stage, scores, figures)
                write_result(out / site.name / name, result)
        except (NonFiniteFeaturesError, ZeroFeaturesError) as error:
            log.warning("%s is left out: %s", kept.name, error)
            continue
        log.info("%s: mAP %s", kept.name, {k: round(v, 3) for k, v in scores.items()})


class _Crops:
    """Decoded crops of the size asked for last."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._held: tuple[Preprocessing, LabelledCrops] | None = None

    def decoded(self, size: Preprocessing) -> LabelledCrops:
        if self._held is None or self._held[0] != size:
            self._held = None
            self._held = (size, LabelledCrops.read(self._data, size))
        return self._held[1]


def _everything(labelled: LabelledCrops) -> CropSet:
    """Queries and gallery as one set."""
    query, gallery = labelled.query.crops, labelled.gallery.crops
    if labelled.gallery is labelled.query:
        return query
    code = {name: gallery.cameras.index(name) for name in query.cameras}
    moved = tuple(replace(s, camera=code[query.cameras[s.camera]]) for s in query.samples)
    print_both = query.fingerprint + gallery.fingerprint
    return replace(gallery, samples=(*moved, *gallery.samples), fingerprint=print_both)


def _embedded(
    kept: KeptNetwork, labelled: LabelledCrops, device: str
) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Embeddings of `_everything`, and mAP by protocol."""
    embed = network_embedder(kept.load(), pick_device(device))
    query = embed(labelled.query.images)
    alone = labelled.gallery is labelled.query
    gallery = query if alone else embed(labelled.gallery.images)
    scores: dict[str, float] = {}
    for protocol in PROTOCOLS:
        found = labelled.rank(query, gallery, protocol=protocol)
        scores[protocol] = found.mAP
        for doubt in found.doubts():
            log.warning("%s, %s: %s", kept.name, protocol, doubt)
    return query if alone else np.concatenate([query, gallery]), scores


def _check_site(file: Path, site: SiteToMeasure, sightings: Sightings, crops: CropSet) -> None:
    """Write down what site this is, or compare with what was written."""
    groups, rule = sightings.group_count, DEFAULT_RULE
    if len(sightings) < rule.min_crops or groups < rule.min_groups:
        raise SystemExit(
            f"{site.name}: on {len(sightings)} crops of {groups} tracks the gate holds"
        )
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            file, groups=sightings.groups, fingerprint=crops.fingerprint, kind=np.array(site.kind)
        )
        return
    with np.load(file, allow_pickle=False) as kept:
        if str(kept["fingerprint"]) != crops.fingerprint or str(kept["kind"]) != site.kind:
            raise SystemExit(f"{file.parent} holds figures of other crops or kind: remove it")


def write_result(file: Path, result: ModelResult) -> None:
    """Keep figures as JSON, and their parts beside it; the JSON is written last."""
    parts: dict[str, NDArray[Any]] = {}
    for name, each in result.figures.proxies.items():
        if each is not None and each.part is not None and each.row is not None:
            parts |= {name: each.part, f"{name}.row": each.row}
    np.savez(file.with_suffix(".npz"), **parts)  # type: ignore[arg-type]
    content = {
        "name": result.name,
        "stage": result.stage,
        "mAP": dict(result.scores),
        "proxies": {n: each and each.value for n, each in result.figures.proxies.items()},
        "largest_cluster": result.figures.largest_cluster,
        "dimension": result.figures.dimension,
    }
    write_atomically(file, json_text(content, indent=1).encode())


def read_site_result(folder: Path) -> SiteResult:
    """What `measure_site` left in a folder, ordered by the networks' names."""
    with np.load(folder / SITE_FILE, allow_pickle=False) as kept:
        groups, kind = kept["groups"], str(kept["kind"])
    models = [_read_result(file) for file in sorted(folder.glob("*.json"))]
    return SiteResult(
        folder.name, kind, groups, tuple(sorted(models, key=lambda model: model.name))
    )


def _read_result(file: Path) -> ModelResult:
    content = json.loads(file.read_text())
    with np.load(file.with_suffix(".npz"), allow_pickle=False) as parts:
        proxies: dict[str, ProxyValue | None] = {}
        for name in PROXIES:
            value = content["proxies"][name]
            if value is None:
                proxies[name] = None
            elif name in parts:
                proxies[name] = ProxyValue(value, parts[name], parts[f"{name}.row"])
            else:
                proxies[name] = ProxyValue(value)
    figures = ModelFigures(proxies, content["largest_cluster"], content["dimension"])
    return ModelResult(content["name"], content["stage"], content["mAP"], figures)

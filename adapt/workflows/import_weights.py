"""A network that others trained, as a run folder: to be adapted, judged and exported."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from adapt.data.batches.transforms import normalize
from adapt.errors import ConfigError
from adapt.runs.folder import Run, refuse_taken_run
from adapt.runs.info import Origin, RunInfo, library_versions
from adapt.runs.spec import RunSpec
from adapt.workflows.session import weights_hash
from models.backbones.net import ReIDNet
from models.backbones.trunks import refuse_small_images
from models.backbones.weights import load_weights
from models.errors import WeightsError
from models.image import Preprocessing
from models.self_test_images import make_self_test_images

log = logging.getLogger("resight")

SMALLEST_DISTANCE = 4e-4
"""Of the unit vectors of two images; the self-test of a bundle needs as much."""


def import_weights(spec: RunSpec, out: Path) -> Run:
    """Load `spec.weights` into a network and keep it, untrained, in a new run folder.

    Raises ConfigError, RunError, WeightsError, BackboneError.
    """
    start = time.monotonic()
    weights, backbone, size = str(spec.weights), spec.known_backbone, spec.known_preprocessing
    refuse_small_images(backbone, size.height, size.width)
    refuse_taken_run(out)
    if Run.is_at(Path(weights)):
        raise ConfigError(
            f"{weights} is a run folder already; give it as it is, to --init or --run"
        )
    net = ReIDNet(backbone)
    report = load_weights(net, weights)
    log.info("%s", report)
    _refuse_no_embedding(net, size, weights)
    if not report.neck:
        log.warning(
            "the file has no neck for this network: embeddings are the trunk's pooled features, "
            "not those that its authors got"
        )
    info = RunInfo(
        spec=spec.absolute(),
        origin=Origin(weights=weights_hash(backbone, weights)),
        data=(),
        device="cpu",
        threads=torch.get_num_threads(),
        versions=library_versions(),
        started=datetime.now(UTC),
    )
    run = Run.create(out, info)
    try:
        run.keep(net)
        run.finish(time.monotonic() - start)
    finally:
        run.release()
    return run


def _refuse_no_embedding(net: ReIDNet, size: Preprocessing, weights: str) -> None:
    """Refuse a network that gives images no unit vectors, or different ones the same."""
    images = torch.from_numpy(make_self_test_images(size.height, size.width))
    was_training = net.training
    net.eval()
    with torch.no_grad():
        vectors = net.embed(normalize(images))
    net.train(was_training)
    if not bool(vectors.isfinite().all()) or bool((vectors == 0).all(dim=1).any()):
        raise WeightsError(
            f"{weights}: the network gives NaN, infinity or zero vectors; check --backbone, and "
            "that the file was saved after a training that did not diverge"
        )
    if float(torch.pdist(vectors).min()) < SMALLEST_DISTANCE:
        raise WeightsError(
            f"{weights}: the network gives different images the same vector; check --backbone, and "
            "that the file was saved after a training that did not collapse"
        )

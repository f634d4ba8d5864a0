"""Score a network or a bundle on labelled crops: mAP and CMC."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adapt.clustering.camera_centering import center_cameras
from adapt.data.catalog.cameras import camera_numbers
from adapt.data.catalog.folders import labelled_splits, read_labelled
from adapt.data.decoding.decode import DecodedCrops
from adapt.data.decoding.loading import load_crops
from adapt.errors import DataError, RunError
from adapt.evaluation.feature_file import RetrievalSet, load_feature_file
from adapt.evaluation.metrics import RetrievalScores, evaluate_ranking, lengths
from adapt.evaluation.protocols import (
    JUNK,
    UNKNOWN_CAMERA,
    Labels,
    ProtocolName,
    check_matches,
)
from adapt.runs.folder import Run
from adapt.runtime.device import pick_device
from adapt.runtime.progress import progress
from adapt.training.extraction import EXTRACTION_BATCH, extract
from adapt.types import CropSet
from models.backbones.net import ReIDNet
from models.bundle import Bundle, check_self_test
from models.image import Preprocessing
from models.wording import plural

log = logging.getLogger("resight")

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""(N, H, W, 3) uint8 RGB -> (N, D) float32 embeddings."""

SAME_CROP = 1 - 1e-5
"""Cosine similarity from which two vectors of one identity may be of the same crop."""


@dataclass(frozen=True)
class LabelledCrops:
    """Labelled crops split into queries and a gallery.

    Without query and gallery folders every crop is both, and `gallery` is the same object as
    `query`; each protocol removes the query itself from its own ranking.
    """

    query: DecodedCrops
    gallery: DecodedCrops

    @classmethod
    def read(cls, root: Path, preprocessing: Preprocessing) -> LabelledCrops:
        """Read the queries against the gallery, or all training crops if there is nothing else.

        Raises DataError (also NoImagesError) when the layout is neither.
        """
        present = labelled_splits(root)
        if {"query", "gallery"} <= present:
            return cls(
                load_crops(read_labelled(root, ("query",)), preprocessing),
                load_crops(read_labelled(root, ("gallery",)), preprocessing),
            )
        if present == {"train"}:
            everything = load_crops(read_labelled(root, ("train",)), preprocessing)
            return cls(everything, everything)
        if "train" not in present:
            read_labelled(root, ("query", "gallery"))  # raises, and says what is missing
        raise DataError(
            f"{root} needs the folders query and bounding_box_test, or bounding_box_train alone "
            "(then every crop is a query against all others), or MSMT17's lists with their folders"
        )

    def check(self, protocol: ProtocolName) -> None:
        """Raise DataError where no query has a match, before anything is embedded."""
        check_matches(*self._labels(protocol), protocol)

    def _labels(self, protocol: ProtocolName) -> tuple[Labels, Labels]:
        """Of queries and gallery. Crops of the same pixels are one crop, in whichever files."""
        codes: tuple[NDArray[np.int64], ...] | tuple[None, None] = (None, None)
        if protocol == "any-camera":
            codes = _pixel_codes(self.query.images, self.gallery.images)
        query, gallery = (
            Labels(data.crops.persons, _camera_numbers(data), code)
            for data, code in zip((self.query, self.gallery), codes, strict=True)
        )
        return query, gallery

    def persons_of(self, crops: CropSet) -> NDArray[np.int64] | None:
        """(N,) identities of a site's crops, where every one of them is one of these by its file.

        None where any is not: a part of the site would be measured as if it were all. That some
        are not, or are junk, is logged.
        """
        own = {id(data): data for data in (self.query, self.gallery)}.values()
        known = {s.path.resolve(): s.person for data in own for s in data.crops.samples}
        found = [known.get(sample.path.resolve()) for sample in crops.samples]
        persons = [person for person in found if person is not None]
        if 0 < len(persons) < len(found):
            log.warning(
                "labels name %d of %s of the site, so its clusters are not compared with people",
                len(persons),
                plural(len(found), "crop"),
            )
        if len(persons) < len(found):
            return None
        junk = persons.count(JUNK)
        if junk:
            log.warning(
                "%d of %s of the site are junk: val_ari and val_pair_f are of the others",
                junk,
                plural(len(found), "crop"),
            )
        return np.array(persons, np.int64)

    def score(
        self, embed: Embed, *, protocol: ProtocolName = "market", camera_centering: bool = False
    ) -> RetrievalScores:
        """Embed both sets and rank them."""
        query = embed(self.query.images)
        gallery = query if self.gallery is self.query else embed(self.gallery.images)
        return self.rank(query, gallery, protocol=protocol, camera_centering=camera_centering)

    def rank(
        self,
        query: NDArray[np.float32],
        gallery: NDArray[np.float32],
        *,
        protocol: ProtocolName = "market",
        camera_centering: bool = False,
    ) -> RetrievalScores:
        """Score ready embeddings of the queries (Q, D) and the gallery (G, D).

        camera_centering: take the mean feature of each camera (over queries and gallery) away
        first; the training-free control every adaptation has to beat.
        """
        q, g = self._labels(protocol)
        if camera_centering and self.gallery is self.query:
            lengths("query", query)
            query = gallery = _centered(query, q.cameras)
        elif camera_centering:
            query, gallery = _center_together(query, q.cameras, gallery, g.cameras)
        crops = None if q.crops is None or g.crops is None else (q.crops, g.crops)
        scores = evaluate_ranking(
            query, q.ids, q.cameras, gallery, g.ids, g.cameras, protocol=protocol, crops=crops
        )
        query_dropped, gallery_dropped = (
            sum(drop.image for drop in data.crops.dropped) for data in (self.query, self.gallery)
        )
        return replace(scores, unreadable=query_dropped, gallery_unreadable=gallery_dropped)


def network_embedder(net: ReIDNet, device: torch.device) -> Embed:
    """Embed with a torch network."""

    def embed(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with progress("extract", len(images)) as tick:
            return extract([net.to(device)], images, device=device, progress=tick)[0]

    return embed


def bundle_embedder(bundle: Bundle) -> Embed:
    """Embed with an exported bundle on ONNX Runtime (CPU)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(bundle.model_path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def embed(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts: list[NDArray[np.float32]] = []
        with progress("extract", len(images)) as tick:
            for start in range(0, len(images), EXTRACTION_BATCH):
                parts.append(session.run(None, {name: images[start : start + EXTRACTION_BATCH]})[0])
                tick(min(start + EXTRACTION_BATCH, len(images)))
        return np.concatenate(parts)

    return embed


def open_model(path: Path, device: str) -> tuple[Embed, Preprocessing]:
    """Open a run folder or a bundle for scoring.

    Raises RunError or BundleError when it is neither.
    """
    if path.is_file():
        raise RunError(
            f"{path} is a file; give a run folder or a bundle: `resight import` makes a "
            "run folder of a checkpoint, `resight models wrap` a bundle of an ONNX model"
        )
    if Run.is_at(path):
        run = Run.open(path)
        return network_embedder(run.network(), pick_device(device)), run.info.preprocessing
    bundle = Bundle.open(path)
    bundle.verify()
    embed = bundle_embedder(bundle)
    check_self_test(embed, bundle)
    return embed, bundle.manifest.preprocessing


def score_features(
    path: Path, *, protocol: ProtocolName = "market", camera_centering: bool = False
) -> RetrievalScores:
    """Rank the ready features of an .npz file (see `load_feature_file`).

    Under any-camera a gallery image of a query's name is the query itself. Without names it is the
    same row where query and gallery arrays are equal; else the two share no crop, and vectors that
    seem to be shared are refused.
    """
    table = load_feature_file(path, needs_cameras=protocol != "any-camera")
    query, gallery = table.query_features, table.gallery_features
    if query.shape[1:] != gallery.shape[1:] or query.ndim != 2:
        raise DataError(
            f"{path}: query_features {query.shape} and gallery_features {gallery.shape} must be "
            "(Q, D) and (G, D) of one number of dimensions D"
        )
    crops = _crops_of(path, table) if protocol == "any-camera" else None
    if camera_centering:
        query, gallery = _center_together(
            query.astype(np.float32),
            table.query_cameras,
            gallery.astype(np.float32),
            table.gallery_cameras,
        )
    return evaluate_ranking(
        query,
        table.query_ids,
        table.query_cameras,
        gallery,
        table.gallery_ids,
        table.gallery_cameras,
        protocol=protocol,
        crops=crops,
    )


def _crops_of(path: Path, table: RetrievalSet) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(Q,) and (G,) codes, alike where a gallery image is the query itself.

    Raises DataError where vectors seem to be shared by queries and gallery, but no names tell.
    """
    if table.query_names is not None and table.gallery_names is not None:
        return table.query_names, table.gallery_names
    own = (table.query_features, table.query_ids, table.query_cameras)
    others = (table.gallery_features, table.gallery_ids, table.gallery_cameras)
    rows = np.arange(len(own[0]))
    if all(np.array_equal(one, other) for one, other in zip(own, others, strict=True)):
        return rows, rows
    shared = _found_again(table)
    if shared:
        raise DataError(
            f"{path}: {plural(shared, 'query vector')} found again in the gallery, with the "
            "same identity: if it is the query itself, it would come first; add query_names and "
            "gallery_names, alike where both are one crop"
        )
    return rows, len(rows) + np.arange(len(others[0]))


def _found_again(table: RetrievalSet) -> int:
    """Queries with a vector of their identity in the gallery that may be of the same crop.

    One crop that a network read twice, in another batch or precision, differs by rounding.
    """
    query, gallery = table.query_features, table.gallery_features
    owners: dict[int, list[int]] = {}
    for row, person in enumerate(table.gallery_ids.ravel().tolist()):
        owners.setdefault(person, []).append(row)
    found = 0
    for row, person in enumerate(table.query_ids.ravel().tolist()):
        rows = owners.get(person)
        if person == JUNK or not rows:
            continue
        others = gallery[rows].astype(np.float64)
        one = query[row].astype(np.float64)
        lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(one)
        found += bool((others @ one >= SAME_CROP * lengths).any())
    return found


def _pixel_codes(*sets: NDArray[np.uint8]) -> tuple[NDArray[np.int64], ...]:
    """(N,) codes of the images of each set, alike where all pixels are."""
    codes: dict[bytes, int] = {}
    return tuple(
        np.array(
            [
                codes.setdefault(hashlib.sha256(image.tobytes()).digest(), len(codes))
                for image in images
            ],
            np.int64,
        )
        for images in sets
    )


def _centered(features: NDArray[np.float32], cameras: NDArray[np.int64]) -> NDArray[np.float32]:
    """Features without each camera's mean. Raises DataError where a camera is unknown."""
    unknown = int((cameras == UNKNOWN_CAMERA).sum())
    if unknown:
        raise DataError(
            f"the camera of {plural(unknown, 'image')} is not known, so no camera's mean can be "
            "subtracted; leave out --center-cameras"
        )
    return center_cameras(features, cameras)


def _center_together(
    query: NDArray[np.float32],
    query_cameras: NDArray[np.int64],
    gallery: NDArray[np.float32],
    gallery_cameras: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both without the means of both together. Raises DataError for rows that a mean would hide."""
    lengths("query", query)
    lengths("gallery", gallery)
    both = _centered(
        np.concatenate([query, gallery]), np.concatenate([query_cameras, gallery_cameras])
    )
    return both[: len(query)], both[len(query) :]


def _camera_numbers(data: DecodedCrops) -> NDArray[np.int64]:
    """(N,) camera numbers, which are the same in every folder of a set, unlike codes."""
    return np.array(camera_numbers(data.crops.cameras), np.int64)[data.crops.camera_codes]

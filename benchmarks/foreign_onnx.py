"""Public ONNX files beside the bundles that `resight models wrap` makes of them.

    python -m benchmarks.foreign_onnx --data DIR [--data DIR ...] FILE.onnx [FILE.onnx ...]

Each file is scored twice on labelled crops with names of Market-1501. Once as it is: Pillow, NumPy,
OpenCV's bilinear resizing and ONNX Runtime, one image at a time, and a mean average precision
written out for each query; nothing of resight takes part. Once wrapped, in batches, as
`resight evaluate` does. Prints a Markdown table; ends with status 1 where a mAP differs by 0.00005
or more, so not equal to four digits. The files must want what torchreid's do: RGB, ImageNet's mean
and deviation, a batch of 1 or an open one.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from adapt.evaluation.protocols import ProtocolName
from adapt.evaluation.scoring import LabelledCrops, open_model
from models.foreign_graph import InputConvention
from models.wrap import GraphOptions, wrap_onnx

PROTOCOLS: tuple[ProtocolName, ...] = ("market", "other-camera")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

TOLERANCE = 5e-5
"""Two mAP that differ by less are equal to four digits."""

_NAME = re.compile(r"(-?\d+)_c(\d+)")


@dataclass(frozen=True)
class RawAndWrapped:
    """One file on one set; mAP by protocol.

    largest: largest difference of a component of the unit vectors, over all crops.
    """

    file: str
    graph: str
    changes: tuple[str, ...]
    data: str
    raw: dict[ProtocolName, float]
    wrapped: dict[ProtocolName, float]
    largest: float

    @property
    def same(self) -> bool:
        """Whether both mAP are equal to four digits."""
        return all(abs(self.raw[name] - self.wrapped[name]) < TOLERANCE for name in PROTOCOLS)

    def row(self) -> str:
        """Row of the table."""
        scores = [
            f"{self.raw[name]:.6f} | {self.wrapped[name]:.6f}{'' if self.same else ' DIFFERS'}"
            for name in PROTOCOLS
        ]
        changes = "; ".join(self.changes) or "nothing"
        return (
            f"| {self.file} | {self.graph} | {changes} | {self.data} | {' | '.join(scores)} | "
            f"{self.largest:.1e} |"
        )


COLUMNS = (
    *("file", "graph", "changed by wrapping", "set", "`market` mAP, file", "wrapped"),
    *("`other-camera` mAP, file", "wrapped", "vectors differ by"),
)


def vectors_of_file(onnx_path: Path, crops: Sequence[Path]) -> NDArray[np.float64]:
    """(N, D) outputs of a file for crops, of unit length, as a script without resight gets them."""
    session = onnxruntime.InferenceSession(onnx_path, providers=["CPUExecutionProvider"])
    taken = session.get_inputs()[0]
    height, width = taken.shape[2:]
    rows = []
    for path in crops:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
        x = (pixels / 255 - np.array(MEAN)) / np.array(STD)
        x = np.moveaxis(x, 2, 0)[np.newaxis].astype(np.float32)
        rows.append(session.run(None, {taken.name: x})[0].reshape(-1).astype(np.float64))
    return np.stack([row / np.sqrt((row * row).sum()) for row in rows])


def mean_average_precision(
    queries: NDArray[np.float64],
    query_crops: Sequence[Path],
    gallery: NDArray[np.float64],
    gallery_crops: Sequence[Path],
    protocol: ProtocolName,
) -> float:
    """Mean over queries with a match of the mean precision at their matches.

    Identities and cameras are read from the names. Set aside for a query: its own identity in its
    camera ("market"), or all of its camera ("other-camera").
    """
    labels = [_identity_and_camera(path) for path in gallery_crops]
    found = []
    for vector, path in zip(queries, query_crops, strict=True):
        person, camera = _identity_and_camera(path)
        hits, precisions, rank = 0, [], 0
        for i in np.argsort(-(gallery @ vector), kind="stable"):
            other_person, other_camera = labels[i]
            aside = other_camera == camera and (protocol != "market" or other_person == person)
            if aside or other_person == -1:
                continue
            rank += 1
            if other_person == person:
                hits += 1
                precisions.append(hits / rank)
        if precisions:
            found.append(sum(precisions) / hits)
    return sum(found) / len(found)


def _identity_and_camera(path: Path) -> tuple[int, int]:
    found = _NAME.match(path.name)
    if found is None:
        raise ValueError(f"{path}: the name does not begin with identity and camera, 0001_c1")
    return int(found[1]), int(found[2])


def splits(data: Path) -> tuple[list[Path], list[Path]]:
    """Queries and gallery of a set; all training crops as both where it has no queries."""
    if not (data / "query").is_dir():
        every = sorted((data / "bounding_box_train").iterdir())
        return every, every
    return sorted((data / "query").iterdir()), sorted((data / "bounding_box_test").iterdir())


def outcomes(onnx_path: Path, sets: Sequence[Path], work: Path) -> Iterator[RawAndWrapped]:
    """Wrap a file, and score both on each set."""
    wrapped = wrap_onnx(
        onnx_path,
        work / onnx_path.stem,
        name="public",
        version="1",
        created=datetime.now(UTC),
        convention=InputConvention(scale=1 / 255, mean=MEAN, std=STD),
        options=GraphOptions(interpolation="linear"),
    )
    embed, preprocessing = open_model(wrapped.bundle.path, "cpu")
    for data in sets:
        labelled = LabelledCrops.read(data, preprocessing)
        query = embed(labelled.query.images)
        gallery = query if labelled.gallery is labelled.query else embed(labelled.gallery.images)
        query_crops, gallery_crops = splits(data)
        raw_query = vectors_of_file(onnx_path, query_crops)
        same = query_crops == gallery_crops
        raw_gallery = raw_query if same else vectors_of_file(onnx_path, gallery_crops)
        at = {path: i for i, path in enumerate(gallery_crops)}
        order = [at[sample.path] for sample in labelled.gallery.crops.samples]
        yield RawAndWrapped(
            file=onnx_path.name,
            graph=_described(onnx_path),
            changes=wrapped.changes,
            data=data.name,
            raw={
                name: mean_average_precision(
                    raw_query, query_crops, raw_gallery, gallery_crops, name
                )
                for name in PROTOCOLS
            },
            wrapped={name: labelled.rank(query, gallery, protocol=name).mAP for name in PROTOCOLS},
            largest=float(np.abs(raw_gallery[order] - gallery).max()),
        )


def _described(onnx_path: Path) -> str:
    """Exporter, operator set and batch of a file."""
    model = onnx.load(onnx_path, load_external_data=False)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or "open"
    return f"{model.producer_name} {model.producer_version}, opset {opset}, batch {batch}"


def main(arguments: list[str] | None = None) -> int:
    """Score each file as it is and wrapped, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.foreign_onnx")
    parser.add_argument(
        "--data", type=Path, action="append", required=True, metavar="DIR", help="labelled crops"
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.onnx")
    given = parser.parse_args(arguments)
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|", flush=True)
    same = True
    with tempfile.TemporaryDirectory() as work:
        for i, path in enumerate(given.files):
            for outcome in outcomes(path, given.data, Path(work) / str(i)):
                print(outcome.row(), flush=True)
                same &= outcome.same
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())

"""Trained network -> bundle, with proof that the ONNX file computes the same.

The exported graph is: uint8 (B,H,W,3) RGB -> float -> /255 -> (x - mean) / std -> `ReIDNet.embed`,
so that a server cannot get the pre-processing wrong.
"""

from __future__ import annotations

import copy
import re
import warnings
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from adapt.errors import ExportError
from adapt.runs.folder import Run
from models.backbones.net import IMAGENET_MEAN, IMAGENET_STD, ReIDNet
from models.bundle import INPUT_NAME, OUTPUT_NAME, Bundle, refuse_taken_bundle, write_bundle
from models.manifest import NAME_PATTERN, VERSION_PATTERN, ModelCard
from models.self_test_images import make_self_test_images

OPSET = 18
"""ONNX operator set: what torch's exporter emits without conversion, and runtimes of 2023 read."""

MAX_DIFFERENCE = 1e-4
"""Largest absolute difference of any component between torch and ONNX Runtime."""

_PARITY_BATCHES = (1, 5)
_EXPORT_LIBRARIES = ("torch", "torchvision", "onnx", "onnxscript", "numpy")


class _Deployed(nn.Module):
    """`ReIDNet.embed` behind the pre-processing that training does in its data pipeline."""

    def __init__(self, net: ReIDNet) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B,H,W,3) -> float32 (B,D)."""
        x = images.permute(0, 3, 1, 2).to(torch.float32) / 255
        return self.net.embed((x - self.get_buffer("mean")) / self.get_buffer("std"))


def export_bundle(
    net: ReIDNet,
    out: Path,
    *,
    card: ModelCard,
    sample_images: NDArray[np.uint8] | None = None,
) -> Bundle:
    """Export a network to ONNX, compare it with torch at batch 1, 5 and n, and write a bundle.

    Args:
        net: trained network on any device; left as it was.
        out: folder to make; must not exist.
        card: name, version, backbone, pre-processing and origin of the model.
        sample_images: (n, height, width, 3) uint8 RGB for the self-test, n >= 2. They are stored
            in the bundle and travel with it, so the default is generated pictures that show
            nobody.

    Returns:
        The bundle, its hashes and self-test written.

    Raises:
        ExportError: the graph cannot be exported, or ONNX Runtime computes something else.
        BundleError: `out` is taken, or the images cannot be a self-test.
    """
    if card.backbone != net.backbone_name:
        raise ExportError(
            f"the card says {card.backbone}, the network is a {net.backbone_name}; "
            "give the card the network's backbone_name"
        )
    refuse_taken_bundle(out)
    height, width = card.preprocessing.height, card.preprocessing.width
    images = make_self_test_images(height, width) if sample_images is None else sample_images
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, 3) or len(images) < 2:
        raise ExportError(
            f"sample images are {images.dtype} {images.shape}; give at least 2 as uint8 "
            f"(n, {height}, {width}, 3), as `Preprocessing.load` makes them"
        )
    # A copy: neither mode nor device of the caller's network may change.
    deployed = _Deployed(copy.deepcopy(net).cpu()).eval()
    with torch.no_grad():
        if not bool(deployed(torch.from_numpy(images)).isfinite().all()):
            raise ExportError(
                "the network gives NaN: training diverged; train again with a lower learning rate"
            )
    model = _to_onnx(deployed, height, width)
    vectors = _check_parity(deployed, model, images)
    return write_bundle(
        out,
        card=card,
        model=model,
        images=images,
        vectors=vectors,
        libraries={
            **{name: version(name) for name in _EXPORT_LIBRARIES},
            "onnxruntime": onnxruntime.__version__,  # several distributions own the name
        },
    )


def export_run(
    run: Run, out: Path, *, name: str, version: str, round_number: int | None = None
) -> Bundle:
    """Export a network that a run kept, with the run's origin on its card.

    round_number: from 1, of a round whose network was kept; the last one unless given.
    The card's data are the sets that were learned from. Its scores are those of the round, if
    the run had a validation set. Of the last round of a run that was killed there are none: its
    network may be one round ahead.

    Raises:
        RunError: also where the scores are lost.
        ExportError, BundleError
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ExportError(
            f"{name!r} is not a valid name for a model: give --name, at most 63 of "
            "a-z 0-9 . _ - and a letter or digit first"
        )
    if not re.fullmatch(VERSION_PATTERN, version):
        raise ExportError(
            f"{version!r} is not a valid version of a model: give --version as one to "
            "three numbers, 1.2.0"
        )
    info = run.info
    net = run.network(round_number)
    unsure = round_number is None and info.state == "running"
    scored = any(data.role == "validation" for data in info.data)
    figures = run.figures_of(round_number or info.rounds) if scored and not unsure else None
    learned = [data for data in info.data if data.role != "validation"]
    card = ModelCard(
        name=name,
        version=version,
        backbone=info.backbone,
        preprocessing=info.preprocessing,
        method=info.method,
        recipe=info.spec.recipe_name,
        data={f"{data.role} {i}": data.fingerprint for i, data in enumerate(learned)},
        scores={key: value for key, value in (figures or {}).items() if "val_" in key},
        created=datetime.now(UTC),
    )
    return export_bundle(net, out, card=card)


def bundle_name(folder: Path) -> str:
    """A model's name from a folder's: lower case, other characters than a-z 0-9 . _ as `-`.

    May be empty, where nothing is left of it; `export_run` then says so.
    """
    plain = re.sub(r"[^a-z0-9._]+", "-", folder.resolve().name.lower())
    return plain.lstrip("-._")[:63].rstrip("-._")


def _to_onnx(deployed: _Deployed, height: int, width: int) -> bytes:
    # Batch 2, because the exporter takes 0 and 1 for constants.
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's notes to itself
            program = torch.onnx.export(
                deployed,
                (example,),
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        raise ExportError(
            f"torch cannot export this network ({error}); train with a backbone that "
            "`models.backbones.trunks.BACKBONES` lists"
        ) from error
    if program is None:
        raise ExportError("torch's exporter returned nothing; update torch and onnxscript")
    proto = program.model_proto
    _strip_traces(proto)
    return bytes(proto.SerializeToString())


def _strip_traces(proto: Any) -> None:
    """Remove the source paths of the exporting machine that torch notes at every node."""
    graphs = [proto.graph, *proto.functions]
    for holder in (proto, *graphs, *(node for graph in graphs for node in graph.node)):
        del holder.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        del value.metadata_props[:]


def _check_parity(
    deployed: _Deployed, model: bytes, images: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """max |torch - ONNX Runtime| at batch 1, 5 and n; returns ONNX Runtime's vectors at n."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    repeats = -(-max(_PARITY_BATCHES) // len(images))
    pool = np.concatenate([images] * repeats)
    vectors = np.empty(0, np.float32)
    for batch in (*_PARITY_BATCHES, len(images)):
        with torch.no_grad():
            expected = deployed(torch.from_numpy(pool[:batch])).numpy()
        vectors = session.run([OUTPUT_NAME], {INPUT_NAME: pool[:batch]})[0]
        same_shape = vectors.shape == expected.shape
        difference = float(np.abs(vectors - expected).max()) if same_shape else float("inf")
        if not difference <= MAX_DIFFERENCE:
            raise ExportError(
                f"at batch {batch} the ONNX file gives {vectors.shape}, {difference:.3g} away from "
                f"torch's {expected.shape} (allowed {MAX_DIFFERENCE:g}); update torch, onnxscript "
                "and onnxruntime"
            )
    return np.asarray(vectors, np.float32)

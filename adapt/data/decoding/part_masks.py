"""Masks of the upper and the lower body from a human-parsing model that the user gives.

The model is an ONNX file with
    one input   (B,3,h,w), B 1 or free, h and w fixed or free: RGB, uint8 0..255, or float32
                normalized as our networks' input is, (x / 255 - mean) / std of ImageNet
    one output  a class per pixel: integers (B,h',w') or (B,1,h',w'), or float scores (B,C,h',w'),
                of which the largest names the class
Crops are resized to h x w where these are fixed, and the map back to the crop. It runs once per
crop, on the CPU, before training; what else a parser wants (another channel order, say) belongs
into its graph.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adapt.data.batches.transforms import normalize
from adapt.data.decoding.decode import DecodedCrops
from adapt.errors import ConfigError
from adapt.runtime.progress import progress
from models.image import resize
from models.wording import plural

log = logging.getLogger("resight")

BATCH = 16
"""Crops that a model with a free batch gets at a time."""

_INPUTS = ("tensor(uint8)", "tensor(float)")


class PartParser:
    """Finds the pixels of body parts."""

    def __init__(self, path: Path, parts: Sequence[Sequence[int]]) -> None:
        """Args:
        path: the ONNX file.
        parts: the classes of each part, none empty.

        Raises ConfigError: no such file, no ONNX Runtime, or a model of another form.
        """
        self._path = path
        self.parts = tuple(tuple(classes) for classes in parts)
        self._session = _open(path)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise self._unfit(f"has {len(inputs)} inputs and {len(outputs)} outputs, not one each")
        shape = inputs[0].shape
        if inputs[0].type not in _INPUTS or len(shape) != 4 or shape[1] != 3:
            raise self._unfit(f"takes {inputs[0].type} {shape}, not uint8 or float (B,3,h,w)")
        if isinstance(shape[0], int) and shape[0] != 1:
            raise self._unfit(f"has a fixed batch of {shape[0]}, not 1 or a free one")
        self._name = inputs[0].name
        self._float = inputs[0].type == "tensor(float)"
        self._batch = 1 if isinstance(shape[0], int) else BATCH
        self._size = [side if isinstance(side, int) else None for side in shape[2:]]

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(B,H,W,3) uint8 RGB -> (B,H,W,P) uint8, 255 where a part is (less on its border).

        Raises ConfigError: the model fails, or its output is not a class map.
        """
        height, width = images.shape[1:3]
        masks = np.empty((*images.shape[:3], len(self.parts)), np.uint8)
        for start in range(0, len(images), self._batch):
            classes = self._classes(images[start : start + self._batch])
            for row, found in enumerate(classes, start=start):
                for part, wanted in enumerate(self.parts):
                    mask = np.isin(found, wanted).astype(np.uint8) * np.uint8(255)
                    masks[row, :, :, part] = resize(mask, height=height, width=width)
        return masks

    def _classes(self, images: NDArray[np.uint8]) -> NDArray[np.integer]:
        """(B,h',w') classes."""
        height, width = (self._size[i] or images.shape[1 + i] for i in range(2))
        fitted = torch.from_numpy(
            np.stack([resize(image, height=height, width=width) for image in images])
        )
        pixels = normalize(fitted) if self._float else fitted.permute(0, 3, 1, 2)
        try:
            (found,) = self._session.run(None, {self._name: pixels.contiguous().numpy()})
        except Exception as error:
            raise self._unfit(f"cannot parse {plural(len(images), 'crop')} ({error})") from error
        if len(found) == len(images):
            if np.issubdtype(found.dtype, np.floating) and found.ndim == 4:
                return self._largest(found)
            if np.issubdtype(found.dtype, np.integer) and found.ndim == 3:
                return np.asarray(found)
            if np.issubdtype(found.dtype, np.integer) and found.ndim == 4 and found.shape[1] == 1:
                return np.asarray(found[:, 0])
        raise self._unfit(
            f"gives {found.dtype} {found.shape} for {plural(len(images), 'crop')}, not "
            "integers (B,h,w) or float scores (B,C,h,w)"
        )

    def _largest(self, scores: NDArray[np.floating]) -> NDArray[np.integer]:
        highest = max(max(classes) for classes in self.parts)
        if scores.shape[1] <= highest:
            raise self._unfit(f"knows classes 0..{scores.shape[1] - 1}, and {highest} is asked for")
        if not np.isfinite(scores).all():
            raise self._unfit("gives NaN or infinite scores")
        return np.asarray(scores.argmax(axis=1))

    def _unfit(self, why: str) -> ConfigError:
        return ConfigError(
            f"options.parts_model: {self._path} {why}; docs/methods/source.md says what it has to "
            "take and give"
        )


def with_part_masks(data: DecodedCrops, parser: PartParser) -> DecodedCrops:
    """The same crops with a mask of each part as further channels, (N,H,W,3+P) uint8.

    Raises ConfigError: see `PartParser`; or a part is found in no crop at all.
    """
    masks = np.empty((*data.images.shape[:3], len(parser.parts)), np.uint8)
    with progress("body parts", len(data)) as tick:
        for start in range(0, len(data), BATCH):
            rows = slice(start, start + BATCH)
            masks[rows] = parser(data.images[rows])
            tick(min(start + BATCH, len(data)))
    found = masks.any(axis=(1, 2)).mean(axis=0)
    for classes, share in zip(parser.parts, found, strict=True):
        if not share:
            raise ConfigError(
                f"the parsing model finds classes {list(classes)} in none of "
                f"{plural(len(data), 'crop')}: "
                "set options.upper_classes and options.lower_classes to those of its data set"
            )
    log.info("body parts found in %s of the crops", ", ".join(f"{s:.0%}" for s in found))
    return replace(data, images=np.concatenate([data.images, masks], axis=3))


def _open(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(
            "options.parts_model needs ONNX Runtime: install resight[cpu] or resight[gpu]"
        ) from None
    if not path.is_file():
        raise ConfigError(f"options.parts_model: no file {path}; give the path of an ONNX model")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails here becomes an error of ours
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ConfigError(
            f"options.parts_model: ONNX Runtime cannot load {path} ({error}); export it again"
        ) from error

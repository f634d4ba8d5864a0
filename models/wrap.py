"""A foreign ONNX re-ID model -> bundle. Needs onnx and onnxruntime, not torch.

    e = f(transpose((scale x - mean) / std)),   embedding = e / max(||e||, 1e-12)

f is the foreign graph, kept node for node but for two things. MeanVarianceNormalization is spelled
out as the ONNX standard defines it, as ONNX Runtime's own gives NaN where a group is constant. And
graphs exported for one image often give wrong vectors, or none, for several: where they do,
constant reshapes are freed from a batch of 1. The bundle is compared, at batch 1 and n, with the
graph before this second change, run image by image.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from models.bundle import INPUT_NAME, OUTPUT_NAME, Bundle, refuse_taken_bundle, write_bundle
from models.errors import WrapError
from models.files import sha256_file
from models.foreign_graph import (
    InputConvention,
    image_inputs,
    reduced_to,
    spell_out_mvn,
    wrap_graph,
)
from models.image import Interpolation, Preprocessing
from models.manifest import ForeignSource, ModelCard
from models.self_test_images import make_self_test_images
from models.validation import explain
from models.wording import plural

try:
    import onnx
    import onnxruntime
except ImportError as _missing:
    raise WrapError(
        "wrapping a foreign model needs onnx and ONNX Runtime; "
        "install them with `pip install onnx onnxruntime`"
    ) from _missing

PIXELS_AS_THEY_ARE = InputConvention()

MAX_DIFFERENCE = 1e-4
"""Largest absolute difference of any component of the unit vectors from those image by image."""


@dataclass(frozen=True, kw_only=True)
class GraphOptions:
    """What a graph may leave open.

    height, width: input size in pixels; needed where the graph does not state it.
    interpolation: how crops are resized, as in the model's training.
    output: name of the embedding; needed where the graph has several outputs.
    """

    height: int | None = None
    width: int | None = None
    interpolation: Interpolation = "area"
    output: str | None = None


DEFAULTS = GraphOptions()


def wrap_onnx(
    onnx_path: Path,
    out: Path,
    *,
    name: str,
    version: str,
    created: datetime,
    convention: InputConvention = PIXELS_AS_THEY_ARE,
    options: GraphOptions = DEFAULTS,
) -> Bundle:
    """Make a bundle of a foreign ONNX model.

    Args:
        onnx_path: model with one float32 (1 or B,3,H,W) input.
        out: folder to make; must not exist.
        name, version: identity of the bundle.
        created: time of making, with time zone.
        convention: what the model expects of its pixels; RGB in 0..255 by default.
        options: what the graph leaves open.

    Returns:
        The bundle; it gives the original's vectors, as the ONNX standard defines them, normalized,
        at any batch size.

    Raises:
        WrapError: unreadable file, other inputs or outputs, or wrong at batch > 1 beyond repair.
        BundleError: `out` is taken.
    """
    refuse_taken_bundle(out)
    read = _read(onnx_path)
    size = _input_size(read, options.height, options.width)
    chosen = _choose_output(read, options.output)
    try:
        card = ModelCard(
            name=name,
            version=version,
            backbone=onnx_path.stem,
            preprocessing=Preprocessing(
                height=size[0], width=size[1], interpolation=options.interpolation
            ),
            method="foreign",
            created=created,
            foreign=ForeignSource(
                file=onnx_path.name, sha256=sha256_file(onnx_path), **asdict(convention)
            ),
        )
    except ValidationError as error:
        raise WrapError(f"no bundle can be made with {explain(error)}; change that") from error
    images = make_self_test_images(*size)
    original = _reduced(read, chosen)
    expected = _run_original(original, chosen, convention.apply(images))
    model, vectors = _first_equal(original, chosen, convention, images, expected)
    libraries = {
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }
    return write_bundle(
        out, card=card, model=model, images=images, vectors=vectors, libraries=libraries
    )


def _read(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise WrapError(f"no file {path}; check the path of the ONNX model")
    try:
        model = onnx.load(path)
    except Exception as error:
        raise WrapError(f"{path} is not an ONNX model ({error}); export it again") from error
    if not model.graph.node:
        raise WrapError(f"{path} is not an ONNX model (it holds no graph); export it again")
    return model


def _reduced(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    try:
        return spell_out_mvn(reduced_to(model, output))
    except Exception as error:
        raise WrapError(f"the graph is broken ({error}); export the model again") from error


def _input_size(model: onnx.ModelProto, height: int | None, width: int | None) -> tuple[int, int]:
    inputs = image_inputs(model)
    if len(inputs) != 1:
        names = [value.name for value in inputs]
        raise WrapError(f"the model has inputs {names}; only models with one image input fit")
    kind = inputs[0].type.tensor_type
    dims = [dim.dim_value for dim in kind.shape.dim]  # 0 where dynamic
    if kind.elem_type != onnx.TensorProto.FLOAT or len(dims) != 4 or dims[1] not in (0, 3):
        raise WrapError(
            f"the input is {onnx.TensorProto.DataType.Name(kind.elem_type)} {dims}, not FLOAT "
            "(B,3,H,W); export the model in that layout"
        )
    if dims[0] not in (0, 1):
        raise WrapError(f"the input has a fixed batch of {dims[0]}; export with 1 or dynamic")
    return _side("height", dims[2], height), _side("width", dims[3], width)


def _side(side: str, stated: int, asked: int | None) -> int:
    if stated and asked and stated != asked:
        raise WrapError(f"the model's {side} is fixed at {stated}, not {asked}: leave it out")
    if not stated and not asked:
        raise WrapError(f"the model does not fix its {side}; say which {side} it was trained with")
    return stated or asked or 0


def _choose_output(model: onnx.ModelProto, output: str | None) -> str:
    names = [value.name for value in model.graph.output]
    if output is None and len(names) == 1:
        return str(names[0])
    if output is None or output not in names:
        raise WrapError(f"say which output is the embedding; the model has {names}")
    return output


def _run_original(
    model: onnx.ModelProto, output: str, x: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Vectors of the reduced foreign graph with its own batch of 1, image by image, normalized."""
    session = _session(model.SerializeToString())
    name = image_inputs(model)[0].name
    vectors = np.stack([_run(session, output, name, x[i : i + 1]).ravel() for i in range(len(x))])
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(vectors).all() or (norms == 0).any():
        raise WrapError(
            "the model gives NaN, infinity or zero vectors; check scale, mean and std against "
            "what it was trained with"
        )
    return np.asarray(vectors / norms, np.float32)


def _first_equal(
    original: onnx.ModelProto,
    output: str,
    convention: InputConvention,
    images: NDArray[np.uint8],
    expected: NDArray[np.float32],
) -> tuple[bytes, NDArray[np.float32]]:
    """Wrap with as few changes as give the original's vectors at batch 1 and n."""
    height, width = images.shape[1:3]
    fault = WrapError("nothing tried")
    for free_batch in (False, True):
        model = wrap_graph(
            original,
            output,
            convention,
            height=height,
            width=width,
            dimension=expected.shape[1],
            free_batch=free_batch,
        )
        try:
            return model, _check_equal(_session(model), images, expected)
        except WrapError as error:
            fault = error
    raise WrapError(
        f"the model cannot be made to give the same vectors for a batch as image by image ({fault})"
        "; export it with a dynamic batch axis"
    ) from fault


def _check_equal(
    session: Any, images: NDArray[np.uint8], expected: NDArray[np.float32]
) -> NDArray[np.float32]:
    for batches in ([images[i : i + 1] for i in range(len(images))], [images]):
        vectors = np.concatenate([_run(session, OUTPUT_NAME, INPUT_NAME, b) for b in batches])
        if vectors.shape != expected.shape:
            raise WrapError(f"output {vectors.shape}, not {expected.shape}")
        worst = float(np.abs(vectors - expected).max())
        if not worst <= MAX_DIFFERENCE:
            raise WrapError(f"{worst:.3g} off at batch {len(batches[0])}")
    return vectors


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails here becomes an error of ours
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise WrapError(f"ONNX Runtime cannot load the model ({error})") from error


def _run(session: Any, output: str, name: str, batch: NDArray[Any]) -> NDArray[np.float32]:
    try:
        return np.asarray(session.run([output], {name: batch})[0], np.float32)
    except Exception as error:
        raise WrapError(
            f"ONNX Runtime cannot run {plural(len(batch), 'image')} ({error})"
        ) from error

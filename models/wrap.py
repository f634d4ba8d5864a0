"""A foreign ONNX re-ID model -> bundle. Needs onnx and onnxruntime, not torch.

    e = f(transpose((scale x - mean) / std)),   embedding = e / max(||e||, 1e-12)

f is the foreign graph, kept node for node where that works. What has to change for any batch, and
for float32 and uint8 outside, is tried from the least to the most: the graph as it is, its constant
shapes freed from the batch of its export, the graph run one image at a time inside of the bundle.
The bundle is compared, at batch 1 and n, with the original run image by image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from models.bundle import INPUT_NAME, Bundle, refuse_unwritable_bundle, write_bundle
from models.errors import WrapError
from models.files import sha256_file
from models.foreign_batch import free_batch, shapes_to_know
from models.foreign_file import (
    KNOWN_IR_VERSION,
    OLDEST_OPSET,
    opset_of,
    read_foreign,
    weight_hashes,
    why_not_loaded,
    with_known_ir_version,
    with_opset,
)
from models.foreign_graph import (
    ImageInput,
    InputConvention,
    described,
    has_mvn,
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

MAX_DIFFERENCE_HALF = 2e-3
"""The same for a graph that computes in float16, whose rounding differs from batch to batch."""


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


@dataclass(frozen=True)
class Wrapped:
    """A bundle of a foreign model, and what in the model was changed for it, in words."""

    bundle: Bundle
    changes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Original:
    """A foreign graph reduced to one image input and one output, and what it gives.

    vectors: (n,D) float32 of unit length, for the self-test images, image by image.
    tolerance: how far the bundle's vectors may be off.
    """

    model: onnx.ModelProto
    image: ImageInput
    convention: InputConvention
    images: NDArray[np.uint8]
    vectors: NDArray[np.float32]
    tolerance: float


class _DifferentVectorsError(WrapError):
    """The graph runs at some batch, but gives other vectors there."""


def wrap_onnx(
    onnx_path: Path,
    out: Path,
    *,
    name: str,
    version: str,
    created: datetime,
    convention: InputConvention = PIXELS_AS_THEY_ARE,
    options: GraphOptions = DEFAULTS,
) -> Wrapped:
    """Make a bundle of a foreign ONNX model.

    Args:
        onnx_path: model with one input of images, (B,3,H,W) or (B,H,W,3), in float32, float16,
            float64 or uint8, B fixed or open.
        out: folder to make; must not exist.
        name, version: identity of the bundle.
        created: time of making, with time zone.
        convention: what the model expects of its pixels; RGB in 0..255 by default.
        options: what the graph leaves open.

    Returns:
        The bundle, and what was changed; it gives the original's vectors, as the ONNX standard
        defines them, normalized, at any batch size.

    Raises:
        WrapError: unreadable file, other inputs or outputs, or wrong at other batches beyond
            repair.
        BundleError: `out` is taken or cannot be made.
    """
    refuse_unwritable_bundle(out)
    read, changes = read_foreign(onnx_path)
    output = _choose_output(read, options.output)
    reduced = _reduced(read, output)
    changes += _left_out(read, reduced)
    image = _image_input(reduced, output)
    changes += image.changes()
    size = _side("height", image.height, options.height), _side("width", image.width, options.width)
    if image.kind == onnx.TensorProto.UINT8 and not convention.keeps_pixels:
        raise WrapError(
            f"the input {image.name} takes uint8, so the graph scales pixels itself; leave scale, "
            "mean and std out"
        )
    card = _card(onnx_path, name, version, size, options.interpolation, convention, created)
    images = make_self_test_images(*size)
    model, form = _loadable(reduced)
    original, more = _measured(model, image, convention, images)
    wrapped, vectors, how = _first_equal(original)
    changes += [*form, *more, *how]
    libraries = {
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }
    bundle = write_bundle(
        out, card=card, model=wrapped, images=images, vectors=vectors, libraries=libraries
    )
    return Wrapped(bundle, tuple(changes))


def _choose_output(model: onnx.ModelProto, output: str | None) -> str:
    names = [value.name for value in model.graph.output]
    if output is None and len(names) == 1:
        return str(names[0])
    if output not in names:
        known = ", ".join(described(value) for value in model.graph.output)
        if output is not None:
            raise WrapError(
                f"the model has no output {output}, but {known}; name one of these (--output)"
            )
        raise WrapError(
            f"the model has the {plural(len(names), 'output')} {known}; say which one is the "
            "embedding (--output)"
        )
    return str(output)


def _reduced(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    try:
        return spell_out_mvn(reduced_to(model, output))
    except WrapError:
        raise
    except Exception as error:
        raise WrapError(f"the graph is broken ({error}); export the model again") from error


def _left_out(read: onnx.ModelProto, reduced: onnx.ModelProto) -> list[str]:
    """What of a graph does not go into the bundle, and what became constant."""
    changes = []
    kept = {value.name for value in (*reduced.graph.input, *reduced.graph.output)}
    weights = {tensor.name for tensor in read.graph.initializer}
    used = {tensor.name for tensor in reduced.graph.initializer}
    for noun, values in (("input", image_inputs(read)), ("output", read.graph.output)):
        if dropped := [value.name for value in values if value.name not in kept]:
            changes.append(f"{plural(len(dropped), noun)} left out: {', '.join(dropped)}")
    if unused := len(weights - used):
        changes.append(f"{plural(unused, 'weight')} left out that the output does not need")
    if defaults := len([value for value in read.graph.input if value.name in used]):
        changes.append(f"{plural(defaults, 'input')} with a default value made constant")
    if has_mvn(read):
        changes.append("MeanVarianceNormalization spelled out as the ONNX standard defines it")
    return changes


def _image_input(model: onnx.ModelProto, output: str) -> ImageInput:
    inputs = image_inputs(model)
    if not inputs:
        raise WrapError(
            f"the output {output} is made from the model's constants alone, not from an image; "
            "name another output (--output), or export the model again"
        )
    if len(inputs) != 1:
        names = ", ".join(described(value) for value in inputs)
        raise WrapError(
            f"the output {output} needs these inputs: {names}; only models with one image input "
            "fit: export the model with the others fixed"
        )
    return ImageInput.of(inputs[0])


def _side(side: str, stated: int, asked: int | None) -> int:
    if stated and asked and stated != asked:
        raise WrapError(f"the model's {side} is fixed at {stated}, not {asked}: leave it out")
    if not stated and not asked:
        raise WrapError(
            f"the model does not fix its {side}; say which {side} it was trained with (--{side})"
        )
    return stated or asked or 0


def _card(
    onnx_path: Path,
    name: str,
    version: str,
    size: tuple[int, int],
    interpolation: Interpolation,
    convention: InputConvention,
    created: datetime,
) -> ModelCard:
    try:
        return ModelCard(
            name=name,
            version=version,
            backbone=onnx_path.stem,
            preprocessing=Preprocessing(height=size[0], width=size[1], interpolation=interpolation),
            method="foreign",
            created=created,
            foreign=ForeignSource(
                file=onnx_path.name,
                sha256=sha256_file(onnx_path),
                weights=weight_hashes(onnx_path),
                **asdict(convention),
            ),
        )
    except ValidationError as error:
        raise WrapError(f"no bundle can be made with {explain(error)}; change that") from error


def _loadable(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """A graph in a form that ONNX Runtime loads, and what was changed for that."""
    try:
        _session(model)
        return model, []
    except WrapError as fault:
        if model.ir_version > KNOWN_IR_VERSION:
            known, _ = _loadable(with_known_ir_version(model))
            return known, [f"IR version {model.ir_version} written as {KNOWN_IR_VERSION}"]
        reason = why_not_loaded(model) or "export the model again, or for another operator set"
        raise WrapError(f"{fault}; {reason}") from fault


def _measured(
    model: onnx.ModelProto,
    image: ImageInput,
    convention: InputConvention,
    images: NDArray[np.uint8],
) -> tuple[_Original, list[str]]:
    """Run a graph with its own batch, 1 where it is open, on the self-test images."""
    session, batch = _session(model), image.batch or 1
    padded = np.resize(images, (-(-len(images) // batch) * batch, *images.shape[1:]))
    x = image.feed(convention, padded)
    parts = [_run(session, image.name, x[i : i + batch]) for i in range(0, len(x), batch)]
    name = model.graph.output[0].name
    if not np.array_equal(_run(session, image.name, x[:batch]), parts[0], equal_nan=True):
        raise WrapError(
            f"the output {name} is another one at each run for the same image (dropout?); export "
            "the model in evaluation mode"
        )
    kind, shape = parts[0].dtype, parts[0].shape
    if kind not in (np.float32, np.float16, np.float64):
        raise WrapError(f"the output {name} is {kind}, not an embedding; choose another output")
    one = shape[1:] if shape[:1] == (batch,) else shape
    if batch > 1 and shape[:1] != (batch,):
        raise WrapError(
            f"the output {name} is {shape} for a batch of {batch}, not one row for each image; "
            "export the model with a batch of 1 or an open one"
        )
    _refuse_no_embedding(name, one)
    vectors = np.concatenate([part.reshape(batch, -1) for part in parts]).astype(np.float32)
    vectors = vectors[: len(images)]
    half = np.float16 in (kind, x.dtype) or any(
        tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer
    )
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(vectors).all() or (norms == 0).any():
        raise WrapError(
            "the model gives NaN, infinity or zero vectors; check scale, mean and std against "
            "what it was trained with" + (", or export it in float32" if half else "")
        )
    unit = np.asarray(vectors / norms, np.float32)
    _refuse_class_scores(name, vectors)
    tolerance = MAX_DIFFERENCE_HALF if half else MAX_DIFFERENCE
    if np.ptp(unit, axis=0).max() <= tolerance:
        raise WrapError(
            f"the output {name} is the same for every image; check scale, mean and std, and the "
            "export: quantized too far, or not fed by the input"
        )
    changes = [f"the output's {kind} cast to float32"] if kind != np.float32 else []
    if len(one) > 1:
        changes.append(f"the output's {one} for each image flattened")
    original = _Original(
        model=model,
        image=image,
        convention=convention,
        images=images,
        vectors=unit,
        tolerance=tolerance,
    )
    return original, changes


def _refuse_no_embedding(name: str, shape: tuple[int, ...]) -> None:
    """Refuse an output that does not have one vector for each image."""
    head = f"the output {name} is {shape} for each image"
    long = [side for side in shape if side > 1]
    if len(long) == 1:
        return
    if not long:
        raise WrapError(f"{head}, one number, not an embedding; choose another output")
    if len(shape) == 3:
        raise WrapError(
            f"{head}, a feature map that is not pooled; export the model with its pooling, or "
            "choose another output"
        )
    raise WrapError(
        f"{head}, several vectors (of tokens or parts of the body); export the model so that it "
        "joins or pools them, or choose another output"
    )


def _refuse_class_scores(name: str, vectors: NDArray[np.float32]) -> None:
    """Refuse (n,D) rows that are probabilities; scores before a Softmax look like an embedding."""
    if (vectors >= 0).all() and np.allclose(vectors.sum(axis=1), 1, atol=MAX_DIFFERENCE_HALF):
        raise WrapError(
            f"the output {name} is never negative and sums to 1 for each image: class scores, not "
            "an embedding; export the model without its last layer, or name another output "
            "(--output)"
        )


def _first_equal(original: _Original) -> tuple[bytes, NDArray[np.float32], list[str]]:
    """Wrap with as few changes as give the original's vectors at batch 1 and n."""
    batch, images = original.image.batch, original.images
    faults: list[WrapError] = []
    for model, one_by_one, changes in _attempts(original):
        mixes = bool(faults) and isinstance(faults[0], _DifferentVectorsError)
        if one_by_one and (batch > 1 or (batch == 0 and mixes)):
            break
        try:
            wrapped = wrap_graph(
                model,
                original.image,
                original.convention,
                height=images.shape[1],
                width=images.shape[2],
                dimension=original.vectors.shape[1],
                one_by_one=one_by_one,
            )
            return _serialized(wrapped), _check_equal(_session(wrapped), original), changes
        except WrapError as error:
            faults.append(error)
    if batch > 1:
        raise WrapError(
            f"the graph is fixed at a batch of {batch} and cannot be freed from it ({faults[-1]}); "
            "export it with a batch of 1, or an open one"
        ) from faults[-1]
    if batch == 0 and isinstance(faults[0], _DifferentVectorsError):
        raise WrapError(
            f"the graph mixes the images of a batch, other vectors than one by one ({faults[0]}); "
            "export it in evaluation mode, or with a fixed batch of 1"
        ) from faults[0]
    raise WrapError(
        "the model cannot be made to give the same vectors for a batch as image by image "
        f"({faults[-1]}); export it with a dynamic batch axis"
    ) from faults[-1]


def _attempts(original: _Original) -> Iterator[tuple[onnx.ModelProto, bool, list[str]]]:
    """Graph, whether to run it one image at a time, what was changed; from the least change on."""
    model, image = original.model, original.image
    open_batch = [f"the fixed batch of {image.batch} made open"] if image.batch else []
    yield model, False, open_batch
    freed, count = free_batch(model, image, _shapes(original))
    if count:
        places = plural(count, "constant shape")
        yield freed, False, [f"{places} freed from a batch of {image.batch or 1}"]
    changes = [
        "the graph works for one image alone: it runs one at a time inside of the bundle, slower "
        "for many; export it with a dynamic batch axis for speed"
    ]
    if (opset := opset_of(model)) < OLDEST_OPSET:
        changes.append(f"operator set {opset} converted to {OLDEST_OPSET}")
        model = with_opset(model, OLDEST_OPSET)
    yield model, True, changes


def _shapes(original: _Original) -> dict[str, tuple[int, ...]]:
    """Shapes of the values that `free_batch` asks for, as the graph runs at its own batch."""
    images = np.resize(original.images, (original.image.batch or 1, *original.images.shape[1:]))
    x = original.image.feed(original.convention, images)
    known = {tensor.name: tuple(tensor.dims) for tensor in original.model.graph.initializer}
    known[original.image.name] = x.shape
    names = shapes_to_know(original.model, original.image)
    inner = [name for name in names if name not in known]
    model = onnx.ModelProto()
    model.CopyFrom(original.model)
    outputs = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in inner if n not in outputs)
    values = _session(model).run(inner, {original.image.name: x}) if inner else []
    found = {name: value.shape for name, value in zip(inner, values, strict=True)}
    return {name: known.get(name, found.get(name, ())) for name in names}


def _check_equal(session: Any, original: _Original) -> NDArray[np.float32]:
    images, expected = original.images, original.vectors
    for batches in ([images[i : i + 1] for i in range(len(images))], [images]):
        rows = [_run(session, INPUT_NAME, batch) for batch in batches]
        vectors = np.concatenate(rows).astype(np.float32, copy=False)
        if vectors.shape != expected.shape:
            raise WrapError(f"output {vectors.shape}, not {expected.shape}")
        worst = float(np.abs(vectors - expected).max())
        if not worst <= original.tolerance:
            raise _DifferentVectorsError(f"{worst:.3g} off at batch {len(batches[0])}")
    return vectors


def _serialized(model: onnx.ModelProto) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except Exception as error:  # protobuf's own errors differ from version to version
        raise WrapError(
            f"the model does not fit into one ONNX file of 2 GiB ({error}); export it in float16, "
            "or a smaller network"
        ) from error


def _session(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails here becomes an error of ours
    providers = ["CPUExecutionProvider"]
    data = _serialized(model)
    try:
        return onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:
        raise WrapError(f"ONNX Runtime cannot load the model ({error})") from error


def _run(session: Any, name: str, batch: NDArray[Any]) -> NDArray[Any]:
    """The first output of a session."""
    try:
        return np.asarray(session.run(None, {name: batch})[0])
    except Exception as error:
        raise WrapError(
            f"ONNX Runtime cannot run {plural(len(batch), 'image')} ({error})"
        ) from error

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from models.bundle import Bundle
from service.embedding.engine import CUDA, OnnxEngine, fingerprint
from service.errors import EngineError, ModelLoadError
from tests.support.tiny_model import (
    DIMENSION,
    HEIGHT,
    WIDTH,
    embed,
    onnx_model,
    write_tiny_bundle,
)


def _load(bundle: Bundle) -> OnnxEngine:
    return OnnxEngine.load(bundle, provider="cpu", threads=1)


def test_computes_what_numpy_computes(tiny_bundle: Bundle) -> None:
    engine = _load(tiny_bundle)
    assert engine.model.reference == "tiny@1"
    assert (engine.model.dimension, engine.model.height) == (DIMENSION, HEIGHT)
    assert engine.model.provider == "cpu"
    assert not engine.fallback
    for batch in (1, 2, 7):
        images = np.random.default_rng(batch).integers(0, 256, (batch, HEIGHT, WIDTH, 3), np.uint8)
        np.testing.assert_allclose(engine.embed(images), embed(images), atol=1e-6)


def test_auto_takes_what_the_runtime_has(tiny_bundle: Bundle) -> None:
    engine = OnnxEngine.load(tiny_bundle, provider="auto", threads=1)
    assert engine.model.provider == "cpu" or CUDA in onnxruntime.get_available_providers()


@pytest.mark.skipif(
    CUDA in onnxruntime.get_available_providers(), reason="this build of the runtime has CUDA"
)
def test_cuda_is_refused_where_there_is_none(tiny_bundle: Bundle) -> None:
    with pytest.raises(ModelLoadError, match=r"resight\[gpu\]"):
        OnnxEngine.load(tiny_bundle, provider="cuda", threads=1)


def test_a_changed_file_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "copy")
    model = tmp_path / "copy" / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(ModelLoadError, match="not what its maker wrote"):
        _load(Bundle.open(tmp_path / "copy"))


def test_a_model_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "b", model=onnx_model(shift=60.0))
    with pytest.raises(ModelLoadError, match="away from the recorded vector"):
        _load(bundle)


def test_a_model_that_is_wrong_at_batch_n_only_is_refused(tmp_path: Path) -> None:
    """The known trap: every row of a batch gets the first row's vector."""
    model = onnx.load_from_string(onnx_model())
    graph = model.graph
    graph.initializer.append(onnx.helper.make_tensor("zero", onnx.TensorProto.INT64, [1], [0]))
    graph.initializer.append(onnx.helper.make_tensor("one", onnx.TensorProto.INT64, [1], [1]))
    last = graph.node[-1]
    last.output[0] = "right"
    graph.node.extend(
        [
            onnx.helper.make_node("Slice", ["right", "zero", "one", "zero"], ["first"]),
            onnx.helper.make_node("Shape", ["right"], ["shape"]),
            onnx.helper.make_node("Expand", ["first", "shape"], ["embeddings"]),
        ]
    )
    bundle = write_tiny_bundle(tmp_path / "b", model=model.SerializeToString())
    with pytest.raises(ModelLoadError, match="at batch 4"):
        _load(bundle)


def test_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    model = onnx.load_from_string(onnx_model())
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(ModelLoadError, match="free batch size"):
        _load(write_tiny_bundle(tmp_path / "b", model=model.SerializeToString()))


def test_another_input_is_refused(tmp_path: Path) -> None:
    model = onnx.load_from_string(onnx_model())
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = HEIGHT * 2
    with pytest.raises(ModelLoadError, match="export or wrap the model again"):
        _load(write_tiny_bundle(tmp_path / "b", model=model.SerializeToString()))


def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "b", model=b"no onnx")
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        _load(bundle)


def test_a_failing_run_is_an_engine_error(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="the model failed"):
        _load(tiny_bundle).embed(np.zeros((1, HEIGHT + 1, WIDTH, 3), np.uint8))


def test_the_fingerprint_is_of_what_decides_the_vectors(
    tiny_bundle: Bundle, other_bundle: Bundle, tmp_path: Path
) -> None:
    renamed = write_tiny_bundle(tmp_path / "renamed", name="renamed", version="7")
    assert fingerprint(renamed) == fingerprint(tiny_bundle)
    assert fingerprint(other_bundle) != fingerprint(tiny_bundle)
    linear = tiny_bundle.manifest.preprocessing.model_copy(update={"interpolation": "linear"})
    manifest = tiny_bundle.manifest.model_copy(update={"preprocessing": linear})
    changed = Bundle(tiny_bundle.path, manifest, tiny_bundle.digest)
    assert fingerprint(changed) != fingerprint(tiny_bundle)

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from models.bundle import Bundle, check_self_test, write_bundle
from models.errors import BundleExistsError, SelfTestFailedError, WrapError
from models.foreign_graph import InputConvention
from models.manifest import ModelCard
from models.wrap import GraphOptions, wrap_onnx

REAL_DATA = Path(
    os.environ.get("RESIGHT_REAL_DATA", Path(__file__).parents[2].parent / "shared" / "data")
)
REAL_MODEL = REAL_DATA / "weights" / "person-reidentification-retail-0267.onnx"
FLOAT = onnx.TensorProto.FLOAT
HEIGHT, WIDTH, CHANNELS = 32, 16, 8
CONVENTION = InputConvention(
    channel_order="bgr", mean=(104.0, 117.0, 123.0), std=(58.0, 57.0, 57.0)
)


class Foreign:
    """A small embedding graph; `tail` is what follows the pooled (B,8,1,1) tensor `pooled`."""

    def __init__(self, tail: list[Any], weights: dict[str, NDArray[Any]], *, rank: int = 2) -> None:
        self.ranks = {"out": rank, "pooled": 4}
        rng = np.random.default_rng(0)
        self.weights = {
            "w": rng.normal(0, 0.3, (CHANNELS, 3, 4, 4)).astype(np.float32),
            "b": rng.normal(0, 0.3, CHANNELS).astype(np.float32),
            **weights,
        }
        self.nodes = [
            helper.make_node("Conv", ["data", "w", "b"], ["conv"], strides=[4, 4]),
            helper.make_node("Relu", ["conv"], ["relu"]),
            helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
            *tail,
        ]

    def save(
        self,
        path: Path,
        *,
        dims: tuple[Any, ...] = (1, 3, HEIGHT, WIDTH),
        opset: int = 9,
        ir_version: int = 4,
        outputs: tuple[str, ...] = ("out",),
        kind: int = FLOAT,
        list_weights_as_inputs: bool = False,
    ) -> Path:
        tensors = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        inputs = [helper.make_tensor_value_info("data", kind, dims)]
        if list_weights_as_inputs:
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
        infos = [
            helper.make_tensor_value_info(name, FLOAT, [None] * self.ranks[name])
            for name in outputs
        ]
        graph = helper.make_graph(self.nodes, "g", inputs, infos, tensors)
        opsets = [helper.make_opsetid("", opset)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=ir_version), path)
        return path


def shape(*dims: int) -> NDArray[np.int64]:
    return np.array(dims, np.int64)


def reshape(source: str, target: str, by: str) -> Any:
    return helper.make_node("Reshape", [source, by], [target])


FLAT = Foreign([helper.make_node("Flatten", ["pooled"], ["out"])], {})
TAILS = {
    "dynamic": FLAT,
    "four axes": Foreign([helper.make_node("Relu", ["pooled"], ["out"])], {}, rank=4),
    "pinned to [1,8]": Foreign([reshape("pooled", "out", "s")], {"s": shape(1, CHANNELS)}),
    "pinned to [1,-1]": Foreign([reshape("pooled", "out", "s")], {"s": shape(1, -1)}),
    # Group norm as torch wrote it for opset 9: here the leading 1 is right at any batch.
    "group norm, pinned": Foreign(
        [
            reshape("pooled", "grouped", "s1"),
            reshape("grouped", "folded", "s2"),
            helper.make_node("MeanVarianceNormalization", ["folded"], ["mvn"], axes=[2, 3]),
            helper.make_node("Shape", ["pooled"], ["was"]),
            reshape("mvn", "unfolded", "was"),
            reshape("gamma", "scale", "s4"),  # a weight: its leading 1 must stay
            helper.make_node("Mul", ["unfolded", "scale"], ["scaled"]),
            reshape("scaled", "out", "s3"),
        ],
        {
            "s1": shape(0, 2, -1, 0),
            "s2": shape(1, -1, 0, 0),
            "s3": shape(1, CHANNELS),
            "s4": shape(1, CHANNELS, 1, 1),
            "gamma": np.linspace(0.5, 2, CHANNELS, dtype=np.float32),
        },
    ),
}


def wrap(path: Path, out: Path, **changes: Any) -> Bundle:
    given: dict[str, Any] = {
        "name": "foreign",
        "version": "1",
        "created": datetime(2026, 1, 2, tzinfo=UTC),
        "convention": CONVENTION,
    }
    of_graph = {field.name for field in fields(GraphOptions)}
    options = GraphOptions(**{name: changes[name] for name in of_graph & changes.keys()})
    rest = {name: value for name, value in changes.items() if name not in of_graph}
    return wrap_onnx(path, out, options=options, **(given | rest))


def embedder(bundle: Bundle) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(
        str(bundle.model_path), providers=["CPUExecutionProvider"]
    )
    return lambda images: np.asarray(session.run(["embeddings"], {"images": images})[0])


def original_vectors(
    path: Path, images: NDArray[np.uint8], convention: InputConvention, output: str
) -> NDArray[np.float32]:
    """The file as it is, by hand: one image at a time, then unit length."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = convention.apply(images)
    rows = np.stack(
        [session.run([output], {"data": x[i : i + 1]})[0].ravel() for i in range(len(x))]
    )
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (6, HEIGHT, WIDTH, 3)).astype(np.uint8)


@pytest.mark.parametrize("kind", sorted(TAILS))
def test_the_bundle_gives_the_originals_vectors_at_any_batch(
    kind: str, tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    path = TAILS[kind].save(tmp_path / "model.onnx")
    bundle = wrap(path, tmp_path / "bundle")
    embed = embedder(bundle)
    expected = original_vectors(path, images, CONVENTION, "out")
    for batch in (1, 5, 6):
        np.testing.assert_allclose(embed(images[:batch]), expected[:batch], atol=1e-5)
    bundle.verify()
    assert check_self_test(embed, bundle) < 1e-5
    manifest = bundle.manifest
    assert (manifest.method, manifest.backbone, manifest.dimension) == (
        "foreign",
        "model",
        CHANNELS,
    )
    assert (manifest.preprocessing.height, manifest.preprocessing.width) == (HEIGHT, WIDTH)


def test_the_bundle_gives_what_the_standard_defines_where_the_runtime_does_not(
    tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    """A dead channel: ONNX Runtime's own MVN gives NaN, ONNX's reference does not."""
    normed = Foreign([helper.make_node("Flatten", ["pooled"], ["out"])], {})
    normed.weights["w"][0], normed.weights["b"][0] = 0, 1
    normed.nodes[1:2] = [
        helper.make_node("MeanVarianceNormalization", ["conv"], ["normed"], axes=[2, 3]),
        helper.make_node("Relu", ["normed"], ["relu"]),
    ]
    path = normed.save(tmp_path / "model.onnx")
    assert not np.isfinite(original_vectors(path, images, CONVENTION, "out")).all()
    x = CONVENTION.apply(images)
    evaluator = ReferenceEvaluator(onnx.load(path))
    rows = np.concatenate(
        [np.asarray(evaluator.run(None, {"data": x[i : i + 1]})[0]) for i in range(len(x))]
    )
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    embed = embedder(wrap(path, tmp_path / "bundle"))
    for batch in (1, 6):
        np.testing.assert_allclose(embed(images[:batch]), rows[:batch], atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"opset": 13, "ir_version": 7},
        {"opset": 18, "ir_version": 8},
        {"opset": 21, "ir_version": 10},
        {"ir_version": 3, "list_weights_as_inputs": True},
        {"dims": ("n", 3, HEIGHT, WIDTH)},
        {"dims": ("n", 3, "h", "w")},
        {"outputs": ("out", "pooled")},
    ],
)
def test_old_new_and_dynamic_files(
    options: dict[str, Any], tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    path = FLAT.save(tmp_path / "model.onnx", **options)
    bundle = wrap(path, tmp_path / "bundle", height=HEIGHT, width=WIDTH, output="out")
    expected = original_vectors(path, images, CONVENTION, "out")
    np.testing.assert_allclose(embedder(bundle)(images), expected, atol=1e-5)


def test_the_convention_matters(tmp_path: Path) -> None:
    path = FLAT.save(tmp_path / "model.onnx")
    bgr = wrap(path, tmp_path / "bgr", convention=InputConvention(channel_order="bgr"))
    rgb = wrap(path, tmp_path / "rgb", convention=InputConvention())
    for bundle, order in ((bgr, "bgr"), (rgb, "rgb")):
        source = bundle.manifest.foreign
        assert source is not None
        assert (source.file, source.channel_order) == ("model.onnx", order)
        assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.abs(bgr.self_test()[1] - rgb.self_test()[1]).max() > 0.01
    with pytest.raises(SelfTestFailedError):
        check_self_test(embedder(bgr), rgb)


def test_a_graph_that_mixes_its_batch_is_refused(tmp_path: Path) -> None:
    mixing = Foreign(
        [
            helper.make_node("ReduceMean", ["pooled"], ["mean"], axes=[0]),
            helper.make_node("Add", ["pooled", "mean"], ["mixed"]),
            helper.make_node("Flatten", ["mixed"], ["out"]),
        ],
        {},
    )
    path = mixing.save(tmp_path / "model.onnx")
    with pytest.raises(WrapError, match=r"off at batch 4.*dynamic batch"):
        wrap(path, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_the_self_test_catches_an_onnx_that_ignores_rows_beyond_the_first(
    tmp_path: Path, make_card: Callable[..., ModelCard]
) -> None:
    good = wrap(FLAT.save(tmp_path / "model.onnx"), tmp_path / "good")
    model = onnx.load(good.model_path)
    last = model.graph.node[-1]
    last.output[0] = "rows"
    constants = {"first": shape(0), "like": shape(1, CHANNELS)}
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    model.graph.node.extend(
        [
            helper.make_node("Gather", ["rows", "first"], ["row"], axis=0),
            helper.make_node("Shape", ["rows"], ["size"]),
            helper.make_node("Expand", ["row", "size"], ["embeddings"]),
        ]
    )
    images, vectors = good.self_test()
    bad = write_bundle(
        tmp_path / "bad",
        card=make_card(preprocessing=good.manifest.preprocessing),
        model=model.SerializeToString(),
        images=images,
        vectors=vectors,
        libraries={},
    )
    embed = embedder(bad)
    np.testing.assert_allclose(embed(images[1:2]), vectors[1:2], atol=1e-5)  # right one by one
    with pytest.raises(SelfTestFailedError, match="at batch 4, row"):
        check_self_test(embed, bad)


@pytest.mark.parametrize(
    ("save", "asked", "message"),
    [
        ({"dims": (4, 3, HEIGHT, WIDTH)}, {}, "fixed batch of 4"),
        ({"dims": (1, HEIGHT, WIDTH, 3)}, {}, r"\(B,3,H,W\)"),
        ({"dims": (1, 3, HEIGHT)}, {}, r"\(B,3,H,W\)"),
        ({"kind": onnx.TensorProto.FLOAT16}, {}, "FLOAT16"),
        ({"dims": (1, 3, "h", WIDTH)}, {}, "height"),
        ({"dims": (1, 3, HEIGHT, "w")}, {}, "width"),
        ({}, {"height": 64}, "fixed at 32"),
        ({"outputs": ("out", "pooled")}, {}, "pooled"),
        ({}, {"output": "nothing"}, "out"),
        ({}, {"name": "Bad Name"}, "name"),
        ({}, {"version": "v1"}, "version"),
        ({}, {"interpolation": "nearest"}, "interpolation"),
    ],
)
def test_what_cannot_be_wrapped(
    save: dict[str, Any], asked: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    FLAT.save(path, **save)
    with pytest.raises(WrapError, match=message):
        wrap(path, tmp_path / "bundle", **asked)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"\x08\x04"])
def test_no_model(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WrapError, match=r"model\.onnx"):
        wrap(path, tmp_path / "bundle")


@pytest.mark.parametrize("factor", [0.0, float("nan"), float("inf")])
def test_a_model_without_usable_vectors(factor: float, tmp_path: Path) -> None:
    dead = Foreign(
        [helper.make_node("Mul", ["pooled", "f"], ["out"])],
        {"f": np.array(factor, np.float32)},
        rank=4,
    )
    with pytest.raises(WrapError, match="scale, mean and std"):
        wrap(dead.save(tmp_path / "model.onnx"), tmp_path / "bundle")


def test_two_inputs(tmp_path: Path) -> None:
    path = FLAT.save(tmp_path / "model.onnx")
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("other", FLOAT, [1]))
    onnx.save(model, path)
    with pytest.raises(WrapError, match="other"):
        wrap(path, tmp_path / "bundle")


def test_a_taken_target(tmp_path: Path) -> None:
    path = FLAT.save(tmp_path / "model.onnx")
    wrap(path, tmp_path / "bundle")
    with pytest.raises(BundleExistsError):
        wrap(path, tmp_path / "bundle")


def with_instance_norm(model: Any) -> Any:
    """The same graph with another of the runtime's kernels in place of each group norm's MVN.

    Groups are channels at that point, so MVN over (h, w) is an instance norm. Its epsilon stands
    under the root: 1e-18 there is the standard's 1e-9 outside wherever the deviation is 0.
    """
    nodes, groups = [], 16
    for node in model.graph.node:
        if node.op_type == "MeanVarianceNormalization":
            node = helper.make_node(
                "InstanceNormalization",
                [node.input[0], "ones", "zeros"],
                node.output,
                epsilon=1e-18,
            )
        nodes.append(node)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(groups, np.float32), "ones"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(groups, np.float32), "zeros"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@pytest.mark.real_data
@pytest.mark.skipif(not REAL_MODEL.exists(), reason=f"no {REAL_MODEL}: real model absent")
@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.slow
def test_person_reidentification_retail_0267(order: Any, tmp_path: Path) -> None:
    """Group norms and a stated batch of 1; its dead groups make the runtime's own MVN give NaN."""
    convention = InputConvention(channel_order=order)
    bundle = wrap(REAL_MODEL, tmp_path / "bundle", convention=convention)
    assert bundle.manifest.dimension == 256
    embed = embedder(bundle)
    assert check_self_test(embed, bundle) < 1e-4
    crops = np.random.default_rng(0).integers(0, 256, (3, 256, 128, 3)).astype(np.uint8)
    crops[:, :100] //= 3
    reference = tmp_path / "reference.onnx"
    onnx.save(with_instance_norm(onnx.load(REAL_MODEL)), reference)
    expected = original_vectors(reference, crops, convention, "reid_embedding")
    one_by_one = np.concatenate([embed(crops[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(one_by_one, expected, atol=1e-3)
    np.testing.assert_allclose(embed(crops), one_by_one, atol=1e-5)

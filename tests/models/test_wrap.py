from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from models.bundle import Bundle, check_self_test, write_bundle
from models.errors import BundleError, BundleExistsError, SelfTestFailedError, WrapError
from models.foreign_graph import InputConvention, names_read
from models.image import DECODER
from models.manifest import ModelCard
from tests.support.foreign_onnx import (
    CHANNELS,
    CONVENTION,
    FLAT,
    FLOAT,
    HEIGHT,
    WIDTH,
    Foreign,
    embedder,
    original_vectors,
    reshape,
    shape,
    wrapped,
)

REAL_DATA = Path(
    os.environ.get("RESIGHT_REAL_DATA", Path(__file__).parents[2].parent / "shared" / "data")
)
REAL_MODEL = REAL_DATA / "weights" / "person-reidentification-retail-0267.onnx"
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
    return wrapped(path, out, **changes).bundle


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
    assert manifest.preprocessing.decoder == DECODER


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


MIXING = Foreign(
    [
        helper.make_node("ReduceMean", ["pooled"], ["mean"], axes=[0]),
        helper.make_node("Add", ["pooled", "mean"], ["mixed"]),
        helper.make_node("Flatten", ["mixed"], ["out"]),
    ]
)


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        (("n", 3, HEIGHT, WIDTH), r"off at batch 4.*evaluation mode"),
        ((4, 3, HEIGHT, WIDTH), r"fixed at a batch of 4.*off at batch 1.*batch of 1"),
    ],
)
def test_a_graph_that_mixes_its_batch_is_refused(
    dims: tuple[Any, ...], message: str, tmp_path: Path
) -> None:
    path = MIXING.save(tmp_path / "model.onnx", dims=dims)
    with pytest.raises(WrapError, match=message):
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


N = helper.make_node
FREED, ONE_AT_A_TIME = "freed from a batch of 1", "one at a time"
BATCH_KINDS: dict[str, tuple[Foreign, dict[str, Any], str]] = {
    "allowzero, grouped": (
        Foreign(
            [
                reshape("pooled", "grouped", "s1", allowzero=1),
                N("ReduceMean", ["grouped"], ["mean"], axes=[2]),
                N("Sub", ["grouped", "mean"], ["centered"]),
                reshape("centered", "out", "s2", allowzero=1),
            ],
            {"s1": shape(1, 2, 4), "s2": shape(1, CHANNELS)},
        ),
        {"opset": 17},
        FREED,
    ),
    "shape and gather": (
        Foreign(
            [
                N("Shape", ["pooled"], ["was"]),
                N("Gather", ["was", "first"], ["batch"], axis=0),
                N("Concat", ["batch", "rest"], ["to"], axis=0),
                reshape("pooled", "out", "to"),
            ],
            {"first": shape(0), "rest": shape(-1)},
        ),
        {},
        "made open",
    ),
    "concatenated constants": (
        Foreign(
            [
                N("Concat", ["one", "two", "rest"], ["to"], axis=0),
                reshape("pooled", "grouped", "to"),
                N("Softmax", ["grouped"], ["soft"], axis=1),
                reshape("soft", "out", "rows"),
            ],
            {"one": shape(1), "two": shape(2), "rest": shape(-1), "rows": shape(1, CHANNELS)},
        ),
        {"opset": 13},
        FREED,
    ),
    "class token": (
        Foreign(
            [
                reshape("relu", "channels", "s"),
                N("Transpose", ["channels"], ["tokens"], perm=[0, 2, 1]),
                N("Concat", ["class", "tokens"], ["all"], axis=1),
                N("Softmax", ["all"], ["soft"], axis=1),
                N("Gather", ["soft", "first"], ["out"], axis=1),
            ],
            {
                "s": shape(1, CHANNELS, -1),
                "class": np.linspace(0, 1, CHANNELS, dtype=np.float32).reshape(1, 1, CHANNELS),
                "first": np.array(0, np.int64),
            },
        ),
        {"opset": 13},
        "2 constant shapes freed",
    ),
    "expand": (
        Foreign(
            [N("Expand", ["pooled", "s"], ["same"]), N("Flatten", ["same"], ["out"])],
            {"s": shape(1, CHANNELS, 1, 1)},
        ),
        {},
        "made open",
    ),
    "all squeezed": (Foreign([N("Squeeze", ["pooled"], ["out"])], rank=1), {}, "made open"),
    "batch squeezed": (
        Foreign(
            [
                N("Squeeze", ["pooled"], ["one"], axes=[0, 2, 3]),
                N("Unsqueeze", ["one"], ["out"], axes=[0]),
            ]
        ),
        {},
        ONE_AT_A_TIME,
    ),
    "flattened from axis 0": (
        Foreign(
            [N("Flatten", ["pooled"], ["row"], axis=0), N("Gemm", ["row", "fc"], ["out"])],
            {"fc": np.random.default_rng(1).normal(0, 1, (CHANNELS, 5)).astype(np.float32)},
        ),
        {"opset": 11},
        ONE_AT_A_TIME,
    ),
    "first row taken": (
        Foreign(
            [N("Gather", ["pooled", "first"], ["out"], axis=0)], {"first": np.array(0)}, rank=3
        ),
        {"opset": 18, "ir_version": 8},
        ONE_AT_A_TIME,
    ),
    "first row taken, old operators": (
        Foreign(
            [N("Gather", ["pooled", "first"], ["out"], axis=0)], {"first": np.array(0)}, rank=3
        ),
        {"opset": 8, "ir_version": 3, "list_weights_as_inputs": True},
        "operator set 8 converted to 9",
    ),
    "mixed, but of one image": (MIXING, {}, ONE_AT_A_TIME),
}


@pytest.mark.parametrize("kind", sorted(BATCH_KINDS))
def test_graphs_with_a_fixed_batch_of_1(
    kind: str, tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    foreign, saved, change = BATCH_KINDS[kind]
    path = foreign.save(tmp_path / "model.onnx", **saved)
    made = wrapped(path, tmp_path / "bundle")
    assert any(change in each for each in made.changes), made.changes
    graph = onnx.load(made.bundle.model_path).graph
    read = {name for node in graph.node for name in names_read(node)}
    assert {tensor.name for tensor in graph.initializer} <= read
    embed, expected = embedder(made.bundle), original_vectors(path, images)
    for batch in (1, 5, 6):
        np.testing.assert_allclose(embed(images[:batch]), expected[:batch], atol=1e-5)


@pytest.mark.parametrize("batch", [2, 14])
def test_graphs_with_a_fixed_batch_of_several(
    batch: int, tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    pinned = Foreign([reshape("pooled", "out", "s")], {"s": shape(batch, CHANNELS)})
    path = pinned.save(tmp_path / "model.onnx", dims=(batch, 3, HEIGHT, WIDTH))
    made = wrapped(path, tmp_path / "bundle")
    assert made.changes == (f"1 constant shape freed from a batch of {batch}",)
    embed, expected = embedder(made.bundle), original_vectors(path, images, batch=batch)
    for several in (1, 5, 6):
        np.testing.assert_allclose(embed(images[:several]), expected[:several], atol=1e-5)


def test_an_open_batch_that_fits_one_image_alone(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    """Exported with dynamic_axes, but with the example's batch in the graph."""
    foreign, _, change = BATCH_KINDS["flattened from axis 0"]
    path = foreign.save(tmp_path / "model.onnx", dims=("n", 3, HEIGHT, WIDTH), opset=11)
    made = wrapped(path, tmp_path / "bundle")
    assert any(change in each for each in made.changes)
    expected = original_vectors(path, images)
    np.testing.assert_allclose(embedder(made.bundle)(images), expected, atol=1e-5)


HALF, DOUBLE, UINT8 = onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.UINT8
POOLED = [N("Flatten", ["pooled"], ["out"])]
FLATTENED = N("Flatten", ["pooled"], ["flat"])
CHANNELS_FIRST = N("Transpose", ["data"], ["image"], perm=[0, 3, 1, 2])
TO_FLOAT = N("Cast", ["data"], ["image"], to=FLOAT)
NHWC = (1, HEIGHT, WIDTH, 3)


def nhwc(x: NDArray[np.float32]) -> NDArray[Any]:
    return x.transpose(0, 2, 3, 1)


INPUT_KINDS: dict[str, tuple[Foreign, dict[str, Any], Callable[..., Any], list[str], float]] = {
    "float16": (
        Foreign(POOLED, dtype=np.float16),
        {"kind": HALF, "out_kind": HALF},
        lambda x: x.astype(np.float16),
        ["cast to FLOAT16", "output's float16 cast"],
        1e-3,
    ),
    "float64": (
        Foreign([FLATTENED, N("Cast", ["flat"], ["out"], to=DOUBLE)], head=[TO_FLOAT]),
        {"kind": DOUBLE, "out_kind": DOUBLE},
        lambda x: x.astype(np.float64),
        ["cast to DOUBLE", "output's float64 cast"],
        1e-5,
    ),
    "float16 out": (
        Foreign([FLATTENED, N("Cast", ["flat"], ["out"], to=HALF)]),
        {"out_kind": HALF},
        lambda x: x,
        ["output's float16 cast"],
        1e-3,
    ),
    "NHWC": (
        Foreign(POOLED, head=[CHANNELS_FIRST]),
        {"dims": NHWC},
        nhwc,
        ["pixels stay (B,H,W,3)"],
        1e-5,
    ),
    "NHWC of any size": (
        Foreign(POOLED, head=[CHANNELS_FIRST]),
        {"dims": ("n", "h", "w", 3)},
        nhwc,
        ["pixels stay (B,H,W,3)"],
        1e-5,
    ),
    "uint8": (
        Foreign(POOLED, head=[TO_FLOAT]),
        {"kind": UINT8},
        lambda x: x.astype(np.uint8),
        ["cast to UINT8"],
        1e-5,
    ),
    "uint8, NHWC": (
        Foreign(
            POOLED,
            head=[
                N("Transpose", ["data"], ["t"], perm=[0, 3, 1, 2]),
                N("Cast", ["t"], ["image"], to=FLOAT),
            ],
        ),
        {"kind": UINT8, "dims": NHWC},
        lambda x: nhwc(x).astype(np.uint8),
        ["cast to UINT8", "pixels stay (B,H,W,3)"],
        1e-5,
    ),
    "float16, NHWC, one image": (
        Foreign(
            [N("Gather", ["pooled", "first"], ["out"], axis=0)],
            {"first": np.array(0)},
            rank=3,
            head=[CHANNELS_FIRST],
            dtype=np.float16,
        ),
        {"kind": HALF, "out_kind": HALF, "dims": NHWC},
        lambda x: nhwc(x).astype(np.float16),
        ["cast to FLOAT16", "pixels stay (B,H,W,3)", ONE_AT_A_TIME],
        1e-3,
    ),
}


@pytest.mark.parametrize("kind", sorted(INPUT_KINDS))
def test_inputs_of_other_types_and_layouts(
    kind: str, tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    foreign, saved, as_taken, changes, tolerance = INPUT_KINDS[kind]
    convention = InputConvention(channel_order="bgr") if "uint8" in kind else CONVENTION
    path = foreign.save(tmp_path / "model.onnx", **saved)
    made = wrapped(path, tmp_path / "bundle", convention=convention, height=HEIGHT, width=WIDTH)
    for change in changes:
        assert any(change in each for each in made.changes), made.changes
    embed = embedder(made.bundle)
    expected = original_vectors(path, images, convention, as_taken=as_taken)
    for batch in (1, 5, 6):
        got = embed(images[:batch])
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected[:batch], atol=tolerance)


def test_uint8_with_a_scale_is_refused(tmp_path: Path) -> None:
    path = INPUT_KINDS["uint8"][0].save(tmp_path / "model.onnx", kind=UINT8)
    with pytest.raises(WrapError, match="takes uint8, so the graph scales pixels itself"):
        wrap(path, tmp_path / "bundle")


def test_a_graph_in_training_mode_is_refused(tmp_path: Path) -> None:
    dropping = Foreign(
        [N("Dropout", ["pooled", "ratio", "training"], ["out"])],
        {"ratio": np.array(0.5, np.float32), "training": np.array(True)},
        rank=4,
    )
    path = dropping.save(tmp_path / "model.onnx", opset=13, ir_version=7)
    with pytest.raises(WrapError, match="another one at each run"):
        wrap(path, tmp_path / "bundle")


OUTPUT_KINDS: dict[str, tuple[Foreign, str, str]] = {
    "map": (FLAT, "relu", r"relu is \(8, 8, 4\) for each image, a feature map that is not pooled"),
    "tokens": (
        Foreign([reshape("relu", "out", "s")], {"s": shape(1, CHANNELS, -1)}, rank=3),
        "out",
        r"out is \(8, 32\) for each image, several vectors",
    ),
    "number": (
        Foreign([N("ReduceMean", ["pooled"], ["out"], axes=[1])], rank=4),
        "out",
        r"out is \(1, 1, 1\) for each image, one number",
    ),
    "classes": (
        Foreign([N("Flatten", ["pooled"], ["flat"]), N("Softmax", ["flat"], ["out"], axis=1)]),
        "out",
        "out is never negative and sums to 1 for each image: class scores, not an embedding",
    ),
    "constant": (
        Foreign([N("Identity", ["c"], ["out"])], {"c": np.ones((1, 4), np.float32)}),
        "out",
        "out is made from the model's constants alone, not from an image",
    ),
    "index": (
        Foreign([N("ArgMax", ["pooled"], ["out"], axis=1)], rank=4),
        "out",
        "out is int64, not an embedding",
    ),
}


@pytest.mark.parametrize("kind", sorted(OUTPUT_KINDS))
def test_outputs_that_are_no_embedding(kind: str, tmp_path: Path) -> None:
    foreign, output, message = OUTPUT_KINDS[kind]
    out_kind = onnx.TensorProto.INT64 if kind == "index" else FLOAT
    path = foreign.save(tmp_path / "model.onnx", outputs=(output,), out_kind=out_kind)
    with pytest.raises(WrapError, match=message):
        wrap(path, tmp_path / "bundle")


def test_int8_with_scales_in_the_graph(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    quantized = Foreign(
        [
            N("QuantizeLinear", ["pooled", "scale", "zero"], ["q"]),
            N("DequantizeLinear", ["q", "scale", "zero"], ["back"]),
            reshape("back", "out", "s"),
        ],
        {
            "scale": np.array(0.02, np.float32),
            "zero": np.array(-100, np.int8),
            "s": shape(1, CHANNELS),
        },
    )
    path = quantized.save(tmp_path / "model.onnx", opset=13, ir_version=7)
    embed, expected = embedder(wrap(path, tmp_path / "bundle")), original_vectors(path, images)
    for batch in (1, 6):
        np.testing.assert_allclose(embed(images[:batch]), expected[:batch], atol=1e-5)


@pytest.mark.parametrize(
    ("dims", "outcome"),
    [((1, 3, HEIGHT, WIDTH), "one image alone"), (("n", 3, HEIGHT, WIDTH), "mixes the images")],
)
def test_int8_with_a_scale_of_each_batch(
    dims: tuple[Any, ...], outcome: str, tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    """`quantize_dynamic` of ONNX Runtime: the scale is that of the largest value of a batch."""
    quantized = Foreign(
        [
            N("DynamicQuantizeLinear", ["pooled"], ["q", "scale", "zero"]),
            N("DequantizeLinear", ["q", "scale", "zero"], ["back"]),
            N("Flatten", ["back"], ["out"]),
        ]
    )
    path = quantized.save(tmp_path / "model.onnx", dims=dims, opset=13, ir_version=7)
    if outcome == "mixes the images":
        with pytest.raises(WrapError, match=f"{outcome} of a batch.* fixed batch of 1"):
            wrapped(path, tmp_path / "bundle")
        return
    made = wrapped(path, tmp_path / "bundle")
    assert outcome in made.changes[-1]
    expected = original_vectors(path, images)
    for batch in (1, 6):
        got = embedder(made.bundle)(images[:batch])
        np.testing.assert_allclose(got, expected[:batch], atol=1e-5)


def test_old_operators_that_the_runtime_lacks_are_refused(tmp_path: Path) -> None:
    """onnx's converter gives such an addition another axis, so nothing may convert it unchecked."""
    old = Foreign(
        [
            N("Add", ["pooled", "bias"], ["more"], broadcast=1, axis=1),
            N("Flatten", ["more"], ["out"]),
        ],
        {"bias": np.arange(CHANNELS, dtype=np.float32)},
    )
    path = old.save(tmp_path / "old.onnx", opset=6, ir_version=3, list_weights_as_inputs=True)
    with pytest.raises(WrapError, match="of operator set 6, older than ONNX Runtime runs"):
        wrap(path, tmp_path / "bundle")


def test_operators_of_nobody_are_named(tmp_path: Path) -> None:
    """PyTorch's fallback to its own operators, which nothing but PyTorch has."""
    aten = Foreign([N("max_pool2d", ["pooled"], ["out"], domain="org.pytorch.aten")], rank=4)
    path = aten.save(tmp_path / "model.onnx")
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("org.pytorch.aten", 1))
    onnx.save(model, path)
    with pytest.raises(WrapError, match=r"not define, org\.pytorch\.aten\.max_pool2d: export"):
        wrap(path, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("opset", "dtype", "message"),
    [(99, np.float32, "operator set 99, newer"), (9, np.float64, "weights of DOUBLE: export")],
)
def test_what_the_runtime_does_not_load_is_refused_with_the_reason(
    opset: int, dtype: Any, message: str, tmp_path: Path
) -> None:
    kind = DOUBLE if dtype == np.float64 else FLOAT
    path = Foreign(POOLED, dtype=dtype).save(
        tmp_path / "model.onnx", opset=opset, kind=kind, out_kind=kind
    )
    with pytest.raises(WrapError, match=message):
        wrap(path, tmp_path / "bundle")


def test_an_ir_version_that_the_runtime_does_not_know(
    tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    path = FLAT.save(tmp_path / "model.onnx", opset=17, ir_version=99)
    made = wrapped(path, tmp_path / "bundle")
    assert "IR version 99 written as 10" in made.changes
    known = FLAT.save(tmp_path / "known.onnx", opset=17, ir_version=8)
    expected = original_vectors(known, images)
    np.testing.assert_allclose(embedder(made.bundle)(images), expected, atol=1e-5)


def test_what_the_embedding_does_not_need_is_left_out_and_named(
    tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    extra = Foreign(
        [*POOLED, N("Add", ["pooled", "other"], ["logits"])],
        {"dead": np.ones(3, np.float32), "gain": np.ones(1, np.float32)},
    )
    extra.ranks["logits"] = 4
    extra.nodes[0] = N("Conv", ["scaled", "w", "b"], ["conv"], strides=[4, 4])
    extra.nodes.insert(0, N("Mul", ["data", "gain"], ["scaled"]))
    path = extra.save(tmp_path / "model.onnx", outputs=("out", "logits"))
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("other", FLOAT, [1]))
    model.graph.input.append(helper.make_tensor_value_info("gain", FLOAT, [1]))
    onnx.save(model, path)
    made = wrapped(path, tmp_path / "bundle", output="out")
    assert made.changes == (
        "1 input left out: other",
        "1 output left out: logits",
        "1 weight left out that the output does not need",
        "1 input with a default value made constant",
        "the fixed batch of 1 made open",
    )
    plain = original_vectors(FLAT.save(tmp_path / "plain.onnx"), images)
    np.testing.assert_allclose(embedder(made.bundle)(images), plain, atol=1e-5)


@pytest.mark.slow
def test_what_torch_exports_today(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    """Fixed batch of 1, weights in a file of their own, Reshape with allowzero."""
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class Grouped(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, CHANNELS, 4, stride=4)
            self.norm = torch.nn.GroupNorm(2, CHANNELS)
            self.attention = torch.nn.MultiheadAttention(CHANNELS, 2, batch_first=True)
            self.token = torch.nn.Parameter(torch.linspace(0, 1, CHANNELS).view(1, 1, CHANNELS))

        def forward(self, x: Any) -> Any:
            maps = self.norm(self.conv(x)).relu()
            tokens = maps.flatten(2).transpose(1, 2)
            tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1)
            mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
            return mixed[:, 0] + maps.mean((2, 3))

    torch.manual_seed(0)
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        Grouped().eval(),
        (torch.zeros(1, 3, HEIGHT, WIDTH),),
        path,
        input_names=["data"],
        output_names=["out"],
        dynamo=True,
        external_data=True,
        verbose=False,
    )
    assert "allowzero" in str(onnx.load(path, load_external_data=False).graph)
    made = wrapped(path, tmp_path / "bundle")
    assert any("constant shapes freed" in each for each in made.changes), made.changes
    embed, expected = embedder(made.bundle), original_vectors(path, images)
    for batch in (1, 5, 6):
        np.testing.assert_allclose(embed(images[:batch]), expected[:batch], atol=1e-5)


@pytest.mark.parametrize(
    ("save", "asked", "message"),
    [
        ({"dims": (1, 1, HEIGHT, WIDTH)}, {}, "images with 3 channels"),
        ({"dims": (1, 3, HEIGHT)}, {}, "without a batch axis"),
        ({"dims": (1, 4, 3, HEIGHT, WIDTH)}, {}, "models of clips"),
        ({"kind": onnx.TensorProto.INT8}, {}, "INT8"),
        ({"kind": HALF}, {}, "different types"),
        ({"dims": (1, 3, "h", WIDTH)}, {}, "--height"),
        ({"dims": (1, 3, HEIGHT, "w")}, {}, "--width"),
        ({}, {"height": 64}, "fixed at 32"),
        ({"outputs": ("out", "pooled")}, {}, r"2 outputs out .*, pooled .*--output"),
        ({}, {"output": "z"}, r"no output z, but out \(.*--output"),
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


@pytest.mark.parametrize("factor", [0.0, float("nan"), float("inf")])
def test_a_model_without_usable_vectors(factor: float, tmp_path: Path) -> None:
    dead = Foreign(
        [helper.make_node("Mul", ["pooled", "f"], ["out"])],
        {"f": np.array(factor, np.float32)},
        rank=4,
    )
    with pytest.raises(WrapError, match="scale, mean and std"):
        wrap(dead.save(tmp_path / "model.onnx"), tmp_path / "bundle")


def test_the_same_vector_for_every_image_is_refused(tmp_path: Path) -> None:
    """As where a quantizer collapsed the network: finite, of any length, and of no use."""
    collapsed = Foreign(
        [N("Mul", ["pooled", "small"], ["tiny"]), N("Add", ["tiny", "bias"], ["out"])],
        {"small": np.array(1e-7, np.float32), "bias": np.ones((1, CHANNELS, 1, 1), np.float32)},
        rank=4,
    )
    with pytest.raises(WrapError, match=r"out is the same for every image; check scale"):
        wrap(collapsed.save(tmp_path / "model.onnx"), tmp_path / "bundle")


def test_two_inputs(tmp_path: Path) -> None:
    two = Foreign([N("Add", ["pooled", "camera"], ["out"])], rank=4)
    path = two.save(tmp_path / "model.onnx")
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("camera", FLOAT, [1]))
    onnx.save(model, path)
    with pytest.raises(WrapError, match=r"needs these inputs: data .*, camera \(1\)"):
        wrap(path, tmp_path / "bundle")


def test_a_taken_target(tmp_path: Path) -> None:
    path = FLAT.save(tmp_path / "model.onnx")
    wrap(path, tmp_path / "bundle")
    with pytest.raises(BundleExistsError):
        wrap(path, tmp_path / "bundle")


def test_a_target_that_cannot_be_made(tmp_path: Path) -> None:
    path = FLAT.save(tmp_path / "model.onnx")
    for out in (path / "bundle", Path("/proc/bundle")):
        with pytest.raises(BundleError, match=f"cannot make {out}: .*choose another --out"):
            wrap(path, out)


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

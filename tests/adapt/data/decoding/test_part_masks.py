"""Body parts by a human-parsing model: small ONNX models that call colors classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="adapt needs torch")
pytest.importorskip("onnxruntime", reason="the parser needs ONNX Runtime")
onnx = pytest.importorskip("onnx", reason="the models are made by onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from adapt.data.decoding.decode import DecodedCrops  # noqa: E402
from adapt.data.decoding.part_masks import BATCH, PartParser, with_part_masks  # noqa: E402
from adapt.errors import ConfigError  # noqa: E402
from adapt.types import CropSet, Sample  # noqa: E402
from tests.support.parsing_models import parsing_model  # noqa: E402

UPPER, LOWER = (1,), (2,)


def people(count: int = 3, height: int = 12, width: int = 6) -> NDArray[np.uint8]:
    """Green above, blue below, on a red ground; of the last crop the lower body is hidden."""
    images = np.zeros((count, height, width, 3), np.uint8)
    images[..., 0] = 200
    middle = slice(width // 3, 2 * width // 3)
    images[:, 2 : height // 2, middle] = (0, 220, 0)
    images[:-1, height // 2 : height - 1, middle] = (0, 0, 220)
    return images


def expected(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([images[..., 1] > 100, images[..., 2] > 100], axis=3).astype(np.uint8) * 255


def decoded(images: NDArray[np.uint8]) -> DecodedCrops:
    samples = tuple(Sample(Path(f"{i}.png"), f"{i}.png", camera=0) for i in range(len(images)))
    return DecodedCrops(CropSet(Path(), samples, ("a",)), images)


@pytest.mark.parametrize("takes", ["uint8", "float"])
@pytest.mark.parametrize("gives", ["scores", "map", "map4"])
@pytest.mark.parametrize("batch", [1, "n"])
def test_every_form_the_contract_allows(
    tmp_path: Path, takes: str, gives: str, batch: int | str
) -> None:
    images = people(BATCH + 3)
    path = parsing_model(tmp_path / "m.onnx", takes=takes, gives=gives, batch=batch)
    found = PartParser(path, (UPPER, LOWER))(images)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected(images))


def test_crops_are_brought_to_a_fixed_size_and_the_map_back(tmp_path: Path) -> None:
    images = people()
    path = parsing_model(tmp_path / "m.onnx", size=(48, 24))
    found = PartParser(path, (UPPER, LOWER))(images)
    assert found.shape == (*images.shape[:3], 2)
    sure = (found == 0) | (found == 255)
    assert sure.mean() > 0.7
    np.testing.assert_array_equal((found > 127), expected(images) > 127)


def test_a_part_may_be_of_several_classes(tmp_path: Path) -> None:
    images = people()
    path = parsing_model(tmp_path / "m.onnx")
    found = PartParser(path, ((1, 2), (0,)))(images)
    whole = expected(images)
    np.testing.assert_array_equal(found[..., 0], whole[..., 0] | whole[..., 1])
    np.testing.assert_array_equal(found[..., 1], 255 - found[..., 0])


def test_masks_follow_as_channels(tmp_path: Path) -> None:
    data = decoded(people(BATCH + 1))
    parser = PartParser(parsing_model(tmp_path / "m.onnx"), (UPPER, LOWER))
    found = with_part_masks(data, parser)
    assert found.crops is data.crops
    np.testing.assert_array_equal(found.images[..., :3], data.images)
    np.testing.assert_array_equal(found.images[..., 3:], expected(data.images))


def test_classes_that_are_never_found_are_an_error(tmp_path: Path) -> None:
    parser = PartParser(parsing_model(tmp_path / "m.onnx"), (UPPER, LOWER))
    hidden = people(1)
    with pytest.raises(ConfigError, match=r"classes \[2\] in none of 1 crop:.*lower_classes"):
        with_part_masks(decoded(hidden), parser)


def test_no_file_and_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"parts_model: no file .*absent\.onnx"):
        PartParser(tmp_path / "absent.onnx", (UPPER, LOWER))
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(ConfigError, match="ONNX Runtime cannot load"):
        PartParser(tmp_path / "text.onnx", (UPPER, LOWER))


def model(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], *held: Any) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(held))
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        (["n", 1, "h", "w"], TensorProto.FLOAT, r"takes tensor\(float\)"),
        (["n", 3, "h"], TensorProto.FLOAT, "takes"),
        (["n", 3, "h", "w"], TensorProto.INT64, r"takes tensor\(int64\)"),
        ([4, 3, "h", "w"], TensorProto.FLOAT, "fixed batch of 4"),
    ],
)
def test_other_inputs_are_refused(
    tmp_path: Path, shape: list[Any], kind: int, message: str
) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    path = model(tmp_path / "m.onnx", nodes, [value("x", shape, kind)], [value("y", shape, kind)])
    with pytest.raises(ConfigError, match=f"{message}.*docs/methods/source.md"):
        PartParser(path, (UPPER, LOWER))


def test_several_outputs_are_refused(tmp_path: Path) -> None:
    shape = ["n", 3, "h", "w"]
    nodes = [helper.make_node("Identity", ["x"], [name]) for name in "yz"]
    path = model(tmp_path / "m.onnx", nodes, [value("x", shape)], [value(n, shape) for n in "yz"])
    with pytest.raises(ConfigError, match="1 inputs and 2 outputs"):
        PartParser(path, (UPPER, LOWER))


def test_outputs_that_are_no_class_map_are_refused(tmp_path: Path) -> None:
    shape = ["n", 3, "h", "w"]
    flat = [helper.make_node("Flatten", ["x"], ["y"])]
    path = model(tmp_path / "flat.onnx", flat, [value("x", shape)], [value("y", ["n", "d"])])
    with pytest.raises(ConfigError, match=r"gives float32 \(3, 216\) for 3 crops"):
        PartParser(path, (UPPER, LOWER))(people())
    same = [helper.make_node("Identity", ["x"], ["y"])]
    path = model(tmp_path / "same.onnx", same, [value("x", shape)], [value("y", shape)])
    with pytest.raises(ConfigError, match=r"knows classes 0\.\.2, and 3 is asked for"):
        PartParser(path, (UPPER, (2, 3)))(people())
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    nan = [helper.make_node("Div", ["x", "zero"], ["y"])]
    path = model(tmp_path / "nan.onnx", nan, [value("x", shape)], [value("y", shape)], zero)
    with pytest.raises(ConfigError, match="NaN or infinite"):
        PartParser(path, (UPPER, LOWER))(people())


def test_a_model_that_fails_on_crops_says_so(tmp_path: Path) -> None:
    shape = ["n", 3, "h", "w"]
    wrong = numpy_helper.from_array(np.array([7, 7], np.int64), "shape")
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    path = model(tmp_path / "m.onnx", nodes, [value("x", shape)], [value("y", ["a", "b"])], wrong)
    with pytest.raises(ConfigError, match="cannot parse 3 crops"):
        PartParser(path, (UPPER, LOWER))(people())

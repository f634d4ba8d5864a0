"""Reads a foreign ONNX file for `models.wrap`: whole, on its own, and runnable by ONNX Runtime.

What cannot be read is refused with the true reason: the file is something else, or a part of it
is missing.
"""

from __future__ import annotations

from pathlib import Path

from models.errors import WrapError
from models.file_kinds import HEAD, kind_of
from models.files import sha256_file
from models.manifest import MANIFEST_FILE
from models.wording import plural

try:
    import onnx
    import onnx.inliner
    from onnx import external_data_helper, version_converter
except ImportError as _missing:
    raise WrapError(
        "wrapping a foreign model needs the package onnx; install it with `pip install onnx`"
    ) from _missing

OLDEST_OPSET = 9
"""Older operator sets are converted to this one for a Scan over images, which it has first."""

KNOWN_IR_VERSION = 10
"""Of onnx 1.16; what ONNX Runtime 1.22 and later read."""

_OLDEST_RUN_OPSET = 7
_STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")

_CHECKPOINTS = (
    (b"PK\x03\x04", "a zip archive, as PyTorch saves checkpoints"),
    (b"\x80\x02", "a pickle, as PyTorch saved checkpoints"),
)


def read_foreign(path: Path) -> tuple[onnx.ModelProto, list[str]]:
    """An ONNX file with all of its weights and without functions, and what was changed for that.

    Raises:
        WrapError: no such file, not an ONNX model, or a file of its weights is missing.
    """
    if path.is_dir():
        raise WrapError(_what_folder(path))
    if not path.is_file():
        raise WrapError(f"no file {path}; check the path of the ONNX model")
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise WrapError(
            f"{path} cannot be read: {error.strerror}; allow this user to read it"
        ) from error
    except Exception as error:
        raise WrapError(f"{path} is {_what_it_is(path, str(error))}") from error
    if not model.graph.node:
        raise WrapError(f"{path} is {_what_it_is(path, 'it holds no graph')}")
    changes = []
    if files := _weight_files(model):
        _load_weights(model, path, files)
        changes.append(f"the weights in {', '.join(files)} are in the bundle's model.onnx")
    if model.functions:
        changes.append(f"{plural(len(model.functions), 'function')} of the graph expanded")
        model = onnx.inliner.inline_local_functions(model)
    return model, changes


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators that a graph is written for."""
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            return int(entry.version)
    raise WrapError("the graph names no operator set; export the model again")


def with_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The same graph in a newer operator set.

    Raises:
        WrapError: onnx has no conversion for one of its operators.
    """
    try:
        converted = version_converter.convert_version(model, opset)
    except Exception as error:
        raise WrapError(
            f"the graph cannot be converted from operator set {opset_of(model)} to {opset} "
            f"({error}); export the model again with a newer one"
        ) from error
    del converted.graph.value_info[:]  # of values that the converter adds they lack the type
    return converted


def with_known_ir_version(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in a version of the file format that every ONNX Runtime of ours reads.

    The version says how the file is laid out. What an operator does is in its operator set.
    """
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    lowered.ir_version = min(model.ir_version, KNOWN_IR_VERSION)
    return lowered


def why_not_loaded(model: onnx.ModelProto) -> str:
    """What in a graph may keep ONNX Runtime from loading it, and what to do; empty if unknown."""
    unknown = sorted(
        {
            f"{node.domain}.{node.op_type}"
            for node in model.graph.node
            if node.domain not in _STANDARD_DOMAINS
        }
    )
    if unknown:
        return (
            f"the graph has operators that ONNX does not define, {', '.join(unknown)}: export it "
            "with standard operators alone"
        )
    if (opset := opset_of(model)) < _OLDEST_RUN_OPSET:
        return (
            f"the graph is of operator set {opset}, older than ONNX Runtime runs: export it with "
            f"{OLDEST_OPSET} or newer"
        )
    if opset > onnx.defs.onnx_opset_version():
        return (
            f"the graph is of operator set {opset}, newer than the installed onnx knows: upgrade "
            "onnx and ONNX Runtime, or export it with an older one"
        )
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    for kind in (onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16):
        if kind in kinds:
            name = onnx.TensorProto.DataType.Name(kind)
            return f"the graph has weights of {name}: export it in float32"
    return ""


def _what_folder(path: Path) -> str:
    if (path / MANIFEST_FILE).is_file():
        return f"{path} is a bundle already; add it with `resight models add {path}`"
    files = sorted(file.name for file in path.glob("*.onnx"))
    holds = f"; it holds {', '.join(files[:3])}" if files else ""
    return f"{path} is a folder, not an ONNX file{holds}; give the path of the file"


def _what_it_is(path: Path, otherwise: str) -> str:
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return "not an ONNX model (it is empty); copy or export it again"
    for mark, noun in _CHECKPOINTS:
        if head.startswith(mark):
            return f"not an ONNX model: it is {noun}; export the network to ONNX"
    if kind := kind_of(head, path.suffix):
        return f"not an ONNX model: it is {kind.noun}; {kind.remedy}"
    return f"not an ONNX model ({otherwise}); export it again"


def _weight_files(model: onnx.ModelProto) -> list[str]:
    """Files beside the model in which weights lie, as the model names them."""
    external = (
        external_data_helper.ExternalDataInfo(tensor).location
        for tensor in model.graph.initializer
        if external_data_helper.uses_external_data(tensor)
    )
    return sorted(set(external))


def weight_hashes(path: Path) -> dict[str, str]:
    """sha256 of each file beside a model that `read_foreign` has read, by the model's names."""
    model = onnx.load(path, load_external_data=False)
    return {name: sha256_file(path.parent / name) for name in _weight_files(model)}


def _load_weights(model: onnx.ModelProto, path: Path, files: list[str]) -> None:
    if missing := [name for name in files if not (path.parent / name).is_file()]:
        raise WrapError(
            f"{path} keeps its weights in {', '.join(missing)}, missing in {path.parent}; copy "
            "that along, or export the model into one file (external_data=False)"
        )
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        raise WrapError(
            f"the weights of {path} in {', '.join(files)} cannot be read ({error}); copy all of "
            "these files again"
        ) from error

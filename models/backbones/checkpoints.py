"""Read the state dicts in a checkpoint that others saved, without running anything in it.

torch's `weights_only` reader builds tensors. Plain values beside them (numpy's numbers and arrays,
dates, paths, namespaces of options) are read as placeholders: neither their classes nor their
contents are used. A file that names any other class or function is refused.
"""

from __future__ import annotations

import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from models.errors import WeightsError
from models.file_kinds import HEAD, kind_of

_DEPTH = 3
"""Mappings inside mappings that are looked into."""

_PLAIN = {
    "argparse": ("Namespace",),
    "builtins": (
        *("bool", "bytes", "dict", "float", "frozenset", "int", "list"),
        *("object", "range", "slice", "str", "tuple"),
    ),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "numpy": ("dtype", "ndarray", *{each.__name__ for each in np.sctypeDict.values()}),
    "types": ("SimpleNamespace",),
    "uuid": ("UUID",),
}
_PATHS = ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
for _module in ("pathlib", "pathlib._local"):  # Python 3.13 moved them
    _PLAIN[_module] = _PATHS
for _core in ("numpy.core", "numpy._core"):  # numpy 2 renamed it
    _PLAIN[f"{_core}.multiarray"] = ("_reconstruct", "scalar")
    _PLAIN[f"{_core}.numeric"] = ("_frombuffer",)


class _Placeholder:
    """Stands for a plain value of a file; takes whatever the value is made from and drops it."""

    def __new__(cls, *_: object) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _placeholder(name: str) -> type[_Placeholder]:
    return type(name, (_Placeholder,), {})


def _empty_dict(*_: object) -> dict[Any, Any]:
    """In the place of a defaultdict: torch's reader fills plain dicts and lists alone."""
    return {}


def _empty_list(*_: object) -> list[Any]:
    """In the place of a deque."""
    return []


_SHOWN = {"_reconstruct": "numpy.ndarray", "_frombuffer": "numpy.ndarray", "scalar": "numpy.number"}
"""What numpy's makers make, for people."""

_ALLOWED: list[Any] = [
    (_placeholder(_SHOWN.get(name, f"{module}.{name}")), f"{module}.{name}")
    for module, names in _PLAIN.items()
    for name in names
] + [(_empty_dict, "collections.defaultdict"), (_empty_list, "collections.deque")]


def read_state_dicts(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Every mapping of names to tensors in a file, by its keys joined with dots; "" is the file's.

    Raises:
        WeightsError: no file of torch.save or safetensors, one that holds code, or none in it.
    """
    return state_dicts(_read(path), str(path))


def state_dicts(content: object, source: str) -> dict[str, dict[str, torch.Tensor]]:
    """The same of what a file holds. Raises WeightsError when there is none."""
    found = dict(_mappings_of_tensors(content, ""))
    if not found:
        raise WeightsError(
            f"{source} holds no state dict but {_describe(content)}; save net.state_dict() and "
            "give that"
        )
    return found


def _mappings_of_tensors(
    value: object, key: str, depth: int = 0
) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    if not isinstance(value, Mapping):
        return
    named = {name: each for name, each in value.items() if isinstance(name, str)}
    tensors = {name: each for name, each in named.items() if isinstance(each, torch.Tensor)}
    if tensors:
        yield key, tensors
    if depth < _DEPTH:
        for name, each in named.items():
            yield from _mappings_of_tensors(each, f"{key}.{name}" if key else name, depth + 1)


def _describe(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"an object of type {type(content).__name__}"
    if not content:
        return "an empty dict"
    if {"state", "param_groups"} <= content.keys():
        return "the state of an optimizer (keys state, param_groups)"
    keys = [f"{key} ({type(value).__name__})" for key, value in content.items()]
    more = f", ... ({len(keys)} in all)" if len(keys) > 8 else ""
    return f"the keys {', '.join(keys[:8])}{more}"


def _read(path: Path) -> object:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
        _refuse_other_files(path, head)
        if path.suffix == ".safetensors" or _is_safetensors(path, head):
            return load_file(path)
        with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols that torch.save does not write
            content: object = torch.load(path, map_location="cpu", weights_only=True)
        return content
    except WeightsError:
        raise
    except FileNotFoundError as error:
        address = re.match(r"https?:/", str(path))
        remedy = "download it and give the file" if address else "check the path"
        raise WeightsError(
            f"no file {path}; {remedy}: weights are a file, a run folder, or `torchvision`"
        ) from error
    except IsADirectoryError as error:
        raise WeightsError(
            f"{path} is a folder, not a file of weights{_kind_of_folder(path)}"
        ) from error
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path} {_refusal(str(error))}") from error
    except Exception as error:
        why = str(error) or ("it is cut off" if path.stat().st_size else "it is empty")
        raise WeightsError(f"{path} cannot be read ({why}); download it again") from error


def _kind_of_folder(path: Path) -> str:
    if (path / "manifest.json").is_file():
        return (
            ": it is a bundle, which is served and cannot be trained; give the run folder that it "
            "was exported from"
        )
    return ", and there is no run.json in it; give a state dict or a run folder"


def _refusal(error: str) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", error)
    if named is None:
        why = error.partition("WeightsUnpickler error: ")[2] or error
        return (
            f"is not a plain state dict of torch.save ({why.strip().splitlines()[0]}); load it "
            "where you trust it and save only its state_dict() with torch.save"
        )
    return (
        f"is not a plain state dict: it holds {named[1]}; files that hold code are refused: load "
        "it where you trust it and save only its state_dict()"
    )


def _refuse_other_files(path: Path, head: bytes) -> None:
    """Raise WeightsError for what is known not to be weights."""
    if kind := kind_of(head, path.suffix):
        raise WeightsError(f"{path} is {kind.noun}, not weights: {kind.remedy}")
    if path.suffix == ".onnx":
        raise WeightsError(
            f"{path} is an ONNX model, which is served and cannot be trained; give the checkpoint "
            "that it was exported from, or serve it with `resight models wrap`"
        )
    if head.startswith(b"PK"):
        _refuse_other_zips(path)
    elif head[257:262] == b"ustar" or (head and tarfile.is_tarfile(path)):
        raise WeightsError(
            f"{path} is a tar archive, not weights: unpack it and give the file inside"
        )
    elif head and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        begins = head.strip().split(b"\n")[0][:60].decode()
        raise WeightsError(
            f"{path} is text, not weights; it begins with {begins!r}: download it again"
        )


def _refuse_other_zips(path: Path) -> None:
    """torch.save writes zip files, which have a data.pkl and, where they are programs, code."""
    if not zipfile.is_zipfile(path):
        raise WeightsError(f"{path} is cut off: its end is missing; download it again")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if not any(name.endswith("data.pkl") for name in names):
        listed = ", ".join(names[:3]) or "nothing"
        raise WeightsError(
            f"{path} is a zip archive without tensors (it holds {listed}): unpack it and give the "
            "file of weights inside"
        )
    if any(name.endswith("constants.pkl") for name in names):
        raise WeightsError(
            f"{path} is a TorchScript program; load it with torch.jit.load where you trust it and "
            "save only its state_dict()"
        )


def _is_safetensors(path: Path, head: bytes) -> bool:
    """A header in JSON, behind its length in eight bytes."""
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and length < path.stat().st_size

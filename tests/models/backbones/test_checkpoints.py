"""What people save as .pth: plain values beside the tensors, other files, files that hold code."""

from __future__ import annotations

import argparse
import datetime
import decimal
import gzip
import io
import os
import pickle
import tarfile
import types
import uuid
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from safetensors.torch import save_file

from models.backbones.checkpoints import read_state_dicts
from models.errors import WeightsError

STATE = {"conv1.weight": torch.arange(4.0)}
OPTIONS = argparse.Namespace(lr=0.00035, log_dir=Path("logs"), best=np.float32(0.9))

PLAIN: list[Any] = [
    np.float16(0.5),
    np.float32(0.9),
    np.float64(0.9),
    np.int8(1),
    np.int64(60),
    np.uint8(3),
    np.bool_(True),
    np.str_("rank1"),
    np.bytes_(b"a"),
    np.complex64(1),
    np.datetime64("2021-03-01"),
    np.float32,
    np.arange(3),
    np.array(["cam1"]),
    np.random.RandomState(0).get_state(),
    OPTIONS,
    {"args": OPTIONS},
    types.SimpleNamespace(epoch=3),
    datetime.datetime(2021, 3, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=8))),
    datetime.date(2021, 3, 1),
    datetime.time(12),
    datetime.timedelta(1),
    Path("logs/market"),
    PurePosixPath("/logs"),
    PureWindowsPath(r"C:\logs"),
    OrderedDict(epoch=3),
    defaultdict(list, mAP=[0.1, 0.2]),
    deque([1, 2], maxlen=5),
    Counter("abb"),
    {1, 2},
    frozenset({1}),
    slice(1, 2),
    range(3),
    complex(1, 2),
    decimal.Decimal("0.1"),
    Fraction(1, 3),
    uuid.UUID(int=1),
    torch.float32,
    torch.device("cpu"),
    torch.Size([1]),
]


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("value", PLAIN, ids=lambda each: type(each).__name__)
def test_plain_values_beside_the_tensors(tmp_path: Path, value: object, old_format: bool) -> None:
    file = tmp_path / "m.pth.tar"
    torch.save(
        {"state_dict": STATE, "beside": value, "epoch": 60},
        file,
        _use_new_zipfile_serialization=not old_format,
    )
    found = read_state_dicts(file)
    assert list(found) == ["state_dict"]
    assert torch.equal(found["state_dict"]["conv1.weight"], STATE["conv1.weight"])


def test_paths_of_a_newer_python(tmp_path: Path) -> None:
    """Python 3.13 wrote pathlib._local where others write pathlib."""
    buffer = io.BytesIO()
    torch.save({"m": STATE, "p": Path("a")}, buffer, _use_new_zipfile_serialization=False)
    content = buffer.getvalue()
    assert content.count(b"cpathlib\n") == 1
    file = tmp_path / "m.pth"
    file.write_bytes(content.replace(b"cpathlib\n", b"cpathlib._local\n"))
    assert list(read_state_dicts(file)) == ["m"]


class Calls:
    """Is unpickled by a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class Builds:
    """Is unpickled by its class, whose state makes a file."""

    mark: Path

    def __getstate__(self) -> dict[str, Path]:
        return {"mark": self.mark}

    def __setstate__(self, state: dict[str, Path]) -> None:
        state["mark"].touch()


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "os.system|posix.system"),
        (eval, "eval"),
        (exec, "exec"),
        (getattr, "getattr"),
        (__import__, "__import__"),
        (Path.touch, r"getattr|pathlib\.Path\.touch"),
        (pickle.loads, "pickle.loads"),
        (np.load, "numpy.load"),
        (torch.load, "torch.serialization.load"),
        (partial, "functools.partial"),
    ],
)
def test_calls_are_refused_and_not_made(
    tmp_path: Path, function: Callable[..., object], name: str, old_format: bool
) -> None:
    mark = tmp_path / "made"
    call = Calls(function, f"open({str(mark)!r}, 'w')")
    for beside in (call, argparse.Namespace(nested=[call]), {"deep": (call,)}):
        file = tmp_path / "m.pth"
        content = {"state_dict": STATE, "beside": beside}
        torch.save(content, file, _use_new_zipfile_serialization=not old_format)
        with pytest.raises(WeightsError, match=rf"holds (builtins\.)?({name}).*code are refused"):
            read_state_dicts(file)
        assert not mark.exists()


def test_the_state_of_an_object_is_not_set(tmp_path: Path) -> None:
    object_ = Builds()
    object_.mark = tmp_path / "made"
    torch.save({"state_dict": STATE, "beside": object_}, tmp_path / "m.pth")
    with pytest.raises(WeightsError, match=r"it holds [\w.]*test_checkpoints\.Builds; files that"):
        read_state_dicts(tmp_path / "m.pth")
    assert not object_.mark.exists()


def test_allowed_names_call_nothing_of_the_file(tmp_path: Path) -> None:
    """The arguments of an allowed class are not passed to it."""
    file = tmp_path / "m.pth"
    huge = Calls(np.ndarray, (1 << 40,))
    torch.save({"state_dict": STATE, "beside": [huge, Calls(range, "no number")]}, file)
    assert list(read_state_dicts(file)) == ["state_dict"]


def test_a_whole_network_is_named(tmp_path: Path) -> None:
    """BoT's trainer under some versions of ignite: torch.save(model)."""
    torch.save(torch.nn.Linear(2, 2), tmp_path / "resnet50_model_120.pth")
    with pytest.raises(WeightsError, match=r"it holds torch\.nn\.modules\.linear\.Linear; files"):
        read_state_dicts(tmp_path / "resnet50_model_120.pth")


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("osnet/model.pth", b"x")


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "model.pth")


def write_program(path: Path) -> None:
    """The names in a file of torch.jit.save."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "code/__torch__.py", "constants.pkl", "version"):
            archive.writestr(f"model/{name}", b"")


def write_half(path: Path) -> None:
    torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:-100])


PAGE = b"\n<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 94567890\n"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (PAGE, "a web page, not weights: .*download the file in a browser"),
        (b"\xef\xbb\xbf<HTML></HTML>", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
        (POINTER, "a Git LFS pointer, not weights: .*git lfs pull"),
        (b"404: Not Found", "is text, not weights; it begins with '404: Not Found'"),
        (b'{"message": "Bad credentials"}', "is text, not weights"),
        (b"", r"cannot be read \(it is empty\)"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (
            b"ptrt\0\0\0\0\xd5",
            "a TensorRT engine, not weights: give the file that it was made from",
        ),
        (gzip.compress(b"x"), "a gzip archive, not weights: unpack it"),
        (write_zip, r"zip archive without tensors \(it holds osnet/model\.pth\): unpack it"),
        (write_tar, "a tar archive, not weights: unpack it"),
        (write_program, r"a TorchScript program; .*torch\.jit\.load"),
        (write_half, "is cut off: its end is missing; download it again"),
        (pickle.dumps({"a": 1}), r"not a plain state dict of torch\.save \(Unsupported operand"),
        (Path.mkdir, "is a folder, not a file of weights, and there is no run.json in it"),
    ],
    ids=lambda each: each.__name__ if callable(each) else None,
)
def test_files_that_are_not_weights_are_named(
    tmp_path: Path, content: bytes | Callable[[Path], None], text: str
) -> None:
    path = tmp_path / "model.pth"
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"model.pth .*{text}"):
        read_state_dicts(path)


def test_a_bundle_and_an_onnx_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "manifest.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"it is a bundle, .*give the run folder"):
        read_state_dicts(tmp_path / "b")
    (tmp_path / "m.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    with pytest.raises(WeightsError, match=r"an ONNX model, .*models wrap"):
        read_state_dicts(tmp_path / "m.onnx")


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "m.pth")
    assert read_state_dicts(tmp_path / "m.pth")[""].keys() == STATE.keys()


def test_state_dicts_are_found_under_any_keys(tmp_path: Path) -> None:
    content = {
        "model": {"backbone": STATE, "step": 3},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(1)}}, "param_groups": []},
        "queue": torch.zeros(2),
    }
    torch.save(content, tmp_path / "m.pth")
    found = read_state_dicts(tmp_path / "m.pth")
    assert {key: list(state) for key, state in found.items()} == {
        "": ["queue"],
        "model.backbone": ["conv1.weight"],
    }


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([torch.zeros(1)], "an object of type list"),
        (torch.zeros(1), "an object of type Tensor"),
        ({}, "an empty dict"),
        ({"epoch": 3, "args": OPTIONS}, r"the keys epoch \(int\), args \(argparse\.Namespace\)"),
        ({"conv1.weight": np.zeros(1)}, r"the keys conv1\.weight \(numpy\.ndarray\)"),
        (
            torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))]).state_dict(),
            r"the state of an optimizer \(keys state, param_groups\)",
        ),
    ],
)
def test_what_is_there_instead_of_a_state_dict_is_named(
    tmp_path: Path, content: object, text: str
) -> None:
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(WeightsError, match=f"holds no state dict but {text}; save"):
        read_state_dicts(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("https://example.org/osnet.pth", "download it and give the file: weights are a file"),
        ("imagenet", "check the path: weights are a file, a run folder, or `torchvision`"),
    ],
)
def test_what_is_no_path_is_told_what_to_give(source: str, text: str) -> None:
    with pytest.raises(WeightsError, match=f"no file .*; {text}"):
        read_state_dicts(Path(source))

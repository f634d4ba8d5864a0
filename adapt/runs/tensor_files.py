"""Networks and states of runs on disk: safetensors, written atomically."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from adapt.errors import CheckpointError, RunError
from models.backbones.net import ReIDNet
from models.files import atomic_file, write_atomically

_CLASSIFIER = "classifier."


def save_network(net: ReIDNet, path: Path) -> None:
    """Write a network without its classifier, whose classes mean nothing to the next user."""
    state = {
        key: value.detach().cpu().contiguous()
        for key, value in net.state_dict().items()
        if not key.startswith(_CLASSIFIER)
    }
    write_atomically(path, safetensors.torch.save(state))


def load_network(net: ReIDNet, path: Path) -> None:
    """Read weights that `save_network` wrote; every tensor has to be there and to fit.

    Raises RunError when the file is missing, damaged, or of another architecture.
    """
    try:
        # as bytes: safetensors itself opens no path that is not UTF-8
        state: Mapping[str, Tensor] = safetensors.torch.load(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path} does not exist: the run has not finished its first round") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    except safetensors.SafetensorError as error:
        raise RunError(f"{path} is damaged ({error}); train again or restore it") from error
    wanted = {key for key in net.state_dict() if not key.startswith(_CLASSIFIER)}
    if wanted != set(state):
        odd = sorted(wanted ^ set(state))
        raise RunError(f"{path} does not fit the network: {len(odd)} tensors differ, as {odd[0]}")
    try:
        net.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise RunError(f"{path} does not fit the network: {error}") from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Write tensors on the CPU and what JSON holds, as one file. Raises OSError."""
    metadata = {"notes": json.dumps(notes)}
    with atomic_file(path) as draft:
        try:
            safetensors.torch.save_file(dict(tensors), draft, metadata)
        except safetensors.SafetensorError as error:  # wraps the system's own
            named = re.search(r"os error (\d+)", str(error))
            code = int(named[1]) if named else errno.EIO
            raise OSError(code, os.strerror(code)) from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote. Raises CheckpointError when it is missing or damaged."""
    try:
        with _as_utf8(path) as named, safetensors.safe_open(named, "pt") as file:
            notes = json.loads(file.metadata()["notes"])
            return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: there is nothing to continue") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (
        safetensors.SafetensorError,
        KeyError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise CheckpointError(f"{path} is damaged ({error}); start the run again") from error


@contextmanager
def _as_utf8(path: Path) -> Iterator[Path]:
    """A path that safetensors reads, which takes UTF-8 alone: the folder by its number, if needed.

    The name of the file itself is one of ours.
    """
    if not any("\udc80" <= char <= "\udcff" for char in str(path)):
        yield path
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        yield Path(f"/dev/fd/{folder}/{path.name}")
    finally:
        os.close(folder)

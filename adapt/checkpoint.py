"""Networks on disk: safetensors, written atomically."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from adapt.errors import RunError
from models.backbones.net import ReIDNet

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
        state: Mapping[str, Tensor] = safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise RunError(f"{path} does not exist: the run has not finished its first round") from None
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


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or none: temporary file beside it, fsync, rename, fsync the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

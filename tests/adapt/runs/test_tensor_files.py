"""Networks and states on disk: whole or not at all, also after a power cut."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from safetensors.torch import save_file  # noqa: E402

from adapt.errors import CheckpointError  # noqa: E402
from adapt.runs.tensor_files import (  # noqa: E402
    load_network,
    load_tensors,
    save_network,
    save_tensors,
)
from models.backbones.net import ReIDNet  # noqa: E402
from tests.support.disk_calls import recorded_disk_calls, synced_then_renamed  # noqa: E402


def test_tensors_are_on_the_disk_before_their_name_and_then_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = recorded_disk_calls(monkeypatch)
    save_tensors(tmp_path / "file", {"a": torch.zeros(3)}, {})
    assert calls == synced_then_renamed(tmp_path / "file")


def test_a_network_is_read_from_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    net = ReIDNet("mobilenet_v2")
    save_network(net, folder / "model.safetensors")
    other = ReIDNet("mobilenet_v2")
    load_network(other, folder / "model.safetensors")
    key = next(iter(net.state_dict()))
    assert torch.equal(net.state_dict()[key], other.state_dict()[key])


def test_a_state_is_kept_in_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    with pytest.raises(CheckpointError, match="does not exist"):
        load_tensors(folder / "state.safetensors")
    folder.mkdir()
    with pytest.raises(CheckpointError, match="does not exist"):
        load_tensors(folder / "state.safetensors")
    save_tensors(folder / "state.safetensors", {"a": torch.arange(3)}, {"round": 2})
    tensors, notes = load_tensors(folder / "state.safetensors")
    assert (tensors["a"].tolist(), notes) == ([0, 1, 2], {"round": 2})
    assert [each.name for each in folder.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize("notes", ["{", "[" * 100_000], ids=["cut", "too deep"])
def test_notes_that_cannot_be_read_are_damage(tmp_path: Path, notes: str) -> None:
    file = tmp_path / "file"
    save_file({"a": torch.zeros(3)}, file, {"notes": notes})
    with pytest.raises(CheckpointError, match=r"is damaged .*; start the run again"):
        load_tensors(file)

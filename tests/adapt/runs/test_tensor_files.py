"""Networks and states on disk: whole or not at all, also after a power cut."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from safetensors.torch import save_file  # noqa: E402

from adapt.errors import CheckpointError  # noqa: E402
from adapt.runs.tensor_files import load_tensors, save_tensors  # noqa: E402
from tests.support.disk_calls import recorded_disk_calls, synced_then_renamed  # noqa: E402


def test_tensors_are_on_the_disk_before_their_name_and_then_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = recorded_disk_calls(monkeypatch)
    save_tensors(tmp_path / "file", {"a": torch.zeros(3)}, {})
    assert calls == synced_then_renamed(tmp_path / "file")


@pytest.mark.parametrize("notes", ["{", "[" * 100_000], ids=["cut", "too deep"])
def test_notes_that_cannot_be_read_are_damage(tmp_path: Path, notes: str) -> None:
    file = tmp_path / "file"
    save_file({"a": torch.zeros(3)}, file, {"notes": notes})
    with pytest.raises(CheckpointError, match=r"is damaged .*; start the run again"):
        load_tensors(file)

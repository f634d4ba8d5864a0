"""Networks and states on disk: whole or not at all, also after a power cut."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.runs.tensor_files import save_tensors  # noqa: E402
from tests.support.disk_calls import recorded_disk_calls, synced_then_renamed  # noqa: E402


def test_tensors_are_on_the_disk_before_their_name_and_then_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = recorded_disk_calls(monkeypatch)
    save_tensors(tmp_path / "file", {"a": torch.zeros(3)}, {})
    assert calls == synced_then_renamed(tmp_path / "file")

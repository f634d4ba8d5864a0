from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.device import pick_device  # noqa: E402
from adapt.errors import ConfigError  # noqa: E402


@pytest.mark.parametrize(
    ("name", "gpus", "device"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda"),
        ("cpu", 2, "cpu"),
        ("cuda", 1, "cuda"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_devices(name: str, gpus: int, device: str) -> None:
    assert pick_device(name, gpus) == torch.device(device)


@pytest.mark.parametrize(
    ("name", "gpus", "message"),
    [
        ("meta", 1, "use auto, cpu, cuda or cuda:N"),
        ("mps", 1, "use auto, cpu, cuda or cuda:N"),
        ("cpu:0", 1, "use auto, cpu, cuda or cuda:N"),
        ("cuda:-1", 1, "use auto, cpu, cuda or cuda:N"),
        ("cuda:x", 1, "use auto, cpu, cuda or cuda:N"),
        ("cuda", 0, "sees no GPU here; use --device cpu"),
        ("cuda:2", 2, "sees GPUs 0 to 1"),
    ],
)
def test_devices_that_are_none(name: str, gpus: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pick_device(name, gpus)

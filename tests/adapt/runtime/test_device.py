from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.errors import ConfigError  # noqa: E402
from adapt.runtime.device import peak_gpu_bytes, peak_rss_bytes, pick_device  # noqa: E402


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


def test_memory_counts_bytes() -> None:
    before = peak_rss_bytes()
    held = np.ones(25_000_000)
    assert before > 30e6
    assert before + 250e6 > peak_rss_bytes() >= max(before, held.nbytes)
    assert peak_gpu_bytes(torch.device("cpu")) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_of_a_gpu_is_that_of_its_tensors() -> None:
    held = torch.ones(10_000_000, device="cuda")
    assert peak_gpu_bytes(held.device) >= 40_000_000

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from models.torchvision_compat import torchvision


def test_torchvision_can_be_imported_and_used() -> None:
    import torch

    net = torchvision.models.get_model("mobilenet_v2", weights=None).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)


@pytest.mark.slow
def test_operators_that_exist_are_left_alone() -> None:
    # In a process of its own: what torch registers cannot be taken back.
    script = """
import torch
schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
torch.library.define("torchvision::nms", schema)
import models.torchvision_compat
import torchvision.transforms.v2
"""
    subprocess.run([sys.executable, "-c", script], check=True)

"""One export of each network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from adapt.workflows import export


@contextmanager
def remembered_exports() -> Iterator[None]:
    """Torch's exporter takes seconds and gives the same for the same weights; the classifier
    is not in the graph."""
    made: dict[str, bytes] = {}
    to_onnx = export._to_onnx

    def remembered(deployed: export._Deployed, height: int, width: int) -> bytes:
        net = deployed.net
        digest = hashlib.sha256(f"{net.backbone} {net.attention} {height} {width}".encode())
        for name, value in deployed.state_dict().items():
            if "classifier" not in name:
                digest.update(value.numpy().tobytes())
        key = digest.hexdigest()
        if key not in made:
            made[key] = to_onnx(deployed, height, width)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_to_onnx", remembered)
        yield

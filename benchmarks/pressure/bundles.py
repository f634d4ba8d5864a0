"""Two models that differ in their weights alone, and crops for them."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from models.image import Preprocessing
from models.manifest import ModelCard
from models.registry import Registry
from service.rpc.pb.resight.v1 import embedding_pb2, gallery_pb2

OWN, OTHER = "pressure@1", "pressure@2"
"""References of the server's own model and of the other one."""

SIZE = Preprocessing(height=64, width=32)
CROP_HEIGHT, CROP_WIDTH = 128, 64


def write_models(registry: Path, folder: Path, backbone: str, seed: int) -> None:
    """Register both models."""
    import torch

    from adapt.workflows.export import export_bundle
    from models.backbones.net import ReIDNet

    for number, reference in enumerate((OWN, OTHER)):
        name, _, version = reference.partition("@")
        torch.manual_seed(seed + number)
        card = ModelCard(
            name=name,
            version=version,
            backbone=backbone,
            preprocessing=SIZE,
            method="none",
            created=datetime(2026, 1, 1, tzinfo=UTC),
        )
        made = export_bundle(ReIDNet(backbone).eval(), folder / version, card=card)
        Registry(registry).add(made.path)


def crops(count: int, seed: int) -> list[bytes]:
    """Smooth random pictures as JPEG files of some 3 KB."""
    noise = np.random.default_rng(seed).integers(0, 256, (count, 16, 8, 3), dtype=np.uint8)
    return [_jpeg(cells) for cells in noise]


def _jpeg(cells: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    large = Image.fromarray(cells).resize((CROP_WIDTH, CROP_HEIGHT), Image.Resampling.BICUBIC)
    large.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def enrollment(site: str, images: list[bytes]) -> bytes:
    """A request that enrolls crops; sent again, it enrolls further ones."""
    return _enrollment(site, images, [""] * len(images))


def replacement(site: str, images: list[bytes]) -> bytes:
    """A request that enrolls crops; sent again, it replaces these: its site does not grow."""
    return _enrollment(site, images, [f"s{n}" for n in range(len(images))])


def _enrollment(site: str, images: list[bytes], ids: list[str]) -> bytes:
    items = [
        gallery_pb2.EnrollItem(
            sighting_id=id_, sighting=gallery_pb2.Sighting(camera="c1", image=image)
        )
        for id_, image in zip(ids, images, strict=True)
    ]
    request = gallery_pb2.EnrollSightingsRequest(parent=f"sites/{site}", items=items)
    return request.SerializeToString()


def embedding(images: list[bytes]) -> bytes:
    """A request that embeds crops."""
    return embedding_pb2.EmbedRequest(images=images).SerializeToString()

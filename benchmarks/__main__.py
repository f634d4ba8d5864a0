"""Ratios measured side by side on this machine: `python -m benchmarks`, or `make bench`."""

from __future__ import annotations

import io
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from adapt.data.batches.transforms import normalize
from adapt.training.extraction import EXTRACTION_BATCH, extract
from adapt.workflows.export import export_bundle
from benchmarks.ratios import Ratio, compare
from cli.local_server import local_server
from models.backbones.net import ReIDNet
from models.image import Preprocessing, decode
from models.manifest import ModelCard
from service.client import ResightClient

CROPS = 256
SIZE = Preprocessing(height=64, width=32)


def crops() -> list[bytes]:
    """Smooth random pictures as JPEG files of 256x128."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (CROPS, 16, 8, 3), dtype=np.uint8)
    files = []
    for image in noise:
        buffer = io.BytesIO()
        Image.fromarray(image).resize((128, 256), Image.Resampling.BICUBIC).save(
            buffer, "JPEG", quality=90
        )
        files.append(buffer.getvalue())
    return files


def decoding(files: list[bytes]) -> Ratio:
    """Our decoder against Pillow's, full size, one thread."""
    return compare(
        "decode 256x128 JPEG: models.image / Pillow",
        lambda: [decode(file) for file in files],
        lambda: [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files],
        items=len(files),
        unit="crops",
    )


def orientation(files: list[bytes]) -> Ratio:
    """What it costs to look for an orientation where there is none."""
    return compare(
        "decode 256x128 JPEG without EXIF: exact-2 / exact-1",
        lambda: [decode(file) for file in files],
        lambda: [decode(file, decoder="exact-1") for file in files],
        items=len(files),
        unit="crops",
    )


def extraction(files: list[bytes]) -> Ratio:
    """Extraction against the bare forward passes that it consists of."""
    torch.manual_seed(0)
    net = ReIDNet("resnet18").eval()
    images = np.stack([SIZE.load(file) for file in files])
    ready = [
        normalize(torch.from_numpy(images[i : i + EXTRACTION_BATCH]))
        for i in range(0, len(images), EXTRACTION_BATCH)
    ]

    def bare() -> None:
        with torch.no_grad():
            for batch in ready:
                net.embed(batch)

    return compare(
        "extract resnet18 64x32: adapt.training.extraction.extract / bare forward",
        lambda: extract([net], images, device=torch.device("cpu")),
        bare,
        items=len(images),
        unit="crops",
    )


def messages(files: list[bytes], folder: Path) -> Ratio:
    """32 crops in a message against 1, through the real server, one client."""
    torch.manual_seed(0)
    card = ModelCard(
        name="bench",
        version="1",
        backbone="mobilenet_v2",
        preprocessing=SIZE,
        method="none",
        created=datetime.now(UTC),
    )
    bundle = export_bundle(ReIDNet("mobilenet_v2").eval(), folder / "bundle", card=card)
    with local_server(bundle.path, folder / "data") as address, ResightClient(address) as client:
        return compare(
            "embed over gRPC: 32 crops per message / 1",
            lambda: [client.embed(files[i : i + 32]) for i in range(0, len(files), 32)],
            lambda: [client.embed([file]) for file in files],
            items=len(files),
            unit="crops",
        )


def main() -> None:
    """Measure and print a table."""
    files = crops()
    with tempfile.TemporaryDirectory() as folder:
        rows = [decoding(files), orientation(files), extraction(files)]
        rows.append(messages(files, Path(folder)))
    print("| first / second | ratio, median of 7 | smallest - largest | first / second |")
    print("|---|---|---|---|")
    for ratio in rows:
        print(ratio.row())


if __name__ == "__main__":
    main()

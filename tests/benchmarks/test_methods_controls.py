"""Controls that need no training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.data.decoding.decode import DecodedCrops  # noqa: E402
from adapt.evaluation.scoring import LabelledCrops  # noqa: E402
from adapt.training.extraction import MIN_CAMERA_CROPS, extract, with_statistics_of  # noqa: E402
from adapt.types import CropSet, Sample  # noqa: E402
from benchmarks.methods.compare import embedded_by_camera  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402

CPU = torch.device("cpu")


def crops(cameras: tuple[str, ...], each: tuple[int, ...], seed: int) -> DecodedCrops:
    """Noise, brighter from camera to camera."""
    codes = [code for code, count in enumerate(each) for _ in range(count)]
    samples = tuple(
        Sample(Path(f"{n}.png"), f"{n}.png", camera=code, person=n % 3)
        for n, code in enumerate(codes)
    )
    noise = np.random.default_rng(seed).integers(0, 100, (len(codes), 32, 16, 3))
    images = (noise + 70 * np.array(codes)[:, None, None, None]).astype(np.uint8)
    return DecodedCrops(CropSet(Path(), samples, cameras), images)


@pytest.fixture(scope="module")
def net() -> ReIDNet:
    torch.manual_seed(0)
    return ReIDNet("resnet18").eval()


def test_on_the_learned_crops_it_is_what_methods_cluster(net: ReIDNet) -> None:
    site = crops(("c1", "c2"), (MIN_CAMERA_CROPS, MIN_CAMERA_CROPS + 8), 1)
    query, gallery = embedded_by_camera(net, site, LabelledCrops(site, site))
    (wanted,) = extract([net], site.images, device=CPU, cameras=site.crops.camera_codes)
    np.testing.assert_allclose(query, wanted, atol=1e-6)
    assert gallery is query


def test_statistics_are_of_the_learned_crops_of_the_camera_of_that_name(net: ReIDNet) -> None:
    learned = crops(("c1", "c2"), (MIN_CAMERA_CROPS, MIN_CAMERA_CROPS), 1)
    judged = crops(("c2", "c1"), (4, 3), 2)  # codes the other way round
    query, _ = embedded_by_camera(net, learned, LabelledCrops(judged, judged))
    for code, name in enumerate(judged.crops.cameras):
        rows = judged.crops.camera_codes == code
        own = learned.images[learned.crops.camera_codes == learned.crops.cameras.index(name)]
        (wanted,) = extract([with_statistics_of(net, own, CPU)], judged.images[rows], device=CPU)
        np.testing.assert_allclose(query[rows], wanted, atol=1e-6)


def test_a_camera_of_few_crops_or_none_keeps_the_networks_statistics(net: ReIDNet) -> None:
    learned = crops(("c1",), (MIN_CAMERA_CROPS - 1,), 1)
    judged = crops(("c1", "c9"), (4, 3), 2)
    query, _ = embedded_by_camera(net, learned, LabelledCrops(judged, judged))
    np.testing.assert_allclose(query, extract([net], judged.images, device=CPU)[0], atol=1e-6)

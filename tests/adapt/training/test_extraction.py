"""Extraction: what is embedded, under which batch-norm statistics, and what stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.data.batches.transforms import normalize  # noqa: E402
from adapt.training.extraction import MIN_CAMERA_CROPS, extract, with_statistics_of  # noqa: E402
from models.backbones.ghost_batch_norm import group_batch_norm  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

CPU = torch.device("cpu")


def net(seed: int = 0) -> ReIDNet:
    torch.manual_seed(seed)
    made = ReIDNet("resnet18", classes=3)
    for module in made.modules():  # statistics that differ from those of any crops here
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(2.0)
    return made


def images(count: int, shift: int = 0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(rng.integers(0, 200, (count, 32, 16, 3)) + shift, 0, 255).astype(np.uint8)


@pytest.mark.slow
def test_every_crop_is_embedded_in_its_row_whatever_the_batch_size() -> None:
    nets, crops = [net(0), net(1)], images(7)
    tables = extract(nets, crops, device=CPU, batch_size=3)
    for model, table in zip(nets, tables, strict=True):
        model.eval()
        for row in range(7):
            expected = model.embed(normalize(torch.from_numpy(crops[row : row + 1])))
            np.testing.assert_allclose(table[row], expected.detach().numpy()[0], atol=1e-5)
        assert np.linalg.norm(table, axis=1) == pytest.approx(np.ones(7), abs=1e-5)


def test_networks_stay_as_they_are() -> None:
    model = net().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    cameras = np.repeat([0, 1], MIN_CAMERA_CROPS)
    extract([model], images(len(cameras)), device=CPU, cameras=cameras)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_statistics_of_crops_by_hand() -> None:
    """The first batch norm sees the convolution of the crops: mean and variance of that."""
    model, crops = net(), images(10)
    adapted = with_statistics_of(model, crops, CPU, batch_size=100)
    maps = model.backbone.conv1(normalize(torch.from_numpy(crops)))
    torch.testing.assert_close(adapted.backbone.bn1.running_mean, maps.mean((0, 2, 3)))
    torch.testing.assert_close(adapted.backbone.bn1.running_var, maps.var((0, 2, 3)))
    assert not adapted.training


def test_each_camera_has_its_own_statistics() -> None:
    model = net()
    dark, bright = images(MIN_CAMERA_CROPS), images(MIN_CAMERA_CROPS, shift=55)
    crops = np.concatenate([dark, bright])
    cameras = np.repeat([4, 9], MIN_CAMERA_CROPS)
    (table,) = extract([model], crops, device=CPU, cameras=cameras)
    (alone,) = extract([with_statistics_of(model, bright, CPU)], bright, device=CPU)
    np.testing.assert_allclose(table[MIN_CAMERA_CROPS:], alone, atol=1e-5)
    (plain,) = extract([model], crops, device=CPU)
    n = MIN_CAMERA_CROPS  # row n + i is row i, only brighter
    own = (table[:n] @ table[n:].T).argmax(1) == np.arange(n)
    shared = (plain[:n] @ plain[n:].T).argmax(1) == np.arange(n)
    assert own.mean() > shared.mean(), "own statistics bring the two cameras together"


def test_small_cameras_keep_the_networks_statistics() -> None:
    model, crops = net(), images(MIN_CAMERA_CROPS - 1)
    (table,) = extract([model], crops, device=CPU, cameras=np.zeros(len(crops), np.int64))
    (plain,) = extract([model], crops, device=CPU)
    np.testing.assert_array_equal(table, plain)


@pytest.mark.slow
def test_a_network_trained_in_groups_is_measured_on_whole_batches() -> None:
    """33 crops fall into no groups of 16; all is as without groups, and the groups stay."""
    plain, grouped = net(), net().train()
    group_batch_norm(grouped, 16)
    crops = images(2 * (MIN_CAMERA_CROPS + 1))
    cameras = np.repeat([0, 1], MIN_CAMERA_CROPS + 1)
    for given in (None, cameras):
        tables = [extract([n], crops, device=CPU, cameras=given)[0] for n in (plain, grouped)]
        np.testing.assert_array_equal(tables[0], tables[1])
    expected = with_statistics_of(plain, crops, CPU).state_dict()
    found = with_statistics_of(grouped, crops, CPU).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert grouped.neck.group == 16


def test_no_networks_no_tables() -> None:
    assert extract([], images(3), device=CPU) == ()


def test_statistics_of_some_rows_are_those_of_a_copy_of_them() -> None:
    crops, rows = images(9), np.array([1, 3, 4, 8])
    one = with_statistics_of(net(), crops[rows], CPU, 3)
    other = with_statistics_of(net(), crops, CPU, 3, rows)
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)

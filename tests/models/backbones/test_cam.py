"""Class activation maps: by hand, as a property, against a loop, pinned."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402

from models.backbones.cam import class_activation_map  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402
from models.errors import BackboneError  # noqa: E402


@pytest.fixture
def net() -> ReIDNet:
    """Neck and batch-norm statistics are away from their start."""
    torch.manual_seed(0)
    net = ReIDNet("resnet18", classes=4)
    for _ in range(3):
        net(torch.randn(8, 3, 64, 32))
    nn.init.uniform_(net.neck.weight, 0.5, 2.0)
    return net


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 3, 64, 32, generator=torch.Generator().manual_seed(1))


LABEL = torch.tensor([2, 0, 3])


def test_three_images_by_hand() -> None:
    """A trunk of two channels, red and green, and cells of 2 x 2 pixels."""
    net = ReIDNet("resnet18", classes=2)
    net.backbone = nn.Conv2d(3, 512, 2, stride=2, bias=False)  # type: ignore[assignment]
    with torch.no_grad():
        net.backbone.weight.zero_()
        net.backbone.weight[0, 0] = net.backbone.weight[1, 1] = 0.25  # means of red, of green
        net.neck.weight[:2] = torch.tensor([2.0, 3.0])
        net.neck.running_var[:2] = torch.tensor([4.0, 9.0]) - net.neck.eps
        net.classifier.weight.zero_()
        net.classifier.weight[0, 0] = 1.0  # class 0 likes red: 1 * 2 / 2 = 1 per unit
        net.classifier.weight[1, :2] = torch.tensor([-1.0, 5.0])  # class 1: green 5, red -1
    image = torch.zeros(3, 4, 2)
    image[0, :2] = 3.0  # red above
    image[1, 2:] = 7.0  # green below
    maps = class_activation_map(net, image.expand(3, -1, -1, -1), torch.tensor([0, 1, 1]))
    torch.testing.assert_close(
        maps.squeeze(2), torch.tensor([[3.0, 0.0], [-3.0, 35.0], [-3.0, 35.0]])
    )


def test_its_mean_is_the_logit_up_to_a_constant_of_the_class(net: ReIDNet, x: torch.Tensor) -> None:
    with torch.no_grad():
        logits = net.eval()(x).logits
        assert logits is not None
        assert net.classifier is not None
        scale = net.neck.weight / (net.neck.running_var + net.neck.eps).sqrt()
        constant = (net.classifier.weight[LABEL] * scale * net.neck.running_mean).sum(1)
    means = class_activation_map(net, x, LABEL).mean(dim=(1, 2))
    torch.testing.assert_close(means - constant, logits[torch.arange(3), LABEL])


def test_it_equals_a_loop_over_cells(net: ReIDNet, x: torch.Tensor) -> None:
    """Each cell, as if it were the whole map, put through neck and classifier."""
    maps = class_activation_map(net, x, LABEL)
    net.eval()
    assert net.classifier is not None
    with torch.no_grad():
        trunk = net.feature_map(x)
        zero = net.classifier(net.neck(torch.zeros(1, 512)))[0]
        for i in range(3):
            for row in range(4):
                for column in range(2):
                    logits = net.classifier(net.neck(trunk[i, :, row, column][None]))[0]
                    expected = float((logits - zero)[LABEL[i]])
                    assert float(maps[i, row, column]) == pytest.approx(expected, abs=1e-4)


def test_pinned_map(net: ReIDNet, x: torch.Tensor) -> None:
    maps = class_activation_map(net, x, LABEL)
    assert maps.shape == (3, 4, 2)
    assert maps[0].flatten().tolist() == pytest.approx(
        [0.01034, 0.00254, 0.02734, 0.01559, 0.01919, 0.00806, 0.01303, 0.03475], abs=1e-4
    )


def test_the_network_stays_as_it_was(net: ReIDNet, x: torch.Tensor) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for mode in (True, False):
        net.train(mode)
        maps = class_activation_map(net, x, LABEL)
        assert net.training is mode
        assert all(module.training is mode for module in net.modules())
        assert not maps.requires_grad
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_one_image_alone_has_the_same_map(net: ReIDNet, x: torch.Tensor) -> None:
    torch.testing.assert_close(
        class_activation_map(net, x[1:2], LABEL[1:2])[0], class_activation_map(net, x, LABEL)[1]
    )


def test_what_does_not_fit_is_refused(net: ReIDNet, x: torch.Tensor) -> None:
    with pytest.raises(BackboneError, match="must be one for each image"):
        class_activation_map(net, x, LABEL[:2])
    with pytest.raises(BackboneError, match="reset_classifier"):
        class_activation_map(ReIDNet("resnet18"), x, LABEL)

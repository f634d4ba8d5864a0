"""Steps that two processes share equal those of one: losses, gradients, networks, every method."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from torch import nn  # noqa: E402

from adapt.errors import ConfigError  # noqa: E402
from adapt.methods import METHODS  # noqa: E402
from adapt.runtime.distributed import SINGLE_PROCESS, ProcessGroup  # noqa: E402
from adapt.training.sharding import (  # noqa: E402
    AllGatherSumGrad,
    Gathered,
    average_statistics,
    own_rows,
    shard_trunks,
)
from models.backbones.ghost_batch_norm import group_batch_norm  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402
from tests.support.shared_steps import Case, compare  # noqa: E402
from tests.support.two_processes import Pair, pair  # noqa: E402

CASES = [
    *(Case(name, ghost=ghost) for name in ("source", *METHODS) for ghost in (0, 4)),
    Case("mmt", ghost=2),
    Case("mmt", {"networks": 1, "average_statistics": True}, ghost=4),
    Case("mmt", {"networks": 1, "average_statistics": True}),
    Case("source", trunk="resnet18_ibn_a"),
    Case("source", {"parts": "halves", "margin": 0.3}, ghost=4),
    Case("hli", {"peers": 2, "features": "raw"}, ghost=4),
    Case("nrmt", {"thresholds": "relative", "reference": 1.0}, ghost=4),
    Case("aml", ghost=4, late=False),
    Case("daal", {"attention": "independent"}, ghost=4),
    Case("daal", {"attention": "none", "labels": "lsr"}),
]


@pytest.fixture(scope="module")
def two() -> Iterator[Pair]:
    with pair() as processes:
        yield processes


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_processes_take_the_steps_of_one(two: Pair, case: Case) -> None:
    (bits, found), (others_bits, _) = two(compare, case)
    assert bits == others_bits, "the same networks in both processes, bit for bit"
    assert found.figures < 1e-6  # some are computed in single precision
    # many layers with few cells make more of rounding
    most = 1e-9 if case.trunk == "small" else 1e-6
    assert found.gradients < most
    assert found.networks < most
    assert found.learned > 1e-3, "steps without a gradient would prove nothing"


def by_hand(group: ProcessGroup) -> dict[str, list[float]]:
    """L = (sum over rows of k w x_k)^2 over four rows, two in each process."""
    w = torch.ones((), requires_grad=True)
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])[own_rows(4, group)]
    rows = Gathered.apply(w * x, group)
    loss = (torch.arange(1.0, 5.0)[:, None] * rows).sum() ** 2
    loss.backward()
    s = torch.tensor([float(group.rank + 1)], requires_grad=True)
    both = AllGatherSumGrad.apply(s, group)
    ((group.rank + 1) * both.prod()).backward()  # this process's part of a loss: 1 s0 s1, 2 s0 s1
    return {"loss": [loss.item()], "w": [w.grad.item()], "s": s.grad.tolist()}


def test_gradients_by_hand(two: Pair) -> None:
    first, second = two(by_hand)
    # 1 + 4 + 9 + 16 = 30; dL/dw = 2 * 30 * 30 in all, of which (1 + 4) and (9 + 16) are own terms
    assert first["loss"] == second["loss"] == [900]
    assert (first["w"], second["w"]) == ([2 * 30 * 5], [2 * 30 * 25])
    # d(s0 s1 + 2 s0 s1)/ds0 = 3 s1 and /ds1 = 3 s0, of s = (1, 2)
    assert (first["s"], second["s"]) == ([6], [3])


def weighted(group: ProcessGroup) -> list[float]:
    norm = nn.Sequential(nn.BatchNorm1d(1))
    norm[0].running_mean.fill_(2.0 + group.rank)
    average_statistics(norm, group, weight=3.0 if group.is_main else 1.0)
    return [norm[0].running_mean.item(), norm[0].running_var.item()]


def test_statistics_are_weighted(two: Pair) -> None:
    assert two(weighted) == [[2.25, 1.0]] * 2


def after_one_step(
    net: ReIDNet, optimizer: torch.optim.Optimizer, x: torch.Tensor
) -> dict[str, torch.Tensor]:
    net(x).neck.square().sum().backward()
    optimizer.step()
    return net.state_dict()


def left_as_it_was(group: ProcessGroup) -> bool:
    torch.manual_seed(group.rank)  # of own images: what is shared would differ
    net = ReIDNet("resnet18")
    group_batch_norm(net, 0)
    untouched = copy.deepcopy(net)
    optimizer, other = (torch.optim.SGD(n.parameters(), lr=0.1) for n in (net, untouched))
    with shard_trunks([net], optimizer, group, 0):
        pass
    x = torch.randn(3, 3, 32, 16)  # cannot be shared evenly: nobody tries
    found, expected = after_one_step(net, optimizer, x), after_one_step(untouched, other, x)
    return all(torch.equal(found[name], value) for name, value in expected.items())


def test_what_was_hung_up_is_taken_down(two: Pair) -> None:
    assert two(left_as_it_was) == [True, True]


def uneven(group: ProcessGroup) -> str:
    net = ReIDNet("resnet18")
    with shard_trunks([net], torch.optim.SGD(net.parameters(), lr=0.1), group, 0):
        try:
            net(torch.zeros(3, 3, 32, 16))
        except ConfigError as error:
            return str(error)
    return ""


def test_rows_that_cannot_be_shared(two: Pair) -> None:
    assert two(uneven) == ["3 images cannot be shared evenly by 2 processes"] * 2


def test_alone_nothing_is_hung_up() -> None:
    net = ReIDNet("resnet18")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    kinds = [type(module) for module in net.modules()]
    with shard_trunks([net], optimizer, SINGLE_PROCESS, 0):
        assert [type(module) for module in net.modules()] == kinds
        assert not net.backbone._forward_hooks
        assert not net.backbone._forward_pre_hooks
        assert not optimizer._optimizer_step_pre_hooks


def test_rows_of_each_process() -> None:
    assert [own_rows(6, ProcessGroup(rank, 3)) for rank in range(3)] == [
        slice(0, 2),
        slice(2, 4),
        slice(4, 6),
    ]

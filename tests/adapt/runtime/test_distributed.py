"""Processes that talk: two of them on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from typing import Any  # noqa: E402

from adapt.errors import ConfigError  # noqa: E402
from adapt.runtime.distributed import SINGLE_PROCESS, ProcessGroup, join, own_device, refuse_several  # noqa: E402
from tests.support.two_processes import Pair, pair  # noqa: E402


@pytest.fixture(scope="module")
def two() -> Iterator[Pair]:
    with pair() as processes:
        yield processes


def ranks(group: ProcessGroup) -> tuple[int, int, bool]:
    return group.rank, group.size, group.is_main


def test_each_knows_its_place(two: Pair) -> None:
    assert two(ranks) == [(0, 2, True), (1, 2, False)]


def of_any(group: ProcessGroup) -> list[bool]:
    return [group.any_rank(group.rank == asked) for asked in (0, 1, 2)]


def test_what_one_knows_all_know(two: Pair) -> None:
    assert two(of_any) == [[True, True, False]] * 2


def numbers(group: ProcessGroup) -> dict[str, list[Any]]:
    own = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) + 10 * group.rank
    return {
        "gathered": group.gather(own).tolist(),
        "added": group.all_reduce(own.clone()).tolist(),
        "first": group.reduce(own.clone()).tolist(),
    }


def test_rows_are_gathered_and_numbers_added(two: Pair) -> None:
    first, second = two(numbers)
    for each in (first, second):
        assert each["gathered"] == [[1, 2], [3, 4], [11, 12], [13, 14]]
        assert each["added"] == [[12, 14], [16, 18]]
    assert first["first"] == first["added"]


def sent() -> tuple[dict[str, Any], dict[str, Any]]:
    tensors = {
        "matrix": torch.arange(6.0).view(2, 3).T,
        "none": torch.empty(0, 4),
        "truth": torch.tensor(True),
        "number": torch.tensor(0.1, dtype=torch.float64),
        "labels": torch.tensor([-1, 0, 1 << 40]),
    }
    return tensors, {"done": 3, "share": 0.1, "infinite": float("inf"), "names": ["a", "ü"]}


def received(group: ProcessGroup) -> bool:
    tensors, notes = group.broadcast(sent() if group.is_main else None)
    expected, told = sent()
    return (
        notes == told
        and list(tensors) == list(expected)
        and all(torch.equal(tensors[k], v) for k, v in expected.items())
        and all(tensors[k].dtype == v.dtype for k, v in expected.items())
    )


def test_a_state_comes_over_bit_for_bit(two: Pair) -> None:
    assert two(received) == [True, True]


def test_alone_without_torchrun() -> None:
    for environment in ({}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "1", "RANK": "0"}):
        device, group = join("cpu", environment)
        assert (device, group) == (torch.device("cpu"), SINGLE_PROCESS)
    assert SINGLE_PROCESS.is_main
    assert [SINGLE_PROCESS.any_rank(flag) for flag in (True, False)] == [True, False]
    SINGLE_PROCESS.barrier()
    SINGLE_PROCESS.shutdown()
    SINGLE_PROCESS.refuse_uneven(7, 0)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, r"RANK = '' .*start several processes by torchrun, or unset"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE = 'two'"),
        (
            {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
            "the GPUs of one machine: use torchrun --standalone",
        ),
    ],
)
def test_a_wrong_environment_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        join("cpu", environment)


def test_each_process_takes_a_gpu_of_its_own() -> None:
    assert own_device("auto", 1, 2, gpus=2) == torch.device("cuda", 1)
    assert own_device("cuda", 0, 2, gpus=4) == torch.device("cuda", 0)
    assert own_device("auto", 1, 2, gpus=0) == torch.device("cpu")
    assert own_device("cpu", 1, 2, gpus=2) == torch.device("cpu")
    with pytest.raises(ConfigError, match="3 processes for 2 GPUs: start one for each"):
        own_device("cuda", 0, 3, gpus=2)
    with pytest.raises(ConfigError, match="cuda:1 is one GPU for 2 processes: give cuda"):
        own_device("cuda:1", 0, 2, gpus=2)


@pytest.mark.parametrize(
    ("images", "group", "size"), [(64, 16, 4), (64, 16, 2), (64, 0, 8), (6, 0, 3), (64, 16, 1)]
)
def test_batches_that_can_be_shared(images: int, group: int, size: int) -> None:
    ProcessGroup(0, size).refuse_uneven(images, group)


def test_batches_that_cannot_be_shared() -> None:
    with pytest.raises(ConfigError, match=r"4 batch-norm groups of 16 .* by 3 .*\(1, 2, 4\)"):
        ProcessGroup(0, 3).refuse_uneven(64, 16)
    with pytest.raises(ConfigError, match=r"6 images cannot .* by 4 .*\(1, 2, 3, 6\)"):
        ProcessGroup(0, 4).refuse_uneven(6, 0)


def test_what_one_process_does_is_refused_to_several() -> None:
    refuse_several("a plan", {})
    with pytest.raises(ConfigError, match="a plan runs in one process"):
        refuse_several("a plan", {"WORLD_SIZE": "2"})

"""Whole runs by two processes: the labels and the curve of one; stopped, resumed, cut off."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from tests.support.shared_runs import (  # noqa: E402
    ROUNDS,
    STEPS,
    Trained,
    collapsed,
    embed,
    killed,
    resume_together,
    run_both,
    stop_and_resume_alone,
)
from tests.support.two_processes import Pair, pair  # noqa: E402


@pytest.fixture(scope="module")
def two() -> Iterator[Pair]:
    with pair() as processes:
        yield processes


def assert_alike(one: Trained, other: Trained) -> None:
    """The same labels; figures up to rounding, which Adam's first steps make larger."""
    assert one.labels == other.labels
    for a, b in zip(one.figures, other.figures, strict=True):
        assert a == pytest.approx(b, rel=2e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "ghost"),
    [("mmt", 4), ("mmt", 0), ("nrmt", 4), ("hli", 4), ("aml", 4), ("daal", 4), ("daal", 0)],
)
def test_two_processes_train_as_one(two: Pair, name: str, ghost: int) -> None:
    (first, alone), (second, _) = two(run_both, name, ghost)
    assert len(first.figures) == ROUNDS
    assert_alike(first, alone)
    assert first.labels == second.labels
    assert first.figures == second.figures
    assert first.networks.keys() == second.networks.keys()
    assert all(torch.equal(v, second.networks[k]) for k, v in first.networks.items())


# looks at the request: so many in each extraction of 84 crops, one after labelling, one a step
EXTRACTION = 2


@pytest.mark.parametrize(
    "looks", [0, EXTRACTION + 2, EXTRACTION + STEPS], ids=["extraction", "step", "last step"]
)
def test_one_is_asked_to_stop_and_both_do(two: Pair, looks: int) -> None:
    first, second = two(stop_and_resume_alone, "mmt", looks)
    assert second == "stopped"
    gone_on, whole = first
    assert len(gone_on.figures) == ROUNDS
    assert_alike(gone_on, whole)


@pytest.mark.parametrize("looks", [EXTRACTION + 3, EXTRACTION + 4 + STEPS], ids=["step", "round"])
@pytest.mark.parametrize("name", ["mmt", "nrmt", "daal"])
def test_two_go_on_with_what_one_began(two: Pair, name: str, looks: int) -> None:
    (first, whole), (second, _) = two(resume_together, name, looks)
    whole.labels[:] = whole.labels[-len(first.labels) :]  # of the rounds that were left
    whole.figures[:] = whole.figures[-len(first.figures) :]
    assert_alike(first, whole)
    assert all(torch.equal(v, second.networks[k]) for k, v in first.networks.items())


def test_batches_are_dealt_out_in_extraction(two: Pair) -> None:
    (told, tables), (others, _) = two(embed, False)
    from adapt.runtime.distributed import SINGLE_PROCESS

    alone, expected = embed(SINGLE_PROCESS, False)
    assert told == others
    assert told[-1] == alone[-1] == 84
    for ours, theirs in zip(tables, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_statistics_of_cameras_are_those_of_one_process(two: Pair) -> None:
    (told, tables), (others, _) = two(embed, True)
    from adapt.runtime.distributed import SINGLE_PROCESS

    _, expected = embed(SINGLE_PROCESS, True)
    assert told == others
    for ours, theirs in zip(tables, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_where_one_fails_the_other_ends_too() -> None:
    with pair() as processes:
        assert processes(collapsed) == ["CLUSTERS_COLLAPSED", "PROCESS_LOST"]


def test_where_one_is_killed_the_other_ends_too() -> None:
    with pair() as processes:
        assert processes(killed) == ["PROCESS_LOST", "gone"]

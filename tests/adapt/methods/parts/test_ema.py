"""Temporal average: by hand, as a property, against a reference, pinned."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from adapt.methods.parts.ema import ema_momentum, start_averages, update_ema


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))
    for buffer in net.buffers():
        buffer.add_(seed + 1)
    return net


def vector(net: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(net.parameters()).detach()


def single(value: float) -> nn.Module:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, value)
    return net


def test_three_steps_by_hand() -> None:
    teacher = single(100.0)
    seen = []
    for step, value in enumerate((1.0, 3.0, 8.0)):
        update_ema(teacher, single(value), ema_momentum(step))
        seen.append(float(vector(teacher)))
    assert seen == pytest.approx([1.0, 2.0, 4.0])  # the means of the first 1, 2 and 3 values


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (1, 0.5), (3, 0.75), (998, 1 - 1 / 999), (999, 0.999), (10**6, 0.999)],
)
def test_ramp_is_pinned(step: int, expected: float) -> None:
    assert ema_momentum(step) == pytest.approx(expected, abs=1e-15)


@settings(max_examples=30)
@given(limit=st.floats(0, 0.9999), step=st.integers(0, 10**6))
def test_ramp_grows_up_to_its_limit(limit: float, step: int) -> None:
    assert 0 <= ema_momentum(step, limit) <= ema_momentum(step + 1, limit) <= limit


@settings(max_examples=20)
@given(steps=st.integers(1, 8))
def test_ramp_makes_the_plain_mean(steps: int) -> None:
    teacher = network(99)
    students = [network(seed) for seed in range(steps)]
    for step, student in enumerate(students):
        update_ema(teacher, student, ema_momentum(step))
    expected = torch.stack([vector(student) for student in students]).mean(dim=0)
    torch.testing.assert_close(vector(teacher), expected)


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.999, 1.0])
def test_equals_the_equation_parameter_by_parameter(momentum: float) -> None:
    teacher, student = network(0), network(1)
    before = copy.deepcopy(teacher)
    update_ema(teacher, student, momentum)
    for new, old, now in zip(
        teacher.parameters(), before.parameters(), student.parameters(), strict=True
    ):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * now)


def test_buffers_and_student_are_left_alone() -> None:
    teacher, student = network(0), network(1)
    buffers = {name: b.clone() for name, b in teacher.named_buffers()}
    theirs = {name: t.clone() for name, t in student.state_dict().items()}
    update_ema(teacher, student, 0.0)
    assert all(torch.equal(b, buffers[name]) for name, b in teacher.named_buffers())
    assert all(torch.equal(t, theirs[name]) for name, t in student.state_dict().items())
    assert torch.equal(vector(teacher), vector(student))


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.999])
def test_statistics_are_averaged_on_demand(momentum: float) -> None:
    teacher, student = network(0), network(1)
    before = copy.deepcopy(teacher.state_dict())
    update_ema(teacher, student, momentum, statistics=True)
    for name, now in student.state_dict().items():
        old, new = before[name], teacher.state_dict()[name]
        whole = not now.is_floating_point()  # the counter of batches has no average
        expected = old if whole else momentum * old + (1 - momentum) * now
        torch.testing.assert_close(new, expected)


def test_averages_start_as_frozen_copies_of_their_students() -> None:
    students = [network(0), network(1)]
    teachers = start_averages(students)
    for student, teacher in zip(students, teachers, strict=True):
        for name, value in student.state_dict().items():
            assert torch.equal(teacher.state_dict()[name], value)
        assert not any(p.requires_grad for p in teacher.parameters())
        assert all(p.requires_grad for p in student.parameters())
    update_ema(teachers[0], students[1], 0.5)
    assert torch.equal(vector(students[0]), vector(network(0))), "a copy, not the student itself"


def test_no_graph_is_built_even_for_trainable_teachers() -> None:
    teacher, student = network(0), network(1)
    update_ema(teacher, student, 0.5)
    assert all(p.grad_fn is None and p.requires_grad for p in teacher.parameters())


def test_different_networks_are_refused_and_nothing_changes() -> None:
    teacher = network(0)
    before = vector(teacher)
    for student in (nn.Linear(3, 4), nn.Sequential(network(1), nn.Linear(2, 2)), nn.Linear(1, 1)):
        with pytest.raises(ValueError, match="number or shape"):
            update_ema(teacher, student, 0.5)
    assert torch.equal(vector(teacher), before)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="step"):
        ema_momentum(-1)
    with pytest.raises(ValueError, match="limit"):
        ema_momentum(0, 1.0)
    with pytest.raises(ValueError, match="momentum"):
        update_ema(network(0), network(1), 1.5)

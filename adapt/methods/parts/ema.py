"""Temporal average of a network's parameters (mean teacher)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


def start_averages(students: Sequence[Net]) -> tuple[Net, ...]:
    """Copy each student as its temporal average, which no gradient reaches."""
    teachers = tuple(copy.deepcopy(net) for net in students)
    for teacher in teachers:
        teacher.requires_grad_(False)
    return teachers


def ema_momentum(step: int, limit: float = 0.999) -> float:
    """Momentum of the temporal average at an optimizer step.

        alpha(t) = min(1 - 1/(t + 1), limit)

    Step 0 copies the student, and until alpha reaches its limit the average is the plain mean of
    all students so far: it forgets its own start.

    Args:
        step: t >= 0, counted over the whole run.
        limit: alpha of the paper, in [0, 1).

    Returns:
        alpha(t) in [0, limit].

    Raises:
        ValueError: step or limit is out of range.

    Source: MMT (Ge et al., ICLR 2020), equation 4; the ramp is in the authors' code only.
    """
    if step < 0 or not 0 <= limit < 1:
        raise ValueError(f"step must be >= 0 and limit in [0, 1), got {step} and {limit}")
    return min(1 - 1 / (step + 1), limit)


@torch.no_grad()
def update_ema(
    teacher: nn.Module, student: nn.Module, momentum: float, *, statistics: bool = False
) -> None:
    """Move a teacher's parameters toward its student's, in place.

        E <- alpha E + (1 - alpha) theta

    Classifier included. Buffers (batch-norm statistics) stay the teacher's own unless
    `statistics` is set: a teacher that runs in train mode keeps them itself.

    Args:
        teacher: E, the temporal average.
        student: theta, unchanged; the same architecture.
        momentum: alpha in [0, 1]; 0 copies.
        statistics: average batch-norm means and variances, too; for a teacher in eval mode.

    Raises:
        ValueError: the networks differ in number or shape of what is averaged, or momentum is
            out of range. The teacher is then unchanged.

    Source: MMT (Ge et al., ICLR 2020), equation 4.
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be in [0, 1], got {momentum}")
    average, current = (_averaged(net, statistics) for net in (teacher, student))
    if [p.shape for p in average] != [p.shape for p in current]:
        raise ValueError(
            "teacher and student differ in the number or shape of their parameters: build the "
            "teacher as a copy of the student, and reset both classifiers together"
        )
    torch._foreach_lerp_(average, current, 1 - momentum)


def _averaged(net: nn.Module, statistics: bool) -> list[Tensor]:
    buffers = [b for b in net.buffers() if b.is_floating_point()] if statistics else []
    return [*net.parameters(), *buffers]

"""One optimizer, its learning rates and its step, for every method."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from adapt.config import OptimizerSettings
from adapt.errors import DivergedError
from adapt.methods.base import Method
from adapt.types import Batch


def build_optimizer(
    method: Method, settings: OptimizerSettings, before: torch.optim.Optimizer | None = None
) -> torch.optim.Optimizer:
    """One optimizer over every trained parameter of the method, in two groups of learning rates.

    Each group's `factor` is 1 for backbones and `new_layers` for all else.
    before: of the round before, whose moments are kept where the parameter is still trained.
    """
    named = [n for net in method.trained() for n in net.named_parameters() if n[1].requires_grad]
    groups = [
        {
            "params": [p for name, p in named if name.startswith("backbone.") == trunk],
            "factor": 1.0 if trunk else settings.new_layers,
        }
        for trunk in (True, False)
    ]
    opt: torch.optim.Optimizer
    fused = named[0][1].device.type == "cuda"  # on CPUs the order of rounding stays torch's plain
    if settings.algorithm == "adam":
        opt = torch.optim.Adam(
            groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused
        )
    else:
        opt = torch.optim.SGD(
            groups,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=fused,
        )
    if before is not None:
        opt.state.update({p: before.state[p] for _, p in named if p in before.state})
    return opt


def learning_rate(settings: OptimizerSettings, number: int, done: float = 0.0) -> float:
    """Learning rate of round `number` (from 0): linear warm-up from 0.01 lr, then steps down.

    done: share of the round's steps that are behind, in [0, 1).
    """
    passed = sum(number >= m for m in settings.milestones) + sum(done >= d for d in settings.drops)
    lr = settings.lr * settings.decay**passed
    if number < settings.warmup_rounds:
        lr *= 0.01 + 0.99 * number / settings.warmup_rounds
    return lr


def set_learning_rate(opt: torch.optim.Optimizer, lr: float) -> None:
    """Give each group `lr` times its factor."""
    for group in opt.param_groups:
        group["lr"] = lr * group["factor"]


def train_step(
    method: Method, batches: tuple[Batch, ...], opt: torch.optim.Optimizer
) -> dict[str, float]:
    """Forward, backward and one optimizer step.

    Returns the loss, its unweighted terms as `loss_NAME`, and the method's statistics.
    Raises DivergedError before the step when the loss is not finite.
    """
    losses = method.step(batches)
    total = losses.total()
    if total.requires_grad:  # otherwise the batch held nothing to learn from
        opt.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
    terms = {f"loss_{name}": term.value for name, term in losses.terms.items()}
    figures = _read({"loss": total, **terms, **losses.stats})
    if not math.isfinite(figures["loss"]):
        raise DivergedError(
            f"the loss is not finite ({figures}); lower optimizer.lr or check the crops"
        )
    if total.requires_grad:
        opt.step()
    return figures


def _read(figures: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Figures as numbers; those on a device are asked for all at once: each time it is waited for.

    float64 holds all that they may be.
    """
    tensors = {k: v.detach() for k, v in figures.items() if isinstance(v, Tensor)}
    values = torch.stack([each.double() for each in tensors.values()]).tolist()
    read = dict(zip(tensors, values, strict=True))
    return {name: read[name] if name in read else float(v) for name, v in figures.items()}


def refuse_not_finite(method: Method) -> None:
    """Raise DivergedError: the last step of a round has no next loss to show what it did."""
    for name, net in method.networks().items():
        for key, value in net.state_dict().items():
            if not bool(value.isfinite().all()):
                raise DivergedError(f"{key} of {name} is not finite; lower optimizer.lr")

"""One batch on several processes: each forwards its rows, all see the loss of all rows.

Every process draws the same batch from the same seed. Of what a step computes only the trunks are
shared out: each takes its contiguous rows of a batch and gathers the feature maps of all. What
follows a trunk (attention, pooling, neck, classifiers, losses, mining over the whole batch) runs
in every process on the whole batch, so that methods need not know.

Gradients
    M_r = f(x_r; w),  L = l(M_1, ..., M_R; v),   r a process, w trunk, v all else
    dL/dw = sum_r (dM_r/dw)^T dL/dM_r            process r has its own term: sum
    dL/dv                                        every process has it whole: mean
`Gathered` hands a process its own rows of dL/dM, which it has already, as L is whole everywhere:
nothing travels, and no factor R comes in. Where batch norm takes the whole batch as one group,
M_r depends on statistics s_k of the other processes' rows, too, and each process has only its
part of dL/ds_k: `AllGatherSumGrad` sums the parts.

Batch norm
    Groups of a batch (`ghost`) lie whole in one process; each moves the running statistics by its
    own groups, and their mean over the processes is kept, after each pass, as of groups in one
    process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adapt.errors import ConfigError
from adapt.runtime.distributed import ProcessGroup
from models.backbones.ghost_batch_norm import group_batch_norm
from models.backbones.net import ReIDNet
from models.wording import plural


class Gathered(torch.autograd.Function):
    """(n, ...) of each process -> (R n, ...); the gradient is of a loss that all compute whole."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: ProcessGroup) -> Tensor:
        """Rows in the order of ranks; channels last, as networks lay out their maps."""
        ctx.group = group
        return group.gather(own.movedim(1, -1)).movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Own rows."""
        return grads[0][own_rows(len(grads[0]), ctx.group)], None


class AllGatherSumGrad(torch.autograd.Function):
    """(...) of each process -> (R, ...); each process computes its own part of a loss from it."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: ProcessGroup) -> Tensor:
        """In the order of ranks."""
        ctx.group = group
        return group.gather(own[None])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Sum of what all processes made of it."""
        total_RX = ctx.group.all_reduce(grads[0].clone(memory_format=torch.contiguous_format))
        return total_RX[ctx.group.rank], None


def own_rows(rows: int, group: ProcessGroup) -> slice:
    """The share of a process. Raises ConfigError when rows cannot be dealt evenly."""
    if rows % group.size:
        raise ConfigError(
            f"{plural(rows, 'image')} cannot be shared evenly by {group.size} processes"
        )
    share = rows // group.size
    return slice(group.rank * share, (group.rank + 1) * share)


@contextmanager
def shard_trunks(
    networks: Iterable[nn.Module], optimizer: torch.optim.Optimizer, group: ProcessGroup, ghost: int
) -> Iterator[None]:
    """Share out every pass through a trunk of `networks` and every step of `optimizer`.

    ghost: images in a batch-norm group, 0 for the whole batch. With one process nothing happens.
    Networks must be equal in all processes before, and are so afterwards.
    """
    if group.size == 1:
        yield
        return
    trunks = [net.backbone for net in networks if isinstance(net, ReIDNet)]
    in_trunk = {id(p) for trunk in trunks for p in trunk.parameters()}

    def before(trunk: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0][own_rows(len(inputs[0]), group)]

    def after(trunk: nn.Module, inputs: tuple[Tensor], own: Tensor) -> Tensor:
        if trunk.training and ghost:
            average_statistics(trunk, group)
        out: Tensor = Gathered.apply(own, group)  # type: ignore[no-untyped-call]
        return out

    def exchange(own: Tensor) -> Tensor:
        out: Tensor = AllGatherSumGrad.apply(own, group)  # type: ignore[no-untyped-call]
        return out

    def before_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
        _add_gradients(optimizer, in_trunk, group)

    hooks = [optimizer.register_step_pre_hook(before_step)]
    for trunk in trunks:
        group_batch_norm(trunk, ghost, None if ghost else exchange)
        hooks += [trunk.register_forward_pre_hook(before), trunk.register_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for trunk in trunks:
            group_batch_norm(trunk, ghost)


@torch.no_grad()
def average_statistics(net: nn.Module, group: ProcessGroup, weight: float = 1.0) -> None:
    """Give all batch norms inside a network the weighted mean of all processes' statistics.

    weight: of this process, >= 0; not 0 in all of them.
    """
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm)]
    names = ("running_mean", "running_var")
    held = [norm.get_buffer(name) for norm in norms for name in names]
    flat = torch.cat([*held, held[0].new_ones(1)]).mul_(weight)
    group.all_reduce(flat)
    *means, _ = torch.split(flat / flat[-1], [*(len(each) for each in held), 1])
    # New tensors: autograd holds the old ones, and would not let them change.
    for number, norm in enumerate(norms):
        for name, mean in zip(names, means[2 * number : 2 * number + 2], strict=True):
            setattr(norm, name, mean.clone())


@torch.no_grad()
def _add_gradients(
    optimizer: torch.optim.Optimizer, in_trunk: set[int], group: ProcessGroup
) -> None:
    """Sum over the processes for trunks, mean for all else; see the top of this module."""
    trained = [p for params in optimizer.param_groups for p in params["params"]]
    grads = [(p, p.grad) for p in trained if p.grad is not None]
    flat = torch.cat([(g if id(p) in in_trunk else g / group.size).reshape(-1) for p, g in grads])
    parts = torch.split(group.all_reduce(flat), [g.numel() for _, g in grads])
    for (_, grad), part in zip(grads, parts, strict=True):
        grad.copy_(part.view(grad.shape))

"""Batch norm over groups of a batch: on one device what several devices do, each with its part.

Source: Hoffer et al., NeurIPS 2017, section 4 ("ghost batch normalization"). The public results of
MMT (Ge et al., ICLR 2020) come from four devices with 16 images each.

Shapes: B images, C channels, n = B / group groups.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from models.errors import BackboneError

Gather = Callable[[torch.Tensor], torch.Tensor]
"""(...) of each of R devices -> (R, ...), with gradient."""


class _GhostBatchNorm(nn.modules.batchnorm._BatchNorm):
    """In train mode each `group` consecutive images are normalized by their own statistics.

        y_i = gamma (x_i - mean_g) / sqrt(var_g + eps) + beta,    g the group of image i
        running <- (1 - momentum) running + momentum (mean of the groups' statistics)

    In eval mode, and with group 0 or the whole batch, this is batch norm bit for bit. Parameters
    and buffers are those of batch norm: state dicts fit both ways.

    Args:
        channels: C.
        group: images in a group, >= 0.
        gather: with group 0, where the batch lies in equal parts on several devices.
    """

    def __init__(self, channels: int, group: int, gather: Gather | None = None) -> None:
        super().__init__(channels)
        self.group = group
        self.gather = gather

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (torch's name)
        """(B,C,...) -> (B,C,...). Raises BackboneError if the batch has a part of a group."""
        if self.training and self.gather is not None:
            return self._over_devices(input, self.gather)
        if not self.training or self.group in (0, len(input)):
            return super().forward(input)
        if len(input) % self.group:
            raise BackboneError(
                f"a batch of {len(input)} images does not fall into batch-norm groups of "
                f"{self.group}: choose batch.ghost so that it divides every batch"
            )
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        running_mean, running_var, momentum = self._running()
        # Each group moves a copy of the running statistics; the mean of the copies is kept.
        groups = len(input) // self.group
        mean_nC, var_nC = running_mean.repeat(groups, 1), running_var.repeat(groups, 1)
        parts = zip(torch.split(input, self.group), mean_nC, var_nC, strict=True)
        out = torch.cat(
            [
                F.batch_norm(x, mean, var, self.weight, self.bias, True, momentum, self.eps)
                for x, mean, var in parts
            ]
        )
        running_mean.copy_(mean_nC.mean(0))
        running_var.copy_(var_nC.mean(0))
        return out

    def _over_devices(self, input: torch.Tensor, gather: Gather) -> torch.Tensor:  # noqa: A002
        """Normalize the part of a batch that is here by the statistics of the whole batch.

            mean = mean_r mean_r,    var = mean_r (var_r + (mean_r - mean)^2)

        over the R parts: Chan et al., 1979, for parts of one size.
        """
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        running_mean, running_var, momentum = self._running()
        axes = [axis for axis in range(input.ndim) if axis != 1]
        x = input.to(self.weight.dtype)
        parts_R2C = gather(torch.stack(torch.var_mean(x, axes, correction=0)))
        var_RC, mean_RC = parts_R2C.unbind(1)
        mean_C = mean_RC.mean(0)
        var_C = (var_RC + (mean_RC - mean_C) ** 2).mean(0)
        count = len(parts_R2C) * x.numel() // x.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean_C, momentum)
            running_var.lerp_(var_C * (count / (count - 1)), momentum)
        scale_C = self.weight * (var_C + self.eps).rsqrt()
        mean, scale, shift = (
            each.view(1, -1, *(1,) * (x.ndim - 2)) for each in (mean_C, scale_C, self.bias)
        )
        return ((x - mean) * scale + shift).to(input.dtype)

    def _running(self) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Count a batch; the running statistics and how far it moves them."""
        running_mean, running_var, seen = (
            self.get_buffer(name) for name in ("running_mean", "running_var", "num_batches_tracked")
        )
        seen.add_(1)
        momentum = 1 / float(seen) if self.momentum is None else self.momentum
        return running_mean, running_var, momentum


class GhostBatchNorm1d(_GhostBatchNorm, nn.BatchNorm1d):
    """Of (B,C) or (B,C,L)."""


class GhostBatchNorm2d(_GhostBatchNorm, nn.BatchNorm2d):
    """Of (B,C,h,w)."""


def group_batch_norm(net: nn.Module, group: int, gather: Gather | None = None) -> None:
    """Let every batch norm inside a network work in groups, or again on whole batches.

    Parameters, buffers and state-dict names stay the same. Of an IBN layer only the batch-norm
    half is grouped: instance norm sees one image at a time anyway.

    Args:
        net: changed in place.
        group: images in a group; 0 for the whole batch.
        gather: with group 0, of a batch that lies in equal parts on several devices; each has a
            copy of the network.

    Raises:
        BackboneError: group is negative or 1, whose statistics would be those of one image.
    """
    if group < 0 or group == 1:
        raise BackboneError(f"no batch-norm groups of {group}: give 0 or at least 2 images")
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _GhostBatchNorm):
                child.group, child.gather = group, gather
            elif (group or gather) and isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(parent, name, _ghost(child, group, gather))


def _ghost(
    norm: nn.BatchNorm1d | nn.BatchNorm2d, group: int, gather: Gather | None
) -> _GhostBatchNorm:
    """A ghost batch norm that owns the parameters and buffers of `norm`."""
    kind = GhostBatchNorm1d if isinstance(norm, nn.BatchNorm1d) else GhostBatchNorm2d
    ghost = kind(norm.num_features, group, gather)
    vars(ghost).update(vars(norm))  # parameters, buffers, mode, momentum: all that is of batch norm
    return ghost

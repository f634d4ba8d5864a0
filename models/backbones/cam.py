"""Where a network looks: class activation maps.

Zhou et al., "Learning deep features for discriminative localization", CVPR 2016.

Shape suffixes: B images, C channels, h x w cells of the feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.backbones.net import ReIDNet
from models.errors import BackboneError


@torch.no_grad()
def class_activation_map(net: ReIDNet, x: Tensor, label_B: Tensor) -> Tensor:
    """Share of each cell of the feature map in the logit of a class.

        M_y(p) = sum_c W_yc gamma_c / sqrt(var_c + eps) F_c(p)

    The neck is folded into the classifier; its shift, the same for all cells, is left out. So the
    mean of M_y over the cells is the logit of y, up to a constant of the class.

    Computed in eval mode; the network's mode is restored, its batch-norm statistics do not move.

    Args:
        net: with a classifier.
        x: (B, 3, H, W) as the network takes it.
        label_B: (B,) int64 class of each image.

    Returns:
        (B, h, w), without gradient.

    Raises:
        BackboneError: the network has no classifier, or there is not one class per image.
    """
    if net.classifier is None:
        raise BackboneError("a class activation map needs a classifier; reset_classifier first")
    if label_B.shape != (len(x),):
        raise BackboneError(
            f"classes {tuple(label_B.shape)} must be one for each image, ({len(x)},)"
        )
    training = net.training
    net.eval()
    map_BChw = net.feature_map(x)
    net.train(training)
    scale_C = net.neck.weight / (net.neck.get_buffer("running_var") + net.neck.eps).sqrt()
    weight_BC = net.classifier.weight[label_B] * scale_C
    return torch.einsum("bc,bchw->bhw", weight_BC, map_BChw)

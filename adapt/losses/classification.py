"""Cross-entropy losses over pseudo identities, with hard and with soft targets.

Shape suffixes: B images of the batch, K classes.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits_BK: Tensor, label_B: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy against smoothed one-hot labels, averaged over the batch.

        L_id = -1/B sum_i sum_k q_ik log softmax(z_i)_k,
        q_ik = (1 - smoothing) [k = y_i] + smoothing / K

    Args:
        logits_BK: (B, K) floating point, any range.
        label_B: (B,) int64 in 0..K-1.
        smoothing: share of the target spread over all K classes, in [0, 1); 0 gives plain
            cross-entropy.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: shapes or dtypes do not fit, or smoothing is out of range.

    Source: MMT (Ge et al., ICLR 2020), equation 1, smoothed as in the authors' code.
    """
    if logits_BK.ndim != 2 or label_B.shape != logits_BK.shape[:1]:
        raise ValueError(
            f"logits {tuple(logits_BK.shape)} and labels {tuple(label_B.shape)} must be (B, K) "
            "and (B,)"
        )
    if label_B.is_floating_point():
        raise ValueError(f"labels must be integers, got {label_B.dtype}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
    return F.cross_entropy(logits_BK, label_B, label_smoothing=smoothing)


def soft_cross_entropy(student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """Cross-entropy of a student against its teacher's predictions, averaged over the batch.

        L_sid = -1/B sum_i sum_k softmax(t_i)_k log softmax(s_i)_k

    No gradient reaches the teacher. No temperature.

    Args:
        student_BK: (B, K) logits of the network that learns.
        teacher_BK: (B, K) logits of its peer's temporal average, for the same images.

    Returns:
        Scalar, in nats; least (the teacher's entropy) where both predict the same.

    Raises:
        ValueError: the shapes differ or are not (B, K).

    Source: MMT (Ge et al., ICLR 2020), equation 5.
    """
    if student_BK.ndim != 2 or student_BK.shape != teacher_BK.shape:
        raise ValueError(
            f"student logits {tuple(student_BK.shape)} and teacher logits "
            f"{tuple(teacher_BK.shape)} must both be (B, K)"
        )
    target_BK = teacher_BK.detach().softmax(dim=1)
    return -(target_BK * student_BK.log_softmax(dim=1)).sum(dim=1).mean()


def weighted_cross_entropy(logits_BK: Tensor, weight_BK: Tensor) -> Tensor:
    """Cross-entropy against a weight for each class, averaged over the batch.

        L = -1/B sum_i sum_k w_ik log softmax(z_i)_k

    The weights of an image need not sum to 1; an image whose weights are all 0 has no part in the
    loss but counts in B.

    Args:
        logits_BK: (B, K) floating point, any range.
        weight_BK: (B, K) >= 0, without gradient.

    Returns:
        Scalar >= 0, in nats.

    Raises:
        ValueError: the shapes differ or are not (B, K).

    Source: DAAL (AAAI 2020), equation 5.
    """
    if logits_BK.ndim != 2 or logits_BK.shape != weight_BK.shape:
        raise ValueError(
            f"logits {tuple(logits_BK.shape)} and weights {tuple(weight_BK.shape)} must both be "
            "(B, K)"
        )
    return -(weight_BK * logits_BK.log_softmax(dim=1)).sum(dim=1).mean()

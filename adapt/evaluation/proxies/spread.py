"""Proxies of how embeddings fill their space; they tell a collapse.

Shape suffixes: N crops, D embedding dimensions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adapt.evaluation.proxies.sightings import ProxyValue


def spread(feature_ND: NDArray[np.float32]) -> ProxyValue:
    """One minus the mean cosine similarity of all pairs.

        m = mean of f_j,    part: 1 - f_i . m

    Args:
        feature_ND: rows of length 1, N >= 1.

    Returns:
        In [0, 1]; 0 where all embeddings are alike. A part for each crop.
    """
    mean_D = feature_ND.mean(axis=0, dtype=np.float64)
    return ProxyValue.mean_of(1 - feature_ND @ mean_D, np.arange(len(feature_ND)))


def effective_rank(feature_ND: NDArray[np.float32]) -> ProxyValue:
    """How many dimensions embeddings use.

        p_k = s_k / sum of s,    exp(- sum_k p_k ln p_k),    s the singular values of the features

    Figures of models with different D do not compare well.

    Args:
        feature_ND: rows of length 1, N >= 1.

    Returns:
        In [1, min(N, D)]; no parts, as it is not a mean.

    Source: Roy and Vetterli, The Effective Rank, EUSIPCO 2007; as a figure of embeddings without
        labels: Garrido et al., RankMe, ICML 2023, equations 1 and 2.
    """
    features = feature_ND.astype(np.float64)
    gram = features.T @ features if features.shape[1] <= len(features) else features @ features.T
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    share = singular / max(singular.sum(), 1e-12)
    share = share[share > 0]
    rank = float(np.exp(-(share * np.log(share)).sum()))
    return ProxyValue(rank, measured=len(features))

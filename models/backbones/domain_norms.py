"""Batch norms of several domains in a state dict, of which a network that is used has one.

Networks that learn on labelled sources and an unlabelled target at once keep statistics of each.
Their authors test with the target's: SpCL (github.com/yxgeee/SpCL) calls them `BN_S` and `BN_T`,
OpenUnReID (github.com/open-mmlab/OpenUnReID) counts them, the target last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

_DOMAIN = re.compile(r"\.(BN_[ST]|dsbn\.\d+)\.")


def of_target_domain(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], str]:
    """The state dict with the batch norms of the target under plain names, and the target's name.

    As it is, with an empty name, where its batch norms are of one domain.
    """
    domains = {name: match[1] for name in state if (match := _DOMAIN.search(name))}
    if not domains:
        return dict(state), ""
    target = max(domains.values(), key=lambda name: (name == "BN_T", len(name), name))
    kept = {
        name.replace(f".{target}.", ".", 1): tensor
        for name, tensor in state.items()
        if domains.get(name, target) == target
    }
    return kept, target

"""Batch norms of several domains in a state dict, of which a network that is used has one.

Networks that learn on labelled sources and an unlabelled target at once keep statistics of each.
Their authors test with the target's. SpCL (github.com/yxgeee/SpCL) calls them `BN_S` and `BN_T`.
OpenUnReID (github.com/open-mmlab/OpenUnReID) counts the data sets of its config and does not save
which of them is the target; its published configs list the target first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

_DOMAIN = re.compile(r"\.(BN_[ST]|dsbn\.\d+)\.")


def of_target_domain(
    state: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The state dict with the batch norms of the target under plain names, and its domains.

    The first of the domains is the target, or taken for it: see `tells_target`. A state dict whose
    batch norms are of one domain stays as it is and has no names of domains.
    """
    domains = {name: match[1] for name in state if (match := _DOMAIN.search(name))}
    if not domains:
        return dict(state), ()
    found = sorted(set(domains.values()), key=lambda name: (name != "BN_T", len(name), name))
    target = found[0]
    kept = {
        name.replace(f".{target}.", ".", 1): tensor
        for name, tensor in state.items()
        if domains.get(name, target) == target
    }
    return kept, tuple(found)


def tells_target(domains: Sequence[str]) -> bool:
    """Whether the names of domains, as `of_target_domain` gives them, say which is the target."""
    return len(domains) < 2 or domains[0] == "BN_T"

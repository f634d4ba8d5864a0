"""Of the batch norms of several domains, the target's are taken."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from models.backbones.domain_norms import of_target_domain, tells_target

ONE, TWO, MANY = torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0)


def test_spcl() -> None:
    state = {"conv1.weight": MANY, "bn1.BN_S.weight": ONE, "bn1.BN_T.weight": TWO}
    domains = ("BN_T", "BN_S")
    assert of_target_domain(state) == ({"conv1.weight": MANY, "bn1.weight": TWO}, domains)
    assert tells_target(domains)


def test_openunreid_counts_them_and_its_configs_list_the_target_first() -> None:
    state = {f"bn1.dsbn.{i}.bias": torch.tensor(float(i)) for i in range(11)}
    kept, domains = of_target_domain(state)
    assert domains == tuple(f"dsbn.{i}" for i in range(11))
    assert kept == {"bn1.bias": torch.tensor(0.0)}
    assert not tells_target(domains)


def test_a_single_numbered_domain_is_beyond_doubt() -> None:
    kept, domains = of_target_domain({"bn1.dsbn.1.bias": TWO})
    assert (kept, domains) == ({"bn1.bias": TWO}, ("dsbn.1",))
    assert tells_target(domains)


def test_one_domain_stays() -> None:
    state = {"bn1.weight": ONE, "BN_Torso.weight": TWO}
    assert of_target_domain(state) == (state, ())

"""Of the batch norms of several domains, the target's are taken."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from models.backbones.domain_norms import of_target_domain

ONE, TWO, MANY = torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0)


def test_spcl() -> None:
    state = {"conv1.weight": MANY, "bn1.BN_S.weight": ONE, "bn1.BN_T.weight": TWO}
    assert of_target_domain(state) == ({"conv1.weight": MANY, "bn1.weight": TWO}, "BN_T")


def test_openunreid_counts_them_and_the_last_is_the_targets() -> None:
    state = {f"bn1.dsbn.{i}.bias": torch.tensor(float(i)) for i in range(11)}
    kept, target = of_target_domain(state)
    assert target == "dsbn.10"
    assert kept == {"bn1.bias": torch.tensor(10.0)}


def test_one_domain_stays() -> None:
    state = {"bn1.weight": ONE, "BN_Torso.weight": TWO}
    assert of_target_domain(state) == (state, "")

"""Pooling under masks and heads of body parts."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.backbones.parts import PARTS, REDUCED, PartHeads, cell_masks, half_masks, masked_pool


def test_halves_share_an_odd_middle_row() -> None:
    like = torch.zeros(())
    assert half_masks(4, 1, like=like).squeeze(2).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert half_masks(3, 1, like=like).squeeze(2).tolist() == [[1, 1, 0], [0, 1, 1]]
    assert half_masks(1, 2, like=like).tolist() == [[[1, 1]], [[1, 1]]]
    assert half_masks(2, 1, like=torch.zeros((), dtype=torch.float64)).dtype == torch.float64


def test_pooling_by_hand() -> None:
    features = torch.tensor([[1.0, 2.0], [3.0, 6.0]]).reshape(1, 1, 2, 2)
    masks = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.5, 1.0]]])
    assert masked_pool(features, masks).squeeze(2).tolist() == [[1.5, 5.0]]  # (3/2 + 6) / 1.5
    assert masked_pool(features, half_masks(2, 2, like=features)).squeeze(2).tolist() == [
        [1.5, 4.5]
    ]


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), shared=st.booleans())
def test_pooling_equals_the_reference(seed: int, shared: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(3, 4, 5, 2, generator=generator, dtype=torch.float64)
    shape = (2, 5, 2) if shared else (3, 2, 5, 2)
    masks = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.01
    found = masked_pool(features, masks)
    for b in range(3):
        for p in range(2):
            own = masks[p] if shared else masks[b, p]
            for c in range(4):
                total = sum(
                    float(own[y, x] * features[b, c, y, x]) for y in range(5) for x in range(2)
                )
                assert float(found[b, p, c]) == pytest.approx(total / float(own.sum()), rel=1e-9)
    torch.testing.assert_close(masked_pool(features, masks * 7), found)
    whole = masked_pool(features, torch.ones(2, 5, 2, dtype=torch.float64))
    torch.testing.assert_close(whole[:, 0], features.mean(dim=(2, 3)))


def test_masks_become_shares_of_cells() -> None:
    masks = torch.zeros(1, 2, 4, 2)
    masks[0, 0, :2, 0] = 1  # the left half of the upper cell
    masks[0, 1, 3] = 1  # the lower half of the lower cell
    assert cell_masks(masks, 2, 1).squeeze().tolist() == [[0.5, 0], [0, 0.5]]


def test_a_part_that_is_nowhere_is_taken_for_its_half() -> None:
    masks = torch.zeros(2, 2, 4, 2)
    masks[0, 0, 2:] = 1  # upper body found low in the first image; nothing else is found
    cells = cell_masks(masks, 2, 1).squeeze(3)
    assert cells[0].tolist() == [[0, 1], [0, 1]]
    assert cells[1].tolist() == [[1, 0], [0, 1]]


def test_each_head_sees_its_part_only() -> None:
    torch.manual_seed(0)
    heads = PartHeads(6, 5).train()
    parts = torch.randn(4, 2, 6)
    upper, lower = heads(parts)
    assert upper.shape == lower.shape == (4, 5)
    changed = parts.clone()
    changed[:, 1] += torch.randn(4, 6)
    again = heads(changed)
    assert torch.equal(again[0], upper)
    assert not torch.allclose(again[1], lower)


def test_heads_are_pcbs_by_hand() -> None:
    """z = W ReLU(BN(R f)) + b, batch statistics in training."""
    torch.manual_seed(0)
    heads = PartHeads(6, 5).train()
    parts = torch.randn(4, 2, 6)
    for p, found in enumerate(heads(parts)):
        reduction, classifier = heads.reductions[p], heads.classifiers[p]
        x = parts[:, p] @ reduction[0].weight.T
        assert x.shape == (4, REDUCED)
        x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
        expected = x.clamp(min=0) @ classifier.weight.T
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        assert float(classifier.weight.detach().std()) == pytest.approx(1e-3, rel=0.2)
    assert len(heads.reductions) == len(PARTS)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(B, 2, H, W\)"):
        cell_masks(torch.zeros(1, 3, 4, 2), 2, 1)
    with pytest.raises(ValueError, match="do not fit a map"):
        masked_pool(torch.zeros(1, 3, 4, 2), torch.ones(2, 4, 3))

"""Attention that tells nothing apart stops a run, and no other does."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.errors import AttentionError  # noqa: E402
from adapt.methods.parts.attention_watch import MAX_STUCK_STEPS, STUCK, AttentionWatch  # noqa: E402


def attention(mean: float, spread: float) -> torch.Tensor:
    """Half the cells above, half below."""
    return mean + spread * torch.tensor([1.0, -1.0]).repeat(200).reshape(4, 2, 10, 5)


def test_figures_by_hand() -> None:
    found = AttentionWatch()(torch.tensor([0.2, 0.4, 0.9], requires_grad=True))
    assert found["attention_mean"] == pytest.approx(0.5)
    assert found["attention_std"] == pytest.approx(((0.09 + 0.01 + 0.16) / 2) ** 0.5)


@pytest.mark.parametrize(
    ("mean", "spread", "stuck"),
    [
        (0.88, 0.01, False),
        (0.5, 0.5 * STUCK, True),
        (0.5, 2 * STUCK, False),
        (1 - 0.5 * STUCK, 2 * STUCK, True),
        (1 - 3 * STUCK, 2 * STUCK, False),
        (0.5 * STUCK, 2 * STUCK, True),
        (3 * STUCK, 2 * STUCK, False),
    ],
)
def test_what_is_stuck(mean: float, spread: float, stuck: bool) -> None:
    watch = AttentionWatch()
    for _ in range(MAX_STUCK_STEPS - 1):
        watch(attention(mean, spread))
    if not stuck:
        watch(attention(mean, spread))
        return
    with pytest.raises(AttentionError, match=rf"mean {mean:.4f}, std {spread:.4f}.*attention=none"):
        watch(attention(mean, spread))


def test_a_break_starts_the_count_anew() -> None:
    watch = AttentionWatch()
    flat, lively = attention(0.5, 0), attention(0.5, 0.1)
    for each in [flat] * (MAX_STUCK_STEPS - 1) + [lively] + [flat] * (MAX_STUCK_STEPS - 1):
        watch(each)
    with pytest.raises(AttentionError, match=r"std 0\.0000"):
        watch(flat)

"""Watches an attention while it learns, and stops a run whose attention is stuck."""

from __future__ import annotations

from torch import Tensor

from adapt.errors import AttentionError

STUCK = 1e-3
"""Attention whose spread, or whose mean's distance from 0 or 1, is below this is stuck..."""

MAX_STUCK_STEPS = 10
"""... and stops the run after so many steps without a break."""


class AttentionWatch:
    """Looks at the attention of every step.

    stuck_steps: steps, without a break, for which it has been stuck.
    """

    def __init__(self) -> None:
        """Start without a step."""
        self.stuck_steps = 0

    def __call__(self, attention: Tensor) -> dict[str, float]:
        """Give mean and spread of an attention in (0, 1), of any shape, for logs.

        Raises AttentionError when it has been stuck for too long.
        """
        attention = attention.detach()
        mean, std = float(attention.mean()), float(attention.std())
        stuck = std < STUCK or not STUCK < mean < 1 - STUCK
        self.stuck_steps = self.stuck_steps + 1 if stuck else 0
        if self.stuck_steps == MAX_STUCK_STEPS:
            raise AttentionError(
                f"attention stuck at mean {mean:.4f}, std {std:.4f} for {MAX_STUCK_STEPS} steps: "
                "it weights all channels and places alike; set options.attention_start nearer to "
                "0.5, another optimizer.new_layers, or options.attention=none"
            )
        return {"attention_mean": mean, "attention_std": std}

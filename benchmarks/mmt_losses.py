"""MMT's losses beside those of its public code, on random inputs.

    python -m benchmarks.mmt_losses --public DIR

DIR is a clone of github.com/yxgeee/MMT, which is not part of this repository: its two loss files
are imported from there as they are. Prints a Markdown table; ends with status 1 when a value or a
gradient differs by more than 1e-5.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapt.losses.classification import cross_entropy, soft_cross_entropy
from adapt.losses.distance import pairwise_distance
from adapt.losses.triplet import (
    margin_triplet,
    mine_hard_triplets,
    soft_softmax_triplet,
    softmax_triplet,
)

ALLOWED = 1e-5
"""Largest difference of a value, and of a gradient relative to its largest component."""

IDENTITIES, INSTANCES, DIMENSION, CLUSTERS = 16, 4, 2048, 500
SMOOTHING, MARGIN = 0.1, 0.5


@dataclass(frozen=True)
class Trial:
    """Random inputs of one step: what a network puts out and what its peer's average does."""

    feat: Tensor
    teacher_feat: Tensor
    logits: Tensor
    teacher_logits: Tensor
    cluster: Tensor
    person: Tensor

    @classmethod
    def draw(cls, seed: int, dtype: torch.dtype) -> Trial:
        """Inputs whose triplets are hard: persons differ hardly more than images of one do."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        person = torch.arange(IDENTITIES).repeat_interleave(INSTANCES)
        mean = 0.3 * normal(IDENTITIES, DIMENSION)[person]
        feat, teacher_feat = ((mean + normal(*mean.shape)).relu() for _ in range(2))
        logits, teacher_logits = (5 * normal(len(person), CLUSTERS) for _ in range(2))
        cluster = torch.randperm(CLUSTERS, generator=generator)[person]
        return cls(
            feat.to(dtype),
            teacher_feat.to(dtype),
            logits.to(dtype),
            teacher_logits.to(dtype),
            cluster,
            person,
        )


@dataclass(frozen=True)
class LossComparison:
    """One loss in both codes, as functions of what is differentiated and of the rest."""

    name: str
    public_name: str
    of: str
    ours: Callable[[Tensor, Trial], Tensor]
    public: Callable[[Tensor, Trial], Tensor]

    def differences(self, trial: Trial) -> tuple[float, float]:
        """|ours - public| of the value, and of the gradient relative to its largest component."""
        values, gradients = [], []
        for loss in (self.ours, self.public):
            given = getattr(trial, self.of).clone().requires_grad_()
            value = loss(given, trial)
            values.append(value.detach())
            gradients.append(torch.autograd.grad(value, given)[0])
        gradient = (gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max()
        return float((values[0] - values[1]).abs()), float(gradient)


@dataclass(frozen=True)
class Public:
    """The public code's two loss files as modules."""

    crossentropy: ModuleType
    triplet: ModuleType

    @classmethod
    def load(cls, clone: Path) -> Public:
        """Import `mmt/loss/*.py` of a clone without the rest of its package.

        Raises SystemExit with what to do when the files are not there.
        """
        folder = clone / "mmt" / "loss"
        missing = [n for n in ("crossentropy.py", "triplet.py") if not (folder / n).is_file()]
        if missing:
            raise SystemExit(
                f"{folder} holds no {' and no '.join(missing)}: clone github.com/yxgeee/MMT and "
                "give its folder as --public"
            )
        return cls(_module(folder / "crossentropy.py"), _module(folder / "triplet.py"))


def comparisons(public: Public) -> list[LossComparison]:
    """Equations (1), (2), (5), (6) and (8)."""
    smooth = public.crossentropy.CrossEntropyLabelSmooth(CLUSTERS, epsilon=SMOOTHING)
    soft = public.crossentropy.SoftEntropy()
    hard_triplet = public.triplet.SoftTripletLoss(margin=0.0)
    soft_triplet = public.triplet.SoftTripletLoss(margin=None)
    margin = public.triplet.TripletLoss(margin=MARGIN)

    def triplet(loss: Callable[..., Tensor], *rest: Any) -> Callable[[Tensor, Trial], Tensor]:
        def ours(feat_BD: Tensor, trial: Trial) -> Tensor:
            dist_BB = pairwise_distance(feat_BD)
            return loss(dist_BB, mine_hard_triplets(dist_BB, trial.person), *rest)

        return ours

    def our_soft_triplet(feat_BD: Tensor, trial: Trial) -> Tensor:
        dist_BB = pairwise_distance(feat_BD)
        hard = mine_hard_triplets(dist_BB, trial.person)
        return soft_softmax_triplet(dist_BB, pairwise_distance(trial.teacher_feat), hard)

    return [
        LossComparison(
            "(1) `cross_entropy`, smoothing 0.1",
            "`CrossEntropyLabelSmooth`",
            "logits",
            lambda logits_BK, t: cross_entropy(logits_BK, t.cluster, SMOOTHING),
            lambda logits_BK, t: smooth(logits_BK, t.cluster),
        ),
        LossComparison(
            "(2) `margin_triplet`, margin 0.5",
            "`TripletLoss`",
            "feat",
            triplet(margin_triplet, MARGIN),
            lambda feat_BD, t: margin(feat_BD, t.person)[0],
        ),
        LossComparison(
            "(5) `soft_cross_entropy`",
            "`SoftEntropy`",
            "logits",
            lambda logits_BK, t: soft_cross_entropy(logits_BK, t.teacher_logits),
            lambda logits_BK, t: soft(logits_BK, t.teacher_logits),
        ),
        LossComparison(
            "(6) `softmax_triplet`",
            "`SoftTripletLoss(margin=0.0)`",
            "feat",
            triplet(softmax_triplet),
            lambda feat_BD, t: hard_triplet(feat_BD, feat_BD, t.person),
        ),
        LossComparison(
            "(8) `soft_softmax_triplet`",
            "`SoftTripletLoss(margin=None)`",
            "feat",
            our_soft_triplet,
            lambda feat_BD, t: soft_triplet(feat_BD, t.teacher_feat, t.person),
        ),
    ]


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"public_mmt_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(arguments: list[str] | None = None) -> int:
    """Compare and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mmt_losses")
    parser.add_argument(
        "--public", type=Path, required=True, metavar="DIR", help="clone of github.com/yxgeee/MMT"
    )
    parser.add_argument("--batches", type=int, default=20, help="random batches to compare on")
    given = parser.parse_args(arguments)
    public = Public.load(given.public)
    print(
        f"{given.batches} random batches of {IDENTITIES} x {INSTANCES}, {DIMENSION} dimensions, "
        f"{CLUSTERS} clusters; largest differences"
    )
    print()
    print("| ours | public | value, float32 | gradient | value, float64 | gradient |")
    print("|---|---|---|---|---|---|")
    agrees = True
    for each in comparisons(public):
        found = [
            [
                x
                for dtype in (torch.float32, torch.float64)
                for x in each.differences(Trial.draw(seed, dtype))
            ]
            for seed in range(given.batches)
        ]
        largest = np.max(found, axis=0)
        print(f"| {each.name} | {each.public_name} | {' | '.join(f'{x:.1e}' for x in largest)} |")
        agrees &= bool((largest <= ALLOWED).all())
    print()
    print(f"{'Agrees' if agrees else 'DOES NOT AGREE'} to {ALLOWED:g}.")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())

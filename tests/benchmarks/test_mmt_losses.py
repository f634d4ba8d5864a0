"""The comparison with MMT's public code: what it finds in a clone, and what it says without one."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from benchmarks.mmt_losses import main

CROSSENTROPY = """
import torch
from torch import nn

class CrossEntropyLabelSmooth(nn.Module):
    def __init__(self, num_classes, epsilon):
        super().__init__()
        self.loss = nn.CrossEntropyLoss(label_smoothing=epsilon)
    def forward(self, logits, label):
        return self.loss(logits, label)

class SoftEntropy(nn.Module):
    def forward(self, logits, target):
        return nn.functional.cross_entropy(logits, target.softmax(1))
"""

TRIPLET = """
import torch
from torch import nn

def hardest(feat, label):
    dist = torch.cdist(feat, feat, compute_mode="donot_use_mm_for_euclid_dist")
    same = label[:, None] == label[None]
    return dist, (dist * same).argmax(1), (dist + 1e9 * same).argmin(1)

class TripletLoss(nn.Module):
    def __init__(self, margin):
        super().__init__()
        self.margin = margin
    def forward(self, feat, label):
        dist, p, n = hardest(feat, label)
        rows = torch.arange(len(dist))
        return (dist[rows, p] - dist[rows, n] + self.margin).relu().mean(), None

class SoftTripletLoss(nn.Module):
    def __init__(self, margin):
        super().__init__()
        self.margin = margin
    def forward(self, feat, teacher, label):
        dist, p, n = hardest(feat, label)
        rows = torch.arange(len(dist))
        log = torch.stack([dist[rows, p], dist[rows, n]], 1).log_softmax(1)
        if self.margin is not None:
            return -log[:, 1].mean()
        dist = hardest(teacher, label)[0]
        target = torch.stack([dist[rows, p], dist[rows, n]], 1).softmax(1)
        return -(target * log).sum(1).mean()
"""


def clone(root: Path, crossentropy: str = CROSSENTROPY, triplet: str = TRIPLET) -> list[str]:
    folder = root / "mmt" / "loss"
    folder.mkdir(parents=True)
    (folder / "crossentropy.py").write_text(crossentropy)
    (folder / "triplet.py").write_text(triplet)
    return ["--public", str(root), "--batches", "1"]


def test_codes_that_say_the_same_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(clone(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "Agrees to 1e-05" in out
    assert out.count("\n| (") == 5


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("label_smoothing=epsilon", "label_smoothing=epsilon / 2"),
        ("target.softmax(1)", "(target / 2).softmax(1)"),
        ("+ self.margin", "+ self.margin + 0.1"),
        ("return -log[:, 1].mean()", "return -log[:, 0].mean()"),
        ("hardest(teacher, label)[0]", "hardest(teacher.detach() * 1.01, label)[0]"),
        ("-(target * log).sum(1).mean()", "-(target * log.detach()).sum(1).mean() - 0 * log.sum()"),
    ],
)
def test_codes_that_differ_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], right: str, wrong: str
) -> None:
    files = [text.replace(right, wrong) for text in (CROSSENTROPY, TRIPLET)]
    assert files != [CROSSENTROPY, TRIPLET]
    assert main(clone(tmp_path, *files)) == 1
    assert "DOES NOT AGREE" in capsys.readouterr().out


def test_without_a_clone(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no crossentropy\.py and no triplet\.py: clone .*MMT"):
        main(["--public", str(tmp_path)])

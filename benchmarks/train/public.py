"""MMT's public code, as it is, in a shape that can be timed.

github.com/yxgeee/MMT is not part of this repository: its modules are imported from a clone. Only
what keeps them from running here is patched, from outside: `.cuda()` where there is no GPU.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from models.torchvision_compat import torchvision

LR, WEIGHT_DECAY = 3.5e-4, 5e-4
SOFT_ID, SOFT_TRI = 0.5, 0.8


@dataclass(frozen=True)
class PublicCode:
    """The modules of a clone that a training step needs."""

    trainers: ModuleType
    resnet: ModuleType
    data: ModuleType
    transforms: ModuleType
    sampler: ModuleType
    preprocessor: ModuleType

    @classmethod
    def load(cls, clone: Path) -> PublicCode:
        """Import from a clone; its package's own imports of evaluation and metrics are left out.

        Raises SystemExit with what to do when it is none.
        """
        if not (clone / "mmt" / "trainers.py").is_file():
            raise SystemExit(
                f"{clone} is not a clone of github.com/yxgeee/MMT: clone it and give --public"
            )
        for name, folder in {"mmt": "mmt", "mmt.models": "mmt/models"}.items():
            package = ModuleType(name)
            package.__path__ = [str(clone / folder)]
            sys.modules[name] = package
        assert torchvision.models
        names = ["trainers", "models.resnet", "utils.data", "utils.data.transforms"]
        names += ["utils.data.sampler", "utils.data.preprocessor"]
        return cls(*(importlib.import_module(f"mmt.{name}") for name in names))


class PublicMMT:
    """Its two networks, their averages and its trainer, as `examples/mmt_train_kmeans.py` does."""

    def __init__(self, code: PublicCode, clusters: int, device: torch.device) -> None:
        """Networks start from random numbers; `nets` are theta_1, theta_2, E_1, E_2."""
        if device.type == "cpu":
            _stay_on_cpu()
        students = [code.resnet.resnet50(pretrained=False, num_classes=clusters) for _ in "12"]
        averages = [code.resnet.resnet50(pretrained=False, num_classes=clusters) for _ in "12"]
        for student, average in zip(students, averages, strict=True):
            average.load_state_dict(student.state_dict())
        self.nets = [nn.DataParallel(net.to(device)) for net in (*students, *averages)]
        for average in self.nets[2:]:
            for parameter in average.parameters():
                parameter.detach_()
        groups = [
            {"params": [p], "lr": LR, "weight_decay": WEIGHT_DECAY}
            for net in self.nets[:2]
            for p in net.parameters()
            if p.requires_grad
        ]
        self._optimizer = torch.optim.Adam(groups)
        self._trainer = code.trainers.MMTTrainer(*self.nets, num_cluster=clusters, alpha=0.999)

    def steps(self, loader: Any, steps: int) -> None:
        """Its own training loop."""
        self._trainer.train(
            *(1, loader, self._optimizer),
            ce_soft_weight=SOFT_ID,
            tri_soft_weight=SOFT_TRI,
            print_freq=sys.maxsize,
            train_iters=steps,
        )


class OneBatch:
    """A loader that has its batch already."""

    def __init__(self, first: Tensor, second: Tensor, label: Tensor) -> None:
        """Two views and their labels, on the device."""
        self._batch = (first, second, label)

    def __len__(self) -> int:
        return 1

    def next(self) -> tuple[Tensor, Tensor, Tensor]:
        """The batch."""
        return self._batch


def public_loader(
    code: PublicCode,
    files: Sequence[Path],
    labels: Sequence[int],
    *,
    size: tuple[int, int],
    batch: int,
    instances: int,
    workers: int,
) -> Any:
    """Its loader over image files, as `get_train_loader` builds it."""
    t = code.transforms
    transform = t.Compose(
        [
            t.Resize(size, interpolation=3),
            t.RandomHorizontalFlip(p=0.5),
            t.Pad(10),
            t.RandomCrop(size),
            t.ToTensor(),
            t.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
            t.RandomErasing(probability=0.5, mean=[0.485, 0.456, 0.406]),
        ]
    )
    items = [(str(f), label, n % 2) for n, (f, label) in enumerate(zip(files, labels, strict=True))]
    loader = torch.utils.data.DataLoader(
        code.preprocessor.Preprocessor(items, transform=transform, mutual=True),
        batch_size=batch,
        num_workers=workers,
        sampler=code.sampler.RandomMultipleGallerySampler(items, instances),
        pin_memory=torch.cuda.is_available(),
        drop_last=True,
    )
    made = code.data.IterLoader(loader, length=1)
    made.new_epoch()
    return made


def _stay_on_cpu() -> None:
    """Let `.cuda()` leave tensors and modules where they are."""

    def here(self: Any, *_: Any, **__: Any) -> Any:
        return self

    patched: dict[type, Callable[..., Any]] = {Tensor: here, nn.Module: here}
    for kind, replacement in patched.items():
        kind.cuda = replacement  # type: ignore[attr-defined]

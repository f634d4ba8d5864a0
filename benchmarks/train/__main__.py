"""Speed and safety of adaptation, part by part.

    python -m benchmarks.train step --public DIR       MMT's step beside its public code's
    python -m benchmarks.train extract                 extraction beside bare forward passes
    python -m benchmarks.train loader --public DIR     share of a step that waits for its batch
    python -m benchmarks.train memory                  peak of each method; 100,000 crops
    python -m benchmarks.train kills                   killed at random moments and resumed

DIR is a clone of github.com/yxgeee/MMT, which is not part of this repository. Sizes are those of a
small CPU; on a GPU give the paper's: --height 256 --width 128 --batch 64.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from adapt.config import Compute
from adapt.methods import METHODS
from adapt.runtime.context import CHECKPOINT_SECONDS
from adapt.runtime.device import pick_device
from benchmarks.train import memory
from benchmarks.train.extraction import extraction_table, waiting_share
from benchmarks.train.kills import kills
from benchmarks.train.public import PublicCode, PublicMMT
from benchmarks.train.site import write_site
from benchmarks.train.step import CLUSTERS, OurMMT, Setting, step_table
from models.image import Preprocessing


def main(arguments: list[str] | None = None) -> int:
    """Measure a part and print it."""
    given = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        if given.part == "kills":
            often = given.checkpoint_seconds
            return 0 if kills(folder, given.count, given.method, given.seed, often) else 1
        if given.part == "memory":
            memory.print_table(folder, given.crops)
            return 0
        device = pick_device(given.device)
        setting = Setting(
            *(given.height, given.width, given.batch, given.steps, given.repeats),
            workers=given.workers,
            device=device,
        )
        computes = [Compute(precision=each) for each in given.precisions]
        if given.compile:
            computes += [each.model_copy(update={"compile": True}) for each in computes]
        print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
        if given.part == "extract":
            extraction_table(given.backbone, computes, setting, given.crops)
        elif given.part == "step":
            step_table(given.public, setting, computes, folder)
        else:
            _loader(given.public, setting, computes, folder)
    return 0


def _loader(clone: Path, setting: Setting, computes: list[Compute], folder: Path) -> None:
    site = write_site(folder / "crops", crops=8 * CLUSTERS, clusters=CLUSTERS)
    data = site.decoded(Preprocessing(height=setting.height, width=setting.width))
    public = PublicMMT(PublicCode.load(clone), CLUSTERS, setting.device)
    for each in computes:
        ours = OurMMT(public, each, setting, folder)
        seconds, share = waiting_share(ours, data, site.labels, setting)
        print(f"{each.precision}: a step {seconds:.3f} s, {share:.1%} of it waits for the batch")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train")
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("step", "extract", "loader", "memory", "kills"):
        part = parts.add_parser(name)
        part.add_argument("--folder", type=Path, help="for what is written and removed again")
        if name in ("step", "loader"):
            part.add_argument("--public", type=Path, required=True, metavar="DIR")
        if name in ("step", "extract", "loader"):
            part.add_argument("--device", default="auto")
            part.add_argument("--height", type=int, default=64)
            part.add_argument("--width", type=int, default=32)
            part.add_argument("--batch", type=int, default=32)
            part.add_argument("--steps", type=int, default=1, help="of a repeat")
            part.add_argument("--repeats", type=int, default=7)
            part.add_argument(
                "--workers", type=int, default=0, help="loading processes of the public code"
            )
            part.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
            part.add_argument("--compile", action="store_true", help="also compiled")
    extract, remember, kill = (parts.choices[name] for name in ("extract", "memory", "kills"))
    extract.add_argument("--backbone", default="resnet50")
    extract.add_argument("--crops", type=int, default=512)
    remember.add_argument("--crops", type=int, default=100_000)
    kill.add_argument("--count", type=int, default=20)
    kill.add_argument("--method", choices=sorted(METHODS), default="mmt")
    kill.add_argument("--seed", type=int, default=1)
    kill.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=CHECKPOINT_SECONDS,
        help="how often the state is kept within a round; 0: after each step",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

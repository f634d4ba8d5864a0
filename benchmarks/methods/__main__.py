"""All methods beside what they have to beat: `python -m benchmarks.methods PART ...`.

real       source VIPeR, site PKU-Reid, both below `--data`; three pairs of source networks
served     that part's last MMT network, served: rankings over gRPC beside the evaluated ones
synthetic  the demo's sites, anew for each seed, judged on people that adaptation never saw; beside
           true labels
ceiling    half of PKU-Reid's people to adapt to, the others to judge; beside true labels
ablations  each paper's switches, on the sites of `synthetic`
pictures   draws the figures in `--results` into `--pictures`

Each run has a process of its own. What is there, finished or stopped by a collapse, is used again
if it is the same run; what was interrupted is resumed. Tables are printed in Markdown after each
run, and their figures kept in PART.json below `--out`. The site's labels are read only to score,
and for the rows of true labels.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from benchmarks.methods.arms import ARMS
from benchmarks.methods.ceiling import ceiling
from benchmarks.methods.pictures import pictures
from benchmarks.methods.real import real, served
from benchmarks.methods.synthetic import ablations, synthetic

PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "real": real,
    "served": served,
    "synthetic": synthetic,
    "ceiling": ceiling,
    "ablations": ablations,
    "pictures": pictures,
}


def main() -> None:
    """Run the part asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.methods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("part", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    add("--data", type=Path, help="real, served, ceiling: folder with viper, pku_a and weights")
    add("--out", type=Path, help="runs and figures; default runs/methods-PART (served: -real, "
        "ablations: -synthetic)")  # fmt: skip
    add("--sources", type=Path, help="folder of source networks, and of sites; default --out")
    add("--methods", nargs="+", choices=ARMS, default=list(ARMS))
    add("--seeds", nargs="+", type=int, help="default 1 2 3; ablations: 1")
    add("--splits", nargs="+", type=int, default=[1, 2, 3], help="ceiling: numbers of splits")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change every recipe but the "
        "source networks'")  # fmt: skip
    add("--results", type=Path, default=Path("runs/methods-synthetic/synthetic.json"))
    add("--pictures", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    if options.data is None and options.part in ("real", "served", "ceiling"):
        parser.error(f"{options.part} needs --data")
    named = {"served": "real", "ablations": "synthetic"}.get(options.part, options.part)
    options.out = options.out or Path("runs") / f"methods-{named}"
    options.seeds = options.seeds or ([1] if options.part == "ablations" else [1, 2, 3])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    PARTS[options.part](options)


if __name__ == "__main__":
    main()

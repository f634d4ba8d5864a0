"""Which label-free proxies deserve trust: `python -m benchmarks.gate PART ...`.

measure  every network that runs kept, on one site: all proxies on the site's crops, and the true
         mAP by labels. Repeat it for every site, with another `--name`; what is there is kept.
choose   over all sites measured below `--out`: Spearman correlation of every proxy with the true
         mAP; precision and recall of `promote` over all ordered pairs of a site's models; the rule
         chosen on all sites, and for each site the rule that the others choose. Writes gate.json,
         gate.md and gate.png.

Labels are read to score, never by a proxy.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gate.measuring import SITE_FILE, SiteToMeasure, measure_site, read_site_result
from benchmarks.gate.tables import report


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the part asked for. arguments: those of the command line unless given."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = parser.add_subparsers(dest="part", required=True)
    add = parts.add_parser("measure", help="networks of one site").add_argument
    add("--name", required=True, help="of the site, in tables")
    add("--data", type=Path, required=True, help="labelled crops that tell the true mAP")
    add("--target", type=Path, help="the site's crops for the proxies; default --data")
    add("--runs", type=Path, nargs="+", required=True, help="run folders, source networks' too")
    add("--hold-back", type=float, default=0.0, help="share that the runs left out of --target")
    add("--camera-pattern", help="as of resight adapt")
    add("--device", default="auto")
    add("--out", type=Path, default=Path("runs/gate"))
    add = parts.add_parser("choose", help="tables, rule and picture").add_argument
    add("--margin", type=float, default=0.01, help="mAP by which better is better; default 0.01")
    add("--out", type=Path, default=Path("runs/gate"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.part == "measure":
        site = SiteToMeasure(
            options.name,
            options.target or options.data,
            options.data,
            options.hold_back,
            options.camera_pattern,
        )
        measure_site(site, options.runs, options.out / options.name, options.device)
        return
    folders = sorted(file.parent for file in options.out.glob(f"*/{SITE_FILE}"))
    if not folders:
        raise SystemExit(f"no site is measured below {options.out}: run the part measure first")
    report([read_site_result(folder) for folder in folders], options.out, margin=options.margin)
    print((options.out / "gate.md").read_text())


if __name__ == "__main__":
    main()

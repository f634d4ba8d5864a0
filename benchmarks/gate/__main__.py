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
from dataclasses import replace
from pathlib import Path

from benchmarks.gate.measuring import SITE_FILE, SiteToMeasure, measure_site, read_site_result
from benchmarks.gate.networks import kept_networks, source_network
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
    add("--kind", required=True, help="of the site: a rule is tried on kinds it was not chosen on")
    add("--data", type=Path, required=True, help="labelled crops, as of resight evaluate")
    add("--sources", type=Path, nargs="+", required=True, help="runs: models before adaptation")
    add("--runs", type=Path, nargs="+", required=True, help="runs that are to replace these")
    add("--rounds", type=int, nargs="+", help="of the runs, beside the last one; default all")
    add("--tracks", action="store_true", help="measure a site NAME-tracks, too, where each person "
        "is on one track in each camera")  # fmt: skip
    add("--hold-back", type=float, default=0.0, metavar="SHARE", help="measure a site NAME-held, "
        "too, where proxies see this share of the crops alone")  # fmt: skip
    add("--device", default="auto")
    add("--out", type=Path, default=Path("runs/gate"))
    add = parts.add_parser("choose", help="tables, rule and picture").add_argument
    add("--margin", type=float, default=0.01, help="mAP by which better is better; default 0.01")
    add("--out", type=Path, default=Path("runs/gate"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.part == "measure":
        sites = [SiteToMeasure(options.name, options.kind, options.data)]
        if options.tracks:
            sites.append(replace(sites[0], name=f"{options.name}-tracks", tracks=True))
        if options.hold_back:
            share = options.hold_back
            sites += [replace(s, name=f"{s.name}-held", hold_back=share) for s in sites]
        networks = [source_network(run) for run in options.sources]
        networks += [kept for run in options.runs for kept in kept_networks(run, options.rounds)]
        measure_site(sites, networks, options.out, options.device)
        return
    folders = sorted(file.parent for file in options.out.glob(f"*/{SITE_FILE}"))
    if not folders:
        raise SystemExit(f"no site is measured below {options.out}: run the part measure first")
    report([read_site_result(folder) for folder in folders], options.out, margin=options.margin)
    print((options.out / "gate.md").read_text())


if __name__ == "__main__":
    main()

"""Which label-free proxies deserve trust: `python -m benchmarks.gate PART ...`.

letters  unpacks a small site of characters, with source crops, from Omniglot
spoil    adapts a source network to a site in ways that have to fail, and damages it
measure  networks of runs on one site: all proxies of the site's crops, and the true mAP by labels.
         Repeat it for every site, with another `--name`; what is there is kept
choose   over all sites measured below `--out`: Spearman correlation of every proxy with the true
         mAP; how often rules and single proxies promote rightly; the rule chosen on all kinds of
         sites, and for each kind the rule that the others choose. Writes gate.json, gate.md and
         gate.png
test     the same for the default rule as it is, over sites that no rule was chosen on, measured
         below another `--out`

Labels are read to score and to simulate tracks, never by a proxy.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.gate.letters import unpack_letters
from benchmarks.gate.measuring import SITE_FILE, SiteToMeasure, measure_site, read_site_result
from benchmarks.gate.networks import kept_networks, source_network
from benchmarks.gate.spoiled import damage, spoil
from benchmarks.gate.tables import report


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the part asked for. arguments: those of the command line unless given."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = parser.add_subparsers(dest="part", required=True)
    add = parts.add_parser("letters", help="a site of characters").add_argument
    add("--archive", type=Path, required=True, help="Omniglot in Market-1501's layout, zipped")
    add("--block", type=int, default=1, help="which of the characters, from 1")
    add("--out", type=Path, default=Path("runs/letters"))
    add = parts.add_parser("spoil", help="models that are meant to fail").add_argument
    add("--target", type=Path, required=True, help="as of resight adapt")
    add("--init", type=Path, required=True, help="run folder of a source network")
    add("--seed", type=int, default=1)
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change every recipe")
    add("--out", type=Path, required=True, help="folder of the runs")
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
    add = parts.add_parser("test", help="the default rule on other sites").add_argument
    add("--margin", type=float, default=0.01, help="mAP by which better is better; default 0.01")
    add("--out", type=Path, default=Path("runs/gate-test"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    PARTS[options.part](options)


def _letters(options: argparse.Namespace) -> None:
    print(unpack_letters(options.archive, options.out, options.block))


def _spoil(options: argparse.Namespace) -> None:
    damage(options.init, options.out, seed=options.seed)
    spoil(options.target, options.init, options.out, seed=options.seed, overrides=options.set)


def _measure(options: argparse.Namespace) -> None:
    sites = [SiteToMeasure(options.name, options.kind, options.data)]
    if options.tracks:
        sites.append(replace(sites[0], name=f"{options.name}-tracks", tracks=True))
    if options.hold_back:
        share = options.hold_back
        sites += [replace(site, name=f"{site.name}-held", hold_back=share) for site in sites]
    networks = [source_network(run) for run in options.sources]
    networks += [kept for run in options.runs for kept in kept_networks(run, options.rounds)]
    measure_site(sites, networks, options.out, options.device)


def _tables(options: argparse.Namespace) -> None:
    folders = sorted(file.parent for file in options.out.glob(f"*/{SITE_FILE}"))
    if not folders:
        raise SystemExit(f"no site is measured below {options.out}: run the part measure first")
    sites = [read_site_result(folder) for folder in folders]
    report(sites, options.out, margin=options.margin, choosing=options.part == "choose")
    print((options.out / "gate.md").read_text())


PARTS = {
    "letters": _letters,
    "spoil": _spoil,
    "measure": _measure,
    "choose": _tables,
    "test": _tables,
}


if __name__ == "__main__":
    main()

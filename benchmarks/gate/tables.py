"""The experiment's tables in Markdown, its figures as JSON, and its picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from adapt.checkpoint import write_atomically
from adapt.gate import DEFAULT_RULE
from adapt.proxies.measure import PROXIES
from benchmarks.gate.measuring import SiteResult
from benchmarks.gate.rules import (
    Candidate,
    Case,
    Judged,
    choose,
    correlation,
    leave_one_out,
    votes_of,
)
from benchmarks.methods.results import PROTOCOLS

Rows = Sequence[Sequence[str]]


def report(sites: Sequence[SiteResult], out: Path, *, margin: float) -> None:
    """Write gate.json, gate.md and gate.png into a folder.

    margin: of mAP by which a model has to be better to count as better.
    """
    votes = [votes_of(site, DEFAULT_RULE) for site in sites]
    content: dict[str, Any] = {"margin": margin, "sites": {s.name: len(s.models) for s in sites}}
    parts = [_models(sites)]
    for protocol in PROTOCOLS:
        cases = [
            Case(site.name, vote, np.array([model.scores[protocol] for model in site.models]))
            for site, vote in zip(sites, votes, strict=True)
        ]
        found = _protocol(sites, cases, protocol, margin)
        content[protocol] = found
        parts += _protocol_tables(found, [site.name for site in sites], protocol, margin)
    write_atomically(out / "gate.json", json.dumps(content, indent=1).encode())
    write_atomically(out / "gate.md", "\n".join(parts).encode())
    draw(out / "gate.png", sites)


def _protocol(
    sites: Sequence[SiteResult], cases: Sequence[Case], protocol: str, margin: float
) -> dict[str, Any]:
    default = Candidate(DEFAULT_RULE.proxies, DEFAULT_RULE.least_votes)
    rules = {"default": default}
    if (chosen := choose(cases, margin)) is not None:
        rules["chosen on all sites"] = chosen
    alone = {
        name: {case.name: _figures(case.judge(Candidate((name,), 1), margin)) for case in cases}
        for name in PROXIES
    }
    return {
        "spearman": {
            name: {site.name: _known(correlation(site, name, protocol)) for site in sites}
            for name in PROXIES
        },
        "alone": alone,
        "rules": {
            name: _rule(rule, {case.name: case.judge(rule, margin) for case in cases})
            for name, rule in rules.items()
        },
        "left_out": {
            name: _rule(rule, {name: judged})
            for name, (rule, judged) in leave_one_out(cases, margin).items()
        },
    }


def _rule(rule: Candidate, judged: Mapping[str, Judged]) -> dict[str, Any]:
    return {
        "proxies": list(rule.proxies),
        "least_votes": rule.least_votes,
        "sites": {name: _figures(each) for name, each in judged.items()},
    }


def _figures(each: Judged) -> dict[str, float | int | None]:
    return {
        "promoted": each.promoted,
        "better": each.better,
        "right": each.right,
        "harmful": each.harmful,
        "precision": _known(each.precision),
        "recall": _known(each.recall),
        "f_measure": each.f_measure,
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _models(sites: Sequence[SiteResult]) -> str:
    rows = []
    for site in sites:
        for protocol in PROTOCOLS:
            maps = [model.scores[protocol] for model in site.models]
            figures = (f"{f(maps):.3f}" for f in (min, np.median, max))
            rows.append([site.name, str(len(maps)), protocol, *figures])
    return table("Models", ("site", "models", "protocol", "least mAP", "median", "most"), rows)


def _protocol_tables(
    found: Mapping[str, Any], sites: Sequence[str], protocol: str, margin: float
) -> list[str]:
    spearman = [
        [name, *(_cell(by_site[site]) for site in sites), _cell(_mean(by_site.values()))]
        for name, by_site in found["spearman"].items()
    ]
    alone = [
        [name, *(_both(by_site[site]) for site in sites)]
        for name, by_site in found["alone"].items()
    ]
    rules = [
        [name, _words(rule), site, *_counts(figures)]
        for name, rule in found["rules"].items()
        for site, figures in rule["sites"].items()
    ] + [
        ["chosen on the other sites", _words(rule), site, *_counts(rule["sites"][site])]
        for site, rule in found["left_out"].items()
    ]
    better = f"better by more than {margin:g}"
    return [
        table(
            f"Spearman correlation with mAP, {protocol}; the sign is turned where less is better",
            ("proxy", *sites, "mean"),
            spearman,
        ),
        table(
            f"Precision / recall of a promotion by one proxy alone, {protocol}, {better}",
            ("proxy", *sites),
            alone,
        ),
        table(
            f"Rules, {protocol}, {better}",
            ("rule", "votes", "site", "promoted", "precision", "recall", "harmful"),
            rules,
        ),
    ]


def _words(rule: Mapping[str, Any]) -> str:
    return str(Candidate(tuple(rule["proxies"]), rule["least_votes"]))


def _counts(figures: Mapping[str, Any]) -> list[str]:
    counted = (_cell(figures[name]) for name in ("precision", "recall"))
    return [str(figures["promoted"]), *counted, str(figures["harmful"])]


def _both(figures: Mapping[str, Any]) -> str:
    return f"{_cell(figures['precision'])} / {_cell(figures['recall'])}"


def _cell(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"


def _mean(values: Any) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan


def table(title: str, header: Sequence[str], rows: Rows) -> str:
    """A Markdown table below its title."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join([f"{title}\n", *(f"| {' | '.join(cells)} |" for cells in lines), ""])


def draw(file: Path, sites: Sequence[SiteResult]) -> None:
    """True mAP (other-camera) over each proxy; a dot for each model, a colour for each site."""
    columns = 4
    lines = -(-len(PROXIES) // columns)
    figure = Figure(figsize=(3 * columns, 2.6 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, sharey=True).ravel()
    for axis, (name, proxy) in zip(axes, PROXIES.items(), strict=False):
        for number, site in enumerate(sites):
            pairs = [
                (each.value, model.scores[PROTOCOLS[0]])
                for model in site.models
                if (each := model.figures.proxies[name]) is not None
            ]
            x, y = zip(*pairs, strict=True) if pairs else ((), ())
            axis.plot(x, y, "o", ms=3, alpha=0.7, color=f"C{number}", label=site.name)
        axis.set_title(name + (" (less is better)" if proxy.sign < 0 else ""), fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes[len(PROXIES) :]:
        axis.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    axes[-1].legend(handles, labels, loc="center", fontsize=9)
    figure.supylabel(f"mAP, {PROTOCOLS[0]}", fontsize=9)
    figure.savefig(file, dpi=130)

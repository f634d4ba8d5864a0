"""The experiment's tables in Markdown, its figures as JSON, and its picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from adapt.evaluation.gate import DEFAULT_RULE
from adapt.evaluation.proxies.measure import PROXIES
from benchmarks.gate.measuring import SiteResult
from benchmarks.gate.networks import NetworkStage
from benchmarks.gate.rules import (
    CHOSEN_BY,
    Asked,
    Candidate,
    Case,
    Judged,
    Votes,
    choose,
    correlation,
    leave_one_out,
    mean_over_kinds,
    pairs_asked,
    promotions,
    rejections,
    try_rules,
    votes_of,
)
from benchmarks.methods.results import PROTOCOLS
from models.files import write_atomically
from models.json_text import json_text

Rows = Sequence[Sequence[str]]

ASKED: Mapping[Asked, str] = {
    "first": "source network to the end of a run",
    "next": "end of a run to the end of another",
    "replacing": "source network or end of a run to the end of a run",
    "all": "any model to any other",
}


def report(sites: Sequence[SiteResult], out: Path, *, margin: float, choosing: bool = True) -> None:
    """Write gate.json, gate.md and gate.png into a folder.

    Rules are chosen by both protocols together, so that there is one.

    margin: of mAP by which a model has to be better to count as better. choosing: compare rules;
    else the default one is tried as it is.
    """
    votes = [votes_of(site, DEFAULT_RULE) for site in sites]
    cases = {
        protocol: [_case(site, vote, protocol) for site, vote in zip(sites, votes, strict=True)]
        for protocol in PROTOCOLS
    }
    rules = {"default": Candidate(DEFAULT_RULE.proxies, DEFAULT_RULE.min_votes)}
    left_out: dict[str, Candidate] = {}
    if choosing:
        everything = [case for own in cases.values() for case in own]
        tried = try_rules(everything, margin, CHOSEN_BY)
        if (chosen := choose(everything, tried)) is not None:
            rules["chosen on all kinds"] = chosen
        left_out = leave_one_out(everything, tried)
    content: dict[str, Any] = {
        "margin": margin,
        "sites": {s.name: {"kind": s.kind, "models": len(s.models)} for s in sites},
    }
    parts = [_models(sites)]
    for protocol, own in cases.items():
        content[protocol] = _protocol(sites, own, rules, left_out, protocol, margin)
        parts += _protocol_tables(content[protocol], own, protocol, margin)
    write_atomically(out / "gate.json", json_text(content, indent=1).encode())
    write_atomically(out / "gate.md", "\n".join(parts).encode())
    draw(out / "gate.png", sites)


def _case(site: SiteResult, votes: Votes, protocol: str) -> Case:
    return Case(
        site.name,
        site.kind,
        votes,
        np.array([model.scores[protocol] for model in site.models]),
        tuple(model.stage for model in site.models),
    )


def _protocol(
    sites: Sequence[SiteResult],
    cases: Sequence[Case],
    rules: Mapping[str, Candidate],
    left_out: Mapping[str, Candidate],
    protocol: str,
    margin: float,
) -> dict[str, Any]:
    alone = {name: Candidate((name,), 1) for name in PROXIES}
    spearman = {
        name: {site.name: correlation(site, name, protocol) for site in sites} for name in PROXIES
    }
    return {
        "spearman": {n: {s: _known(v) for s, v in of.items()} for n, of in spearman.items()},
        "alone": {name: _tried(rule, cases, margin) for name, rule in alone.items()},
        "rules": {name: _tried(rule, cases, margin) for name, rule in rules.items()},
        "left_out": {
            kind: _tried(rule, [case for case in cases if case.kind == kind], margin)
            for kind, rule in left_out.items()
        },
        "verdicts": [
            each
            for site, case in zip(sites, cases, strict=True)
            for each in _verdicts(site, case, rules["default"])
        ],
    }


def _tried(rule: Candidate, cases: Sequence[Case], margin: float) -> dict[str, Any]:
    """A rule, and by question and site how often it is right."""
    return {
        "proxies": list(rule.proxies),
        "min_votes": rule.min_votes,
        **{
            asked: {case.name: asdict(case.judge(rule, margin, asked)) for case in cases}
            for asked in ASKED
        },
    }


def _verdicts(site: SiteResult, case: Case, rule: Candidate) -> list[dict[str, Any]]:
    """Each end of a run against each source network of its site that has not collapsed."""
    promoted = promotions(case.votes, rule.proxies, rule.min_votes)
    rejected = rejections(case.votes, rule.proxies, rule.min_votes)
    wanted = pairs_asked(case.stages, case.votes.collapsed, "first")
    return [
        {
            "site": site.name,
            "kind": site.kind,
            "old": site.models[old].name,
            "new": site.models[new].name,
            "old_mAP": float(case.true[old]),
            "new_mAP": float(case.true[new]),
            "collapsed": bool(case.votes.collapsed[new]),
            "verdict": "promote"
            if promoted[old, new]
            else "reject"
            if rejected[old, new]
            else "hold",
        }
        for old, new in np.argwhere(wanted).tolist()
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _models(sites: Sequence[SiteResult]) -> str:
    rows = []
    for site in sites:
        figures = []
        for protocol in PROTOCOLS:
            maps = [model.scores[protocol] for model in site.models]
            figures.append(" / ".join(f"{f(maps):.3f}" for f in (min, np.median, max)))
        crops = str(len(site.groups))
        rows.append([site.name, site.kind, crops, str(len(site.models)), *figures])
    header = ("site", "kind", "crops", "models", *(f"mAP, {name}" for name in PROTOCOLS))
    return table("Models; least, median and most mAP", header, rows)


def _protocol_tables(
    found: Mapping[str, Any], cases: Sequence[Case], protocol: str, margin: float
) -> list[str]:
    better = f"better by more than {margin:g}"
    return [
        _spearman_table(found["spearman"], cases, protocol),
        *(
            table(
                f"One proxy alone, {ASKED[asked]}: precision / recall / harmful, {protocol}, "
                f"{better}",
                ("proxy", *_kinds(cases)),
                [
                    [name, *(_in_short(each[asked], cases, kind) for kind in _kinds(cases))]
                    for name, each in found["alone"].items()
                ],
            )
            for asked in ASKED
        ),
        *(
            table(
                f"Rules, {ASKED[asked]}, {protocol}, {better}",
                ("rule", "votes", "kind", *COUNTS),
                _rule_rows(found, cases, asked),
            )
            for asked in ASKED
        ),
        _verdict_table(found["verdicts"], protocol),
    ]


COUNTS = ("pairs promoted", "pairs better", "precision", "recall", "harmful")


def _spearman_table(
    spearman: Mapping[str, Mapping[str, float | None]], cases: Sequence[Case], protocol: str
) -> str:
    rows = [
        [case.name, *(_cell(by_site[case.name]) for by_site in spearman.values())] for case in cases
    ]
    means = []
    for by_site in spearman.values():
        known = [case for case in cases if by_site[case.name] is not None]
        means.append(mean_over_kinds(known, [by_site[case.name] or 0.0 for case in known]))
    return table(
        f"Spearman correlation with mAP, {protocol}; the sign is turned where less is better",
        ("site", *spearman),
        [*rows, ["mean over kinds", *map(_cell, means)]],
    )


def _rule_rows(found: Mapping[str, Any], cases: Sequence[Case], asked: Asked) -> Rows:
    named = [(name, rule, _kinds(cases)) for name, rule in found["rules"].items()]
    named += [
        ("chosen on the other kinds", rule, [kind]) for kind, rule in found["left_out"].items()
    ]
    return [
        [
            name,
            str(Candidate(tuple(rule["proxies"]), rule["min_votes"])),
            kind,
            *_counts(_pooled(rule[asked], cases, kind)),
        ]
        for name, rule, kinds in named
        for kind in kinds
    ]


def _verdict_table(verdicts: Sequence[Mapping[str, Any]], protocol: str) -> str:
    """Of the default rule, by kind of site and what the new model's runs are called."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in verdicts:
        run = each["new"].partition("/")[0]
        stem = run.rpartition("-")[0] or run
        groups.setdefault((each["kind"], stem), []).append(each)
    rows = []
    for (kind, stem), own in groups.items():
        said = [each["verdict"] for each in own]
        old, new = (np.mean([each[key] for each in own]) for key in ("old_mAP", "new_mAP"))
        counts = [said.count(verdict) for verdict in ("promote", "hold", "reject")]
        counts.append(sum(each["collapsed"] for each in own))
        rows.append([kind, stem, f"{old:.3f}", f"{new:.3f}", *map(str, counts)])
    return table(
        f"Verdicts of the default rule on ends of runs against source networks, mAP {protocol}",
        ("kind", "new", "old mAP", "new mAP", "promote", "hold", "reject", "of these collapsed"),
        rows,
    )


def _kinds(cases: Sequence[Case]) -> list[str]:
    return list(dict.fromkeys(case.kind for case in cases))


def _pooled(by_site: Mapping[str, Mapping[str, int]], cases: Sequence[Case], kind: str) -> Judged:
    """All pairs of a kind's sites together."""
    own = [by_site[case.name] for case in cases if case.kind == kind]
    return Judged(**{key: sum(each[key] for each in own) for key in own[0]})


def _in_short(by_site: Mapping[str, Mapping[str, int]], cases: Sequence[Case], kind: str) -> str:
    found = _pooled(by_site, cases, kind)
    return f"{_cell(found.precision)} / {_cell(found.recall)} / {found.harmful}"


def _counts(found: Judged) -> list[str]:
    figures = (_cell(found.precision), _cell(found.recall))
    return [str(found.promoted), str(found.better), *figures, str(found.harmful)]


def _cell(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"


def table(title: str, header: Sequence[str], rows: Rows) -> str:
    """A Markdown table below its title."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join([f"{title}\n", *(f"| {' | '.join(cells)} |" for cells in lines), ""])


MARKERS: Mapping[NetworkStage, str] = {"source": "^", "round": ".", "last": "o"}


def draw(file: Path, sites: Sequence[SiteResult]) -> None:
    """True mAP (other-camera) over each proxy; a mark for each model, a color for each kind."""
    columns = 4
    lines = -(-(len(PROXIES) + 1) // columns)
    figure = Figure(figsize=(3 * columns, 2.6 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, sharey=True).ravel()
    kinds = list(dict.fromkeys(site.kind for site in sites))
    for axis, (name, proxy) in zip(axes, PROXIES.items(), strict=False):
        for number, kind in enumerate(kinds):
            for stage, marker in MARKERS.items():
                pairs = [
                    (each.value, model.scores[PROTOCOLS[0]])
                    for site in sites
                    for model in site.models
                    if site.kind == kind and model.stage == stage
                    if (each := model.figures.proxies[name]) is not None
                ]
                x, y = zip(*pairs, strict=True) if pairs else ((), ())
                axis.plot(x, y, marker, ms=4, alpha=0.6, mew=0, color=f"C{number}")
        axis.set_title(name + (" (less is better)" if proxy.sign < 0 else ""), fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes[len(PROXIES) :]:
        axis.set_axis_off()
    marks = [Line2D([], [], ls="", marker="s", color=f"C{n}") for n in range(len(kinds))]
    marks += [Line2D([], [], ls="", marker=marker, color="0.3") for marker in MARKERS.values()]
    words = [*kinds, "before adaptation", "a round of a run", "end of a run"]
    axes[-1].legend(marks, words, loc="center", fontsize=9)
    figure.supylabel(f"mAP, {PROTOCOLS[0]}", fontsize=9)
    figure.savefig(file, dpi=130)

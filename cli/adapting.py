"""The commands `adaptations`: training runs by a server on its own sites."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.common import (
    METHOD_HELP,
    TRAINING_PACKAGES,
    AsJson,
    ServerOption,
    SiteOption,
    print_json,
    short_time,
    table,
    tell,
)
from models.job_contract import AdaptationRound
from service.client import DEFAULT_SERVER, ClientError, ResightClient
from service.jobs.records import MAX_SEED, Adaptation, AdaptationSpec, JobState

adaptations = typer.Typer(help="Adaptations of sites on the server.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="ADAPTATION", help="Id, as in `adaptations list`.")]

_FIGURES = ("clusters", "outlier_share", "loss")
"""Figures of a round that are shown first, or alone; `report` shows all."""


@adaptations.command("start")
def adaptations_start(
    site: SiteOption,
    method: Annotated[str, typer.Option(help=METHOD_HELP)],
    recipe: Annotated[
        str | None,
        typer.Option(help="Built-in recipe; default: the method's."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value of the recipe: optimizer.lr=1e-4; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Random seed.")] = 1,
    server: ServerOption = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Start an adaptation to a site's own crops on the server; prints its id alone."""
    spec = AdaptationSpec(method, recipe or method, tuple(overrides or ()), seed)
    if recipe or overrides:
        _check_recipe(spec)
    with ResightClient(server) as client:
        adaptation = client.start_adaptation(site, spec)
    if as_json:
        print_json(_adaptation_json(adaptation))
    else:
        tell(f"an adaptation of site {site} waits for its turn:")
        typer.echo(adaptation.id)


def _check_recipe(spec: AdaptationSpec) -> None:
    """Raise ConfigError for a recipe or values that training would refuse; the server cannot tell.

    Where training is not installed, they are refused when the adaptation runs.
    """
    try:
        from adapt.recipes import load_recipe
    except ModuleNotFoundError as error:
        if error.name not in TRAINING_PACKAGES:
            raise
        return
    load_recipe(spec.recipe, method=spec.method, overrides=spec.overrides)


@adaptations.command("list")
def adaptations_list(
    site: SiteOption, server: ServerOption = DEFAULT_SERVER, as_json: AsJson = False
) -> None:
    """List the adaptations of a site, oldest first."""
    with ResightClient(server) as client:
        found = list(client.adaptations(site))
    if as_json:
        print_json([_adaptation_json(adaptation) for adaptation in found])
    elif not found:
        tell(f"no adaptations of site {site}; start one with `resight adaptations start`")
    else:
        header = ["adaptation", "method", "state", "created", "model", "verdict", "reason"]
        rows = [
            [
                adaptation.id,
                adaptation.spec.method,
                adaptation.state.value,
                short_time(adaptation.created),
                adaptation.model,
                _verdict(adaptation),
                adaptation.reason,
            ]
            for adaptation in found
        ]
        typer.echo(table(header, rows))


@adaptations.command("watch")
def adaptations_watch(
    adaptation: Name,
    site: SiteOption,
    server: ServerOption = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Show each round when it is finished, until the adaptation is over; exit code 1 on failure."""
    with ResightClient(server) as client:
        for latest, round_ in client.watch_adaptation(site, adaptation):
            if as_json:
                print_json(_adaptation_json(latest) if round_ is None else _round_json(round_))
            else:
                typer.echo(_state_line(latest) if round_ is None else _round_line(round_))
    if latest.state is not JobState.SUCCEEDED:
        why = f": {latest.reason}: {latest.error}" if latest.error else ""
        raise ClientError(f"adaptation {adaptation} {latest.state.value.lower()}{why}")


@adaptations.command("cancel")
def adaptations_cancel(
    adaptation: Name, site: SiteOption, server: ServerOption = DEFAULT_SERVER
) -> None:
    """Cancel an adaptation that waits or runs."""
    with ResightClient(server) as client:
        cancelled = client.cancel_adaptation(site, adaptation)
    ending = "is cancelled" if cancelled.state.over else "is being cancelled"
    tell(f"adaptation {adaptation} of site {site} {ending}")


@adaptations.command("report")
def adaptations_report(
    adaptation: Name,
    site: SiteOption,
    server: ServerOption = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Show an adaptation in full: settings, rounds, verdict, result."""
    with ResightClient(server) as client:
        found, rounds = client.adaptation(site, adaptation)
    if as_json:
        print_json({**_adaptation_json(found), "rounds": [_round_json(row) for row in rounds]})
        return
    for name, value in _facts(found):
        if value:
            typer.echo(f"{name:<12}{value}")
    if rounds:
        typer.echo("\n" + _rounds_table(rounds))
    for round_ in rounds:
        for warning in round_.warnings:
            typer.echo(f"round {round_.number}: {warning}")


def _facts(adaptation: Adaptation) -> list[tuple[str, str]]:
    def time(moment: Any) -> str:
        return "" if moment is None else short_time(moment)

    verdict = _verdict(adaptation) or ("not judged" if adaptation.model else "")
    return [
        ("site", adaptation.site),
        ("adaptation", adaptation.id),
        ("method", adaptation.spec.method),
        ("recipe", adaptation.spec.recipe),
        ("changed", ", ".join(adaptation.spec.overrides)),
        ("seed", str(adaptation.spec.seed)),
        ("state", adaptation.state.value),
        ("reason", adaptation.reason),
        ("error", adaptation.error),
        ("created", time(adaptation.created)),
        ("started", time(adaptation.started)),
        ("ended", time(adaptation.ended)),
        ("model", adaptation.model),
        ("verdict", verdict),
        *(("", reason) for reason in _verdict_reasons(adaptation)),
        ("rounds", adaptation.rounds_error),
    ]


def _verdict(adaptation: Adaptation) -> str:
    return adaptation.gate.verdict if adaptation.gate else ""


def _verdict_reasons(adaptation: Adaptation) -> list[str]:
    return list(adaptation.gate.reasons) if adaptation.gate else []


def _rounds_table(rounds: list[AdaptationRound]) -> str:
    """A row for each round, a column for each figure that any of them has."""
    known = {name for round_ in rounds for name in round_.figures}
    names = [name for name in _FIGURES if name in known] + sorted(known - set(_FIGURES))
    rows = [
        [str(r.number), *(f"{r.figures[n]:.4g}" if n in r.figures else "" for n in names)]
        for r in rounds
    ]
    return table(["round", *names], rows, right=range(len(names) + 1))


def _state_line(adaptation: Adaptation) -> str:
    result = f": {adaptation.model}" if adaptation.model else ""
    verdict = f" ({_verdict(adaptation)})" if _verdict(adaptation) else ""
    rounds = f"; {adaptation.rounds_error}" if adaptation.rounds_error else ""
    return f"{adaptation.state.value}{result}{verdict}{rounds}"


def _round_line(round_: AdaptationRound) -> str:
    shown = [f"{name} {round_.figures[name]:.4g}" for name in _FIGURES if name in round_.figures]
    warned = "".join(f"; {warning}" for warning in round_.warnings)
    return f"round {round_.number}: {round_.labels}; {', '.join(shown)}{warned}"


def _adaptation_json(adaptation: Adaptation) -> dict[str, Any]:
    def time(moment: Any) -> str | None:
        return None if moment is None else moment.isoformat()

    return {
        "adaptation": adaptation.id,
        "site": adaptation.site,
        "method": adaptation.spec.method,
        "recipe": adaptation.spec.recipe,
        "overrides": list(adaptation.spec.overrides),
        "seed": adaptation.spec.seed,
        "state": adaptation.state.value,
        "reason": adaptation.reason,
        "error": adaptation.error,
        "created": time(adaptation.created),
        "started": time(adaptation.started),
        "ended": time(adaptation.ended),
        "model": adaptation.model,
        "verdict": _verdict(adaptation),
        "verdict_reasons": _verdict_reasons(adaptation),
        "rounds_error": adaptation.rounds_error,
    }


def _round_json(round_: AdaptationRound) -> dict[str, Any]:
    return {
        "round": round_.number,
        "labels": round_.labels,
        "warnings": list(round_.warnings),
        **round_.figures,
    }

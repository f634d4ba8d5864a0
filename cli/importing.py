"""The command `import`. torch is imported inside it: the rest of `resight` runs without it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import tell
from models.image import Interpolation, Preprocessing


def register(app: typer.Typer) -> None:
    """Add the command of this module to the application."""
    app.command("import")(import_network)


def import_network(
    weights: Annotated[
        str, typer.Option(help="State dict or checkpoint, or `torchvision` (ImageNet, downloaded).")
    ],
    backbone: Annotated[str, typer.Option(help="Backbone, e.g. osnet_x1_0; see docs/models.md.")],
    out: Annotated[Path, typer.Option(help="Run folder to write; must not contain a network.")],
    height: Annotated[int, typer.Option(min=8, max=2048, help="Input height in pixels.")] = 256,
    width: Annotated[int, typer.Option(min=8, max=2048, help="Input width in pixels.")] = 128,
    interpolation: Annotated[
        Interpolation, typer.Option(help="Interpolation that resizes crops.")
    ] = "area",
) -> None:
    """Make a run folder of a network that others trained."""
    from adapt.recipes import load_recipe
    from adapt.runs.spec import RunSpec
    from adapt.workflows.import_weights import import_weights

    spec = RunSpec(
        kind="import",
        recipe=load_recipe("source", method="source"),
        recipe_name="import",
        seed=0,
        backbone=backbone,
        preprocessing=Preprocessing(height=height, width=width, interpolation=interpolation),
        weights=weights,
    )
    run = import_weights(spec, out)
    tell(f"imported {backbone}:")
    typer.echo(run.path)

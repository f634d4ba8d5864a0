"""Commands on registered models, and on the model of a site."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperOption

from adapt.data.catalog.image_files import left_out_lines
from cli.common import AsJson, ServerOption, SiteOption, print_json, short_time, table, tell
from cli.sites import DropUnusable, show_rollover
from models.errors import ModelError, RegistryError
from models.image import Interpolation
from models.manifest import Manifest
from models.registry import ModelReference, Registry
from models.wording import reason_of
from service.client import DEFAULT_SERVER, CallFailedError, ClientError, ResightClient
from service.config import default_registry
from service.types import RolloverProgress

RegistryOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of registered models; default: resight/models in ~/.local/share.",
        envvar="RESIGHT_REGISTRY",
    ),
]

Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Activate the model even if its verdict is reject, unjudged or damaged."
    ),
]

models = typer.Typer(help="Registered models.", no_args_is_help=True)


@models.command("list")
def models_list(registry: RegistryOption = None, as_json: AsJson = False) -> None:
    """List the registered models."""
    known = Registry(registry or default_registry())
    found: list[tuple[ModelReference, Manifest | ModelError, str]] = []
    for reference in known.references():
        gate = known.gate_record(reference)
        try:
            found.append((reference, known.resolve(str(reference)).manifest, gate.verdict))
        except ModelError as error:
            found.append((reference, error, gate.verdict))
            tell(f"damaged: {reference}: {error}")
        if gate.problem:
            tell(f"{gate.verdict}: verdict on {reference}: {gate.problem}")
    for line in left_out_lines(known.no_models()):
        tell(line)
    found.sort(key=lambda each: isinstance(each[1], ModelError))  # sound ones first
    if as_json:
        print_json([_model_json(*each) for each in found])
    elif not found:
        tell(f"no models in {known.root}; add one with `resight models add BUNDLE`")
    else:
        header = [
            "model",
            "dimension",
            "input",
            "backbone",
            "method",
            "created",
            "verdict",
            "state",
        ]
        rows = [_model_row(*each) for each in found]
        typer.echo(table(header, rows, right=[1]))


def _model_json(
    reference: ModelReference, manifest: Manifest | ModelError, verdict: str
) -> dict[str, object]:
    if isinstance(manifest, ModelError):
        return {"name": reference.name, "version": reference.version, "error": str(manifest)}
    return {
        "name": manifest.name,
        "version": manifest.version,
        "dimension": manifest.dimension,
        "height": manifest.preprocessing.height,
        "width": manifest.preprocessing.width,
        "decoder": manifest.preprocessing.decoder,
        "backbone": manifest.backbone,
        "method": manifest.method,
        "scores": dict(manifest.scores),
        "created": manifest.created.isoformat(),
        "verdict": verdict,
    }


def _model_row(
    reference: ModelReference, manifest: Manifest | ModelError, verdict: str
) -> list[str]:
    if isinstance(manifest, ModelError):
        return [str(reference), "", "", "", "", "", "", "damaged"]
    return [
        manifest.reference,
        str(manifest.dimension),
        f"{manifest.preprocessing.height}x{manifest.preprocessing.width}",
        manifest.backbone,
        manifest.method,
        short_time(manifest.created),
        verdict,
        "",
    ]


@models.command("add")
def models_add(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    registry: RegistryOption = None,
) -> None:
    """Verify a bundle and copy it into the registry, with its verdict, BUNDLE.gate.json."""
    known = Registry(registry or default_registry())
    try:
        added = known.add(bundle)
    except OSError as error:
        raise RegistryError(
            f"cannot write to the registry {known.root}: {reason_of(error)}; allow this, or choose "
            "another one with --registry or RESIGHT_REGISTRY"
        ) from error
    if verdict := known.gate_record(ModelReference.parse(added.reference)).verdict:
        tell(f"the gate's verdict on it: {verdict}")
    tell(f"added to {added.path}:")
    typer.echo(added.reference)


@models.command("verify")
def models_verify(
    model: Annotated[str, typer.Argument(help="Name, or name@version.")],
    registry: RegistryOption = None,
) -> None:
    """Compare the files of a registered model with their hashes, and run its self-test."""
    from service.embedding.engine import OnnxEngine

    bundle = Registry(registry or default_registry()).verify(model)
    OnnxEngine.load(bundle, provider="cpu", threads=0)
    tell("its files match their hashes, and its self-test passed:")
    typer.echo(bundle.reference)


@models.command("activate")
def models_activate(
    model: Annotated[str, typer.Argument(help="Name, or name@version, in the server's registry.")],
    site: SiteOption,
    drop_unusable: DropUnusable = False,
    force: Force = False,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Re-embed a site's kept crops with a registered model, and use it for the site."""
    with ResightClient(server) as client:
        steps = client.activate_model(site, model, drop_unusable=drop_unusable, force=force)
        _show_judged_rollover(client, site, steps)


@models.command("rollback")
def models_rollback(
    site: SiteOption,
    drop_unusable: DropUnusable = False,
    force: Force = False,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Roll a site back to the model that it used before."""
    with ResightClient(server) as client:
        steps = client.rollback_model(site, drop_unusable=drop_unusable, force=force)
        _show_judged_rollover(client, site, steps)


def _show_judged_rollover(
    client: ResightClient, site: str, steps: Iterator[RolloverProgress]
) -> None:
    """Show a rollover, and at the end what the gate said about the model."""
    try:
        step = show_rollover(client, site, steps)
    except CallFailedError as error:
        if error.reason == "MODEL_REJECTED":
            raise ClientError(f"{error} (--force)") from error
        raise
    if step.verdict:
        of = f"{step.site.model} is of {step.adaptation or 'an unknown adaptation'}"
        tell(f"{of}; the gate's verdict: {step.verdict}")
    else:
        tell(f"{step.site.model} was not judged by the gate")


class NumbersWithCommas(TyperCommand):
    """A command that takes three numbers as one word with commas too, as its help shows them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Split "--mean 1,2,3", "--mean=1,2,3" and "--mean 1, 2, 3" into "--mean 1 2 3"."""
        several = {
            name: parameter.nargs
            for parameter in self.params
            if isinstance(parameter, TyperOption) and parameter.nargs > 1
            for name in parameter.opts
        }
        words: list[str] = []
        missing = 0
        for word in args:
            option, _, value = word.partition("=")
            if option in several:
                words.append(option)
                missing = several[option]
            elif missing <= 0:
                words.append(word)
                continue
            numbers = (value if option in several else word).split(",")
            found = [number.strip() for number in numbers if number.strip()]
            words += found
            missing -= len(found)
        return super().parse_args(ctx, words)


@models.command("wrap", cls=NumbersWithCommas)
def models_wrap(
    onnx: Annotated[Path, typer.Argument(help="ONNX file with one input of images.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to write; must not exist.")],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    version: Annotated[str, typer.Option(help="Version of the model.")] = "1",
    channel_order: Annotated[
        Literal["rgb", "bgr"], typer.Option(help="Channel order that the model expects.")
    ] = "rgb",
    scale: Annotated[
        float, typer.Option(help="Factor on pixels of 0 to 255, before the mean.")
    ] = 1.0,
    mean: Annotated[
        tuple[float, float, float],
        typer.Option(
            help="Mean to subtract from each channel, after the scale: 0.485,0.456,0.406 or three "
            "words."
        ),
    ] = (0.0, 0.0, 0.0),
    std: Annotated[
        tuple[float, float, float],
        typer.Option(help="Divisor of each channel, after the mean; written like the mean."),
    ] = (1.0, 1.0, 1.0),
    height: Annotated[
        int | None, typer.Option(help="Input height in pixels, if the graph does not fix it.")
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Input width in pixels, if the graph does not fix it.")
    ] = None,
    interpolation: Annotated[
        Interpolation, typer.Option(help="Interpolation that resizes crops.")
    ] = "area",
    output: Annotated[
        str | None, typer.Option(help="Output to use, if the graph has several.")
    ] = None,
) -> None:
    """Make a bundle from a foreign ONNX model. Needs the package onnx."""
    from models.foreign_graph import InputConvention
    from models.wrap import GraphOptions, wrap_onnx

    wrapped = wrap_onnx(
        onnx,
        out,
        name=name,
        version=version,
        created=datetime.now(UTC),
        convention=InputConvention(channel_order=channel_order, scale=scale, mean=mean, std=std),
        options=GraphOptions(
            height=height, width=width, interpolation=interpolation, output=output
        ),
    )
    bundle = wrapped.bundle
    for change in wrapped.changes:
        tell(f"changed: {change}")
    tell(f"wrapped {onnx} as {bundle.reference} ({bundle.manifest.dimension}-d):")
    typer.echo(out)

"""Commands that train and judge models: pretrain, adapt, export, evaluate, recipes.

torch is imported inside the commands: the rest of `resight` runs without it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapt.evaluation.protocols import ProtocolName
from cli.common import METHOD_HELP, plural, print_json, tell
from cli.planning import plan_text
from models.image import Interpolation, Preprocessing

if TYPE_CHECKING:
    from adapt.data.catalog.splits import Split
    from adapt.evaluation.metrics import RetrievalScores
    from adapt.runs.folder import Run
    from adapt.runs.spec import RunSpec
    from adapt.runtime.context import RunContext
    from adapt.runtime.distributed import ProcessGroup

log = logging.getLogger("resight")

Recipe = Annotated[str, typer.Option(help="Built-in recipe, or a .toml file.")]
RecipeOfMethod = Annotated[
    str | None, typer.Option(help="Built-in recipe or .toml file; default: the method's.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a value of the recipe: optimizer.lr=1e-4; repeatable."),
]
Out = Annotated[Path | None, typer.Option(help="Run folder to write; must not contain a network.")]
Resume = Annotated[
    Path | None,
    typer.Option(help="Run folder of a stopped or crashed run to resume."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]
Target = Annotated[
    Path | None,
    typer.Option(help="Folder of the site's crops, or a manifest; no labels are read."),
]
Inits = Annotated[
    list[Path] | None,
    typer.Option(help="Run folder of a pre-trained network; two seeds, one for hli and daal."),
]
CameraPattern = Annotated[
    str | None, typer.Option(help="Regular expression that finds the camera in a crop's path.")
]
HoldBack = Annotated[float, typer.Option(help="Share of the crops to leave out, for `gate`.")]
Validation = Annotated[
    Path | None,
    typer.Option(help="Labelled set to score after each round; it does not affect training."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the application."""
    app.command()(pretrain)
    app.command()(adapt)
    app.command()(export)
    app.command()(evaluate)
    app.command()(recipes)


def pretrain(
    ctx: typer.Context,
    source: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of labelled crops, see docs/data.md; repeatable."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Backbone, e.g. resnet50_ibn_a; see docs/models.md.")
    ] = None,
    out: Out = None,
    weights: Annotated[
        str | None,
        typer.Option(help="State dict file, run folder, or `torchvision` (ImageNet, downloaded)."),
    ] = None,
    height: Annotated[int, typer.Option(min=8, max=2048, help="Input height in pixels.")] = 256,
    width: Annotated[int, typer.Option(min=8, max=2048, help="Input width in pixels.")] = 128,
    interpolation: Annotated[
        Interpolation, typer.Option(help="Interpolation that resizes crops.")
    ] = "area",
    all_splits: Annotated[
        bool, typer.Option(help="Also train on query and gallery crops.")
    ] = False,
    recipe: Recipe = "source",
    overrides: Overrides = None,
    seed: Seed = 1,
    device: Device = "auto",
    validation: Validation = None,
    resume: Resume = None,
) -> None:
    """Train a network on labelled source crops."""
    from adapt.recipes import load_recipe, recipe_label
    from adapt.runs.spec import RunSpec
    from adapt.workflows.pretrain import pretrain as run_pretrain

    if resume is not None:
        _resume(ctx, resume, device, "pretrain")
        return
    if source is None or backbone is None or out is None:
        raise typer.BadParameter("give --source, --backbone and --out, or --resume RUN")
    spec = RunSpec(
        kind="pretrain",
        recipe=load_recipe(recipe, method="source", overrides=overrides or ()),
        recipe_name=recipe_label(recipe, overrides or ()),
        seed=seed,
        backbone=backbone,
        preprocessing=Preprocessing(height=height, width=width, interpolation=interpolation),
        weights=weights,
        sources=tuple(source),
        splits=_splits(all_splits),
        validation=validation,
    )
    with _context(device) as context:
        run = run_pretrain(spec, context, out)
    _say_finished(run, context.group)


# long: one parameter for each option
def adapt(
    ctx: typer.Context,
    method: Annotated[str | None, typer.Option(help=METHOD_HELP)] = None,
    target: Target = None,
    init: Inits = None,
    out: Out = None,
    source: Annotated[
        list[Path] | None,
        typer.Option(help="Labelled crops as in `pretrain`, for DAAL; repeatable."),
    ] = None,
    all_splits: Annotated[
        bool, typer.Option(help="Also use query and gallery crops of --source.")
    ] = False,
    camera_pattern: CameraPattern = None,
    hold_back: HoldBack = 0.0,
    recipe: RecipeOfMethod = None,
    overrides: Overrides = None,
    seed: Seed = 1,
    device: Device = "auto",
    validation: Validation = None,
    keep_rounds: Annotated[
        bool, typer.Option("--keep-rounds", help="Keep the network of every round.")
    ] = False,
    resume: Resume = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Print the run, its time, memory and disk; write nothing."),
    ] = False,
) -> None:
    """Adapt pre-trained networks to a site's own unlabelled crops."""
    from adapt.errors import ConfigError
    from adapt.methods import METHODS
    from adapt.recipes import load_recipe, recipe_label
    from adapt.runs.spec import RunSpec

    if resume is not None:
        _resume(ctx, resume, device, "adapt", target)
        return
    if method is None or target is None or init is None or out is None:
        raise typer.BadParameter("give --method, --target, --init and --out, or --resume RUN")
    if method not in METHODS:
        raise ConfigError(f"no method {method!r}; choose one of: {', '.join(METHODS)}")
    name = recipe or method
    spec = RunSpec(
        kind="adapt",
        recipe=load_recipe(name, method=method, overrides=overrides or ()),
        recipe_name=recipe_label(name, overrides or ()),
        seed=seed,
        inits=tuple(init),
        target=target,
        camera_pattern=camera_pattern,
        hold_back=hold_back,
        sources=tuple(source or ()),
        splits=_splits(all_splits),
        validation=validation,
        keep_rounds=keep_rounds,
    )
    if plan:
        _print_plan(spec, device, out)
    else:
        _adapt(spec, device, out)


def export(
    run: Annotated[Path, typer.Option(help="Run folder.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to write; must not exist.")],
    name: Annotated[
        str | None,
        typer.Option(help="Name of the model; default: from the name of the bundle folder."),
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the model.")] = "1",
    round_number: Annotated[
        int | None,
        typer.Option("--round", help="Number of a kept round; default: the last network."),
    ] = None,
) -> None:
    """Export the network of a run as an ONNX bundle and prove that both agree."""
    from adapt.runs.folder import Run
    from adapt.workflows.export import bundle_name, export_run
    from models.bundle import refuse_unwritable_bundle

    refuse_unwritable_bundle(out)
    bundle = export_run(
        Run.open(run),
        out,
        name=name or bundle_name(out),
        version=version,
        round_number=round_number,
    )
    tell(f"exported {bundle.manifest.reference}:")
    typer.echo(out)


def evaluate(
    model: Annotated[Path | None, typer.Option(help="Run folder or bundle.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of labelled crops, see docs/data.md.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help=".npz of features, instead of --model and --data.")
    ] = None,
    protocol: Annotated[
        ProtocolName,
        typer.Option(
            help="What is set aside: the query's person in its camera, all of its camera, or the "
            "query alone."
        ),
    ] = "market",
    center_cameras: Annotated[
        bool, typer.Option(help="Subtract each camera's mean feature first (a control).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: Device = "auto",
) -> None:
    """Score a model, or ready features, by mAP and CMC."""
    if features is not None:
        if model is not None or data is not None:
            raise typer.BadParameter("give --features, or --model and --data, not both")
        scores = _score_features(features, protocol, center_cameras)
    elif model is not None and data is not None:
        scores = _score_model(model, data, protocol, center_cameras, device)
    else:
        raise typer.BadParameter("give --model and --data, or --features")
    for doubt in scores.doubts():
        log.warning("%s", doubt)
    if as_json:
        print_json(scores.to_dict())
        return
    typer.echo(f"protocol {scores.protocol}: {scores.in_words()}")
    for label in ("mAP", "cmc1", "cmc5", "cmc10"):
        typer.echo(f"  {label:<6}{scores.to_dict()[label]:.4f}")


def recipes(
    tasks: Annotated[
        bool, typer.Option("--tasks", help="List the papers' tasks for `reproduce` instead.")
    ] = False,
) -> None:
    """List the recipes that come with resight."""
    from adapt.recipes import describe_recipes
    from adapt.recipes.papers import describe_tasks

    if tasks:
        for name, figures in describe_tasks():
            typer.echo(f"{name:<38}{figures}")
        return
    for name, source in describe_recipes():
        typer.echo(f"{name:<16}{source}")


def _adapt(spec: RunSpec, device: str, out: Path) -> None:
    from adapt.workflows.adapt import adapt as run_adapt

    with _context(device) as context:
        run = run_adapt(spec, context, out)
    _say_finished(run, context.group)


def _print_plan(spec: RunSpec, device: str, out: Path) -> None:
    from adapt.runtime.distributed import refuse_several
    from adapt.workflows.plan import plan_adaptation

    refuse_several("a plan")
    with _context(device) as context:
        typer.echo(plan_text(plan_adaptation(spec, context, out)))


def _resume(
    ctx: typer.Context, path: Path, device: str, kind: str, target: Path | None = None
) -> None:
    """Resume a run; only its device and the folder of its crops may change."""
    from adapt.errors import ConfigError
    from adapt.runs.folder import Run
    from adapt.workflows.resume import resume

    given = [
        next(name for name in parameter.opts if name.startswith("--"))
        for parameter in ctx.command.params
        if parameter.name not in ("resume", "device", "target") and _given(ctx, str(parameter.name))
    ]
    if given:
        raise ConfigError(
            f"--resume keeps the settings of the run: leave out {', '.join(given)}, or "
            "start a new run in another --out"
        )
    info = Run.open(path).info
    if info.kind == "import":
        raise ConfigError(f"{path} holds an imported network: there is no training to resume")
    if info.kind != kind:
        raise ConfigError(f"{path} is a run of {info.kind}: use resight {info.kind} --resume")
    wanted = device if _given(ctx, "device") else info.device
    with _context(wanted) as context:
        run = resume(path, context, target=target)
    _say_finished(run, context.group)


def _given(ctx: typer.Context, parameter: str) -> bool:
    source = ctx.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def _say_finished(run: Run, group: ProcessGroup) -> None:
    if not group.is_main:
        return
    info = run.info
    adapted = info.kind == "adapt"
    what = f"adapted by {info.method}" if adapted else f"pre-trained {info.backbone}"
    tell(f"{what} in {info.seconds:.0f} s{_warned(run)}:")
    typer.echo(run.path)


def _warned(run: Run) -> str:
    rounds = run.metrics()
    warned = [row["round"] for row in rounds if row["warnings"]]
    if not warned:
        return ""
    of_rounds = f"{len(warned)} of {plural(len(rounds), 'round')}"
    return f", warnings in {of_rounds}, the last one in {warned[-1]}"


def _splits(everything: bool) -> tuple[Split, ...]:
    return ("train", "query", "gallery") if everything else ("train",)


@contextmanager
def _context(device: str) -> Iterator[RunContext]:
    """Device and process group of a run; SIGTERM asks it to stop."""
    from adapt.runtime.context import RunContext, stopped_by_sigterm
    from adapt.runtime.distributed import join

    picked, group = join(device)
    with stopped_by_sigterm() as stop:
        yield RunContext(picked, group, stop)
    group.shutdown()


def _score_features(path: Path, protocol: ProtocolName, centering: bool) -> RetrievalScores:
    from adapt.evaluation.scoring import score_features

    return score_features(path, protocol=protocol, camera_centering=centering)


def _score_model(
    model: Path, data: Path, protocol: ProtocolName, centering: bool, device: str
) -> RetrievalScores:
    from adapt.evaluation.scoring import LabelledCrops, open_model

    embed, preprocessing = open_model(model, device)
    labelled = LabelledCrops.read(data, preprocessing)
    labelled.check(protocol)
    return labelled.score(embed, protocol=protocol, camera_centering=centering)

"""`resight demo`: the main job from nothing to a searched gallery, on synthetic sites."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from cli.demo_report import DemoResult, Served, print_result, write_report, write_summary
from cli.local_server import local_server
from service.client import CallFailedError, ResightClient
from service.types import NewSighting, SightingFilter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from adapt.config import Recipe
    from adapt.evaluation.scoring import LabelledCrops
    from adapt.runs.folder import Run
    from adapt.runs.spec import RunSpec
    from adapt.synthetic import SiteSpec
    from adapt.types import CropSet
    from models.image import Preprocessing

log = logging.getLogger("resight")

MARKER = ".resight-demo"
SEARCHES = 40
ANSWERS = 10


@dataclass(frozen=True)
class DemoPlan:
    """What a demo is made of.

    source, site: what is rendered; the demo's seed is worked into theirs.
    weights: what the source networks start from, as `RunSpec.weights`.
    """

    source: SiteSpec
    site: SiteSpec
    source_recipe: Recipe
    site_recipe: Recipe
    backbone: str
    preprocessing: Preprocessing
    weights: str | None = None


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier demo there is replaced.")],
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the whole demo.")] = 1,
) -> None:
    """Pre-train, adapt, export, serve, enroll and search: minutes, nothing downloaded."""
    run_demo(demo_plan(), out, seed)


def demo_plan() -> DemoPlan:
    """What `resight demo` carries out."""
    from adapt.recipes import load_recipe
    from adapt.synthetic import SITE_A, SITE_B
    from models.image import Preprocessing

    return DemoPlan(
        source=SITE_A,
        site=SITE_B,
        source_recipe=load_recipe("source_demo", method="source"),
        site_recipe=load_recipe("mmt_demo", method="mmt"),
        backbone="resnet18_ibn_a",
        preprocessing=Preprocessing(height=64, width=32),
    )


def run_demo(plan: DemoPlan, out: Path, seed: int) -> None:
    """Carry out a plan; leaves sites, runs, bundle, summary.json and report.html in `out`.

    Raises RunError when `out` holds something that no demo made.
    """
    from adapt.evaluation.scoring import LabelledCrops, network_embedder
    from adapt.runtime.device import pick_device
    from adapt.runtime.timing import Stages

    _clear(out)
    stages = Stages()
    device = pick_device("cpu")
    with stages("render", "two synthetic sites with different people, cameras and weather"):
        source, site = _render(plan, out, seed)
    with stages("pretrain", f"two {plan.backbone} on the labelled crops of site A"):
        inits = [_pretrain(plan, source, out / f"source-{n}", source_seed(n, seed)) for n in (1, 2)]
    with stages("adapt", "MMT on the unlabelled crops of site B"):
        adapted = _adapt(plan, site, inits, out / "adapted", seed)
    with stages("evaluate", "people of site B that adaptation never saw"):
        labelled = LabelledCrops.read(site, adapted.info.preprocessing)
        runs = {"unadapted": inits[0], "adapted": adapted}
        embeddings = {}
        for name, run in runs.items():
            embed = network_embedder(run.network(), device)
            embeddings[name] = (embed(labelled.query.images), embed(labelled.gallery.images))
        scores = {name: labelled.rank(*vectors) for name, vectors in embeddings.items()}
    with stages("export", "the adapted network to ONNX"):
        bundle = _export(adapted, out / "bundle")
    with stages("serve", "enroll the gallery over gRPC and search it"):
        served = _serve_and_search(bundle, out / "service", labelled, embeddings["adapted"])
    result = DemoResult(
        seed=seed,
        scores=scores,
        served=served,
        seconds=stages.seconds,
        labelled=labelled,
        embeddings=embeddings,
        source=inits[0],
        adapted=adapted,
        sites={"site A, the source": source, "site B, adapted to": site},
    )
    write_summary(out, result)
    write_report(out, result)
    print_result(out, result)


def _clear(out: Path) -> None:
    """Make `out` anew; only a folder that a demo made is ever deleted."""
    import shutil

    from adapt.errors import RunError

    if out.exists() and not (out / MARKER).is_file():
        if not out.is_dir() or any(out.iterdir()):
            raise RunError(f"{out} holds something that is not a demo; choose another --out")
    elif out.exists():
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make {out}: {error.strerror}; choose another --out") from None
    (out / MARKER).write_text("This folder was made by `resight demo`, which may delete it.\n")


def _render(plan: DemoPlan, out: Path, seed: int) -> tuple[Path, Path]:
    from adapt.synthetic import render_site

    source, site = site_specs(plan, seed)
    for name, spec in (("site-a", source), ("site-b", site)):
        log.info("%s: %s", name, render_site(spec, out / name).sentence)
    return out / "site-a", out / "site-b"


def site_specs(plan: DemoPlan, seed: int) -> tuple[SiteSpec, SiteSpec]:
    """Source and site of one demo, its seed worked in."""
    source, site = (replace(s, seed=s.seed + 1000 * seed) for s in (plan.source, plan.site))
    return source, site


def source_seed(number: int, seed: int) -> int:
    """Seed of source network 1 or 2 of a demo."""
    return 1000 * number + seed


def source_spec(plan: DemoPlan, source: Path, seed: int) -> RunSpec:
    """The run that trains one source network of a plan."""
    from adapt.runs.spec import RunSpec

    return RunSpec(
        kind="pretrain",
        recipe=plan.source_recipe,
        recipe_name="source_demo",
        seed=seed,
        backbone=plan.backbone,
        preprocessing=plan.preprocessing,
        weights=plan.weights,
        sources=(source,),
    )


def _pretrain(plan: DemoPlan, source: Path, out: Path, seed: int) -> Run:
    from adapt.runtime.context import RunContext
    from adapt.runtime.device import pick_device
    from adapt.workflows.pretrain import pretrain

    return pretrain(source_spec(plan, source, seed), RunContext(pick_device("cpu")), out)


def _adapt(plan: DemoPlan, site: Path, inits: Sequence[Run], out: Path, seed: int) -> Run:
    from adapt.runs.spec import RunSpec
    from adapt.runtime.context import RunContext
    from adapt.runtime.device import pick_device
    from adapt.workflows.adapt import adapt

    spec = RunSpec(
        kind="adapt",
        recipe=plan.site_recipe,
        recipe_name="mmt_demo",
        seed=seed,
        inits=tuple(run.path for run in inits),
        target=site,
        validation=site,
    )
    return adapt(spec, RunContext(pick_device("cpu")), out)


def _export(run: Run, out: Path) -> Path:
    from adapt.workflows.export import export_run

    export_run(run, out, name="demo", version="1")
    return out


def _serve_and_search(
    bundle: Path,
    data_dir: Path,
    labelled: LabelledCrops,
    embeddings: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> Served:
    """Enroll the gallery, search in the other cameras, and compare with our own ranking."""
    gallery, query = labelled.gallery.crops, labelled.query.crops
    with local_server(bundle, data_dir) as address, ResightClient(address) as client:
        client.create_site("demo")
        new = (
            NewSighting(s.path.read_bytes(), camera=gallery.cameras[s.camera], id=f"g{row}")
            for row, s in enumerate(gallery.samples)
        )
        results = list(client.enroll("demo", new))
        failed = [r for r in results if isinstance(r, CallFailedError)]
        if failed:
            raise failed[0]
        rows = np.unique(np.linspace(0, len(query) - 1, SEARCHES).round().astype(int))
        same = right = without = 0
        for row in rows:
            sample = query.samples[row]
            camera = query.cameras[sample.camera]
            others = SightingFilter(exclude_cameras=(camera,))
            image = sample.path.read_bytes()
            answer = client.search("demo", image, limit=ANSWERS, wanted=others)
            found = [int(match.sighting.id[1:]) for match in answer.matches]
            same += found == _expected(labelled, embeddings, int(row), camera)
            if not _in_another_camera(gallery, sample.person, camera):
                without += 1
            elif found:
                right += gallery.samples[found[0]].person == sample.person
    first_right = right / max(1, len(rows) - without)
    return Served(len(results), len(rows), same, ANSWERS, first_right, without)


def _in_another_camera(gallery: CropSet, person: int, camera: str) -> bool:
    return person >= 0 and any(
        sample.person == person and gallery.cameras[sample.camera] != camera
        for sample in gallery.samples
    )


def _expected(
    labelled: LabelledCrops,
    embeddings: tuple[NDArray[np.float32], NDArray[np.float32]],
    row: int,
    camera: str,
) -> list[int]:
    query, gallery = embeddings
    crops = labelled.gallery.crops
    score = gallery @ query[row]
    score[[crops.cameras[s.camera] == camera for s in crops.samples]] = -np.inf
    return [int(i) for i in np.argsort(-score, kind="stable")[:ANSWERS]]

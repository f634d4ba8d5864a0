"""`resight demo`: the main job from nothing to a searched gallery, on synthetic sites."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from cli.local_server import local_server
from service.client import CallFailedError, ResightClient
from service.types import NewSighting, SightingFilter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from adapt.evaluate.metrics import RetrievalScores
    from adapt.runs import Run
    from adapt.scoring import LabelledCrops

log = logging.getLogger("resight")

BACKBONE = "resnet18"
HEIGHT, WIDTH = 64, 32
SOURCE_RECIPE, SITE_RECIPE = "source_demo", "mmt_demo"
MARKER = ".resight-demo"
SEARCHES = 40
ANSWERS = 10


@dataclass
class _Stages:
    """Seconds per stage, announced as they start."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str, what: str) -> Iterator[None]:
        log.info("== %s: %s", name, what)
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 2)


@dataclass(frozen=True)
class _Served:
    """What the searches over gRPC gave."""

    enrolled: int
    searches: int
    same_ranking: int
    first_right: float


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier demo there is replaced.")],
    seed: Annotated[int, typer.Option(min=0, help="Of sites, networks and batches.")] = 1,
) -> None:
    """Pre-train, adapt, export, serve, enroll and search: minutes, nothing downloaded."""
    from adapt.runs import pick_device
    from adapt.scoring import LabelledCrops, network_embedder

    _clear(out)
    stages = _Stages()
    device = pick_device("cpu")
    with stages("render", "two synthetic sites with different people, cameras and weather"):
        source, site = _render(out, seed)
    with stages("pretrain", f"two {BACKBONE} on the labelled crops of site A"):
        inits = [_pretrain(source, out / f"source-{n}", 1000 * n + seed) for n in (1, 2)]
    with stages("adapt", "MMT on the unlabelled crops of site B"):
        adapted = _adapt(site, inits, out / "adapted", seed)
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
    _write_summary(out, seed, scores, served, stages.seconds)
    _write_report(out, seed, scores, served, labelled, embeddings, adapted, stages.seconds)
    _tell(out, scores, served, stages.seconds)


def _clear(out: Path) -> None:
    """Make `out` anew; only a folder that a demo made is ever deleted."""
    import shutil

    from adapt.errors import RunError

    if out.exists() and not (out / MARKER).is_file():
        if not out.is_dir() or any(out.iterdir()):
            raise RunError(f"{out} holds something that is no demo; choose another --out")
    elif out.exists():
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make {out}: {error.strerror}; choose another --out") from None
    (out / MARKER).write_text("This folder was made by `resight demo`, which may delete it.\n")


def _render(out: Path, seed: int) -> tuple[Path, Path]:
    from adapt.data.synthetic import SITE_A, SITE_B, render_site

    roots = []
    for name, spec in (("site-a", SITE_A), ("site-b", SITE_B)):
        spec = replace(spec, seed=spec.seed + 1000 * seed)
        log.info("%s: %s", name, render_site(spec, out / name))
        roots.append(out / name)
    return roots[0], roots[1]


def _pretrain(source: Path, out: Path, seed: int) -> Run:
    from adapt.recipes import load_recipe
    from adapt.runs import pick_device
    from adapt.training import Machine, pretrain
    from models.image import Preprocessing

    return pretrain(
        [source],
        splits=("train",),
        backbone=BACKBONE,
        weights=None,
        preprocessing=Preprocessing(height=HEIGHT, width=WIDTH),
        recipe=load_recipe(SOURCE_RECIPE, method="source"),
        recipe_name=SOURCE_RECIPE,
        out=out,
        machine=Machine(pick_device("cpu"), seed),
    )


def _adapt(site: Path, inits: Sequence[Run], out: Path, seed: int) -> Run:
    from adapt.recipes import load_recipe
    from adapt.runs import pick_device
    from adapt.training import Machine, adapt

    return adapt(
        site,
        camera_pattern=None,
        inits=[run.path for run in inits],
        recipe=load_recipe(SITE_RECIPE, method="mmt"),
        recipe_name=SITE_RECIPE,
        out=out,
        machine=Machine(pick_device("cpu"), seed),
        validation=site,
    )


def _export(run: Run, out: Path) -> Path:
    from adapt.export import export_run

    export_run(run, out, name="demo", version="1")
    return out


def _serve_and_search(
    bundle: Path,
    data_dir: Path,
    labelled: LabelledCrops,
    embeddings: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> _Served:
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
        same = right = 0
        for row in rows:
            sample = query.samples[row]
            camera = query.cameras[sample.camera]
            others = SightingFilter(exclude_cameras=(camera,))
            image = sample.path.read_bytes()
            answer = client.search("demo", image, limit=ANSWERS, wanted=others)
            found = [int(match.sighting.id[1:]) for match in answer.matches]
            same += found == _expected(labelled, embeddings, int(row), camera)
            right += gallery.samples[found[0]].person == sample.person
    return _Served(len(results), len(rows), same, right / len(rows))


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


def _write_summary(
    out: Path,
    seed: int,
    scores: Mapping[str, RetrievalScores],
    served: _Served,
    seconds: Mapping[str, float],
) -> None:
    summary = {
        **{name: {"mAP": s.mAP, "cmc1": s.cmc(1)} for name, s in scores.items()},
        "served": {
            "enrolled": served.enrolled,
            "searches": served.searches,
            "same_ranking_as_evaluate": served.same_ranking,
            "first_answer_right": served.first_right,
        },
        "seconds": {**seconds, "total": round(sum(seconds.values()), 2)},
        "seed": seed,
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def _write_report(
    out: Path,
    seed: int,
    scores: Mapping[str, RetrievalScores],
    served: _Served,
    labelled: LabelledCrops,
    embeddings: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
    adapted: Run,
    seconds: Mapping[str, float],
) -> None:
    from adapt.report import compare_rankings, curves, render

    before, after = scores["unadapted"], scores["adapted"]
    page = render(
        title="resight demo",
        lead=f"Adapted to a new site without labels: mAP {before.mAP:.3f} before, "
        f"{after.mAP:.3f} after, on people that adaptation never saw.",
        table=[
            ("model", "mAP", "CMC-1", "CMC-5", "CMC-10"),
            *(
                (name, f"{s.mAP:.3f}", *(f"{s.cmc(k):.3f}" for k in (1, 5, 10)))
                for name, s in scores.items()
            ),
        ],
        curves_svg=curves(
            adapted.metrics(),
            {
                "mAP and CMC-1 on unseen people": ("val_mAP", "val_cmc1"),
                "training loss": ("loss",),
                "agreement with the labels before": ("agreement",),
                "clusters that span cameras": ("cross_camera_share",),
            },
        ),
        comparisons=compare_rankings(labelled, embeddings, queries=12, answers=ANSWERS),
        facts={
            "searches over gRPC": f"{served.same_ranking} of {served.searches} gave the same "
            f"{ANSWERS} answers as the evaluation; {served.first_right:.0%} found the person first",
            "enrolled": f"{served.enrolled} crops",
            "backbone": f"{BACKBONE}, {HEIGHT}x{WIDTH}",
            "recipes": f"{SOURCE_RECIPE}, {SITE_RECIPE}",
            "labels in the last round": str(adapted.metrics()[-1]["labels"]),
            "seed": str(seed),
            "seconds": ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()),
            "versions": ", ".join(f"{k} {v}" for k, v in adapted.info.versions.items()),
            "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        },
    )
    (out / "report.html").write_text(page)


def _tell(
    out: Path, scores: Mapping[str, RetrievalScores], served: _Served, seconds: Mapping[str, float]
) -> None:
    typer.echo("\npeople of site B never seen in adaptation      mAP   CMC-1")
    for name, s in scores.items():
        typer.echo(f"  {name:<42} {s.mAP:.3f}   {s.cmc(1):.3f}")
    typer.echo(
        f"served: {served.enrolled} crops enrolled over gRPC, {served.same_ranking} of "
        f"{served.searches} searches rank as evaluated"
    )
    typer.echo(f"{sum(seconds.values()):.0f} s in all; open {out / 'report.html'}")

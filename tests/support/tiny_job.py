"""A job for a server's process, of a size that takes seconds: two networks, some crops."""

from __future__ import annotations

from pathlib import Path

from models.job_contract import Job
from tests.support.tiny_sets import write_market
from tests.support.tiny_site import KMEANS, SHORT, source_run

OVERRIDES = (*SHORT, *KMEANS)


def tiny_inits(root: Path) -> list[Path]:
    """Run folders of two source networks."""
    source = write_market(root / "source", persons=3)
    return [source_run(source, root / f"source-{seed}", seed).path for seed in (1, 2)]


def write_crops(folder: Path) -> Path:
    """Crops of six people, a folder for each of two cameras; gives `folder`."""
    crops = write_market(folder.with_name(f"{folder.name}-set"), seed=1) / "bounding_box_train"
    for path in sorted(crops.iterdir()):
        camera = folder / path.name.split("_")[1][:2]
        camera.mkdir(parents=True, exist_ok=True)
        path.rename(camera / path.name)
    return folder


def write_job(folder: Path, inits: list[Path]) -> Path:
    """A folder as the server prepares it; gives `folder`."""
    write_crops(folder / "crops")
    job = Job(
        method="mmt",
        recipe="mmt_small",
        overrides=OVERRIDES,
        seed=3,
        device="cpu",
        inits=tuple(inits),
        sources=(),
        hold_back=0.1,
        name="lobby",
        version="2",
    )
    job.write(folder)
    return folder

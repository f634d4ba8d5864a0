"""A finished adaptation of a site whose folders and files have nasty names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.tiny_sets import write_market

if TYPE_CHECKING:
    from adapt.runs.folder import Run

HOSTILE = '<img src=x onerror=alert(1)>"&'
ROUNDS = ("schedule.rounds=2",)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source run, and an adaptation to a site whose folders and files have nasty names.

    Of thin networks: who reads them needs the fixture `thin`."""
    from adapt.recipes import load_recipe
    from adapt.workflows.adapt import adapt
    from tests.support.specs import adapt_spec, on_cpu
    from tests.support.thin_trunks import thin_trunks
    from tests.support.tiny_site import KMEANS, SHORT, source_run

    root = tmp_path_factory.mktemp("home")
    market = write_market(root / "market", persons=6, seed=1)
    for file in sorted((market / "bounding_box_train").iterdir()):
        camera = file.name[5:7] + HOSTILE.replace("/", "")
        place = root / "site" / camera / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    (root / "site" / camera / "a<script>.png").write_bytes(b"no image")
    recipe = load_recipe("mmt_small", method="mmt", overrides=(*SHORT, *ROUNDS, *KMEANS))
    name = "mmt_small " + HOSTILE
    spec = adapt_spec(root / "site", [root / "old"], recipe, recipe_name=name)
    with thin_trunks():
        source_run(write_market(root / "source", persons=3), root / "old", 1)
        adapt(spec, on_cpu(), root / "new")
    return root


@pytest.fixture
def copied(home: Path, tmp_path: Path) -> Run:
    """The adaptation, to be spoiled."""
    from adapt.runs.folder import Run

    shutil.copytree(home / "new", tmp_path / "new")
    return Run.open(tmp_path / "new")

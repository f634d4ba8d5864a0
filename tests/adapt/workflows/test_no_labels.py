"""What is learned at a site does not depend on the identities in its file names, in any layout.

That whole runs end with the same bits is shown in test_every_method.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.config import Recipe  # noqa: E402
from adapt.data.catalog.folders import read_site  # noqa: E402
from adapt.methods.mmt import MMTOptions  # noqa: E402
from adapt.types import UNLABELLED  # noqa: E402
from adapt.workflows.session import list_site, read_crops  # noqa: E402
from models.image import Preprocessing  # noqa: E402
from tests.support.specs import adapt_spec  # noqa: E402
from tests.support.tiny_sets import write_duke, write_market, write_msmt17  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

SIZE = Preprocessing(height=32, width=16)
RECIPE = Recipe(method="mmt", options=MMTOptions())
DUKE_CAMERA = r"_c(?P<camera>\d)_"


def write_folders(root: Path) -> Path:
    """A folder for each camera; names tell the person."""
    crops = write_market(root / "set") / "bounding_box_train"
    for path in crops.iterdir():
        camera = root / "site" / path.name[5:7]
        camera.mkdir(parents=True, exist_ok=True)
        path.rename(camera / path.name)
    return root / "site"


def write_listed(root: Path) -> Path:
    """A manifest; names tell the person."""
    crops = write_market(root) / "bounding_box_train"
    lines = [f"{path.name},{path.name[5:7]}" for path in sorted(crops.iterdir())]
    (crops / "manifest.csv").write_text("\n".join(["path,camera", *lines]))
    return crops


def scramble(target: Path, pattern: str | None) -> None:
    """Exchange the contents of each camera's files: the crops now have other identities."""
    of_camera = defaultdict(list)
    site = read_site(target, pattern)
    for sample in site.samples:
        of_camera[sample.camera].append(sample.path)
    for paths in of_camera.values():
        contents = [path.read_bytes() for path in paths]
        for path, row in zip(paths, np.random.default_rng(0).permutation(len(paths)), strict=True):
            path.write_bytes(contents[row])


@pytest.mark.parametrize(
    ("write", "pattern"),
    [
        (write_market, None),
        (write_duke, DUKE_CAMERA),
        (write_msmt17, None),
        (write_folders, None),
        (write_listed, None),
    ],
)
def test_scrambled_identities_change_nothing(
    write: Callable[[Path], Path], pattern: str | None, tmp_path: Path
) -> None:
    target = write(tmp_path)
    spec = adapt_spec(target, [tmp_path], RECIPE, camera_pattern=pattern)
    true = read_crops(list_site(spec), RECIPE, SIZE)
    listing = [(s.key, s.path.read_bytes()) for s in read_site(target, pattern).samples]
    scramble(target, pattern)
    scrambled = read_crops(list_site(spec), RECIPE, SIZE)
    now = [(s.key, s.path.read_bytes()) for s in read_site(target, pattern).samples]
    assert sum(a != b for a, b in zip(listing, now, strict=True)) > len(now) / 2
    np.testing.assert_array_equal(true.images, scrambled.images)
    np.testing.assert_array_equal(true.crops.camera_codes, scrambled.crops.camera_codes)
    assert len(set(true.crops.camera_codes.tolist())) == 2
    assert set(true.crops.persons.tolist()) == {UNLABELLED}

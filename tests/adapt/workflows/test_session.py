"""Sites that come with a manifest, and sites that are refused before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.config import BatchShape, Clustering, Recipe, Schedule, Thinning  # noqa: E402
from adapt.errors import TooFewCropsError  # noqa: E402
from adapt.methods.mmt import MMTOptions  # noqa: E402
from adapt.recipes import load_recipe  # noqa: E402
from adapt.workflows.adapt import adapt  # noqa: E402
from adapt.workflows.session import Session, open_session, weights_hash  # noqa: E402
from models.backbones.weights import TORCHVISION  # noqa: E402
from tests.support.specs import adapt_spec, on_cpu  # noqa: E402
from tests.support.tiny_site import source_run  # noqa: E402

MMT = Recipe(
    method="mmt",
    schedule=Schedule(rounds=1, iterations=1),
    batch=BatchShape(identities=3, instances=2),
    clustering=Clustering(clusters=6),
    thinning=Thinning(difference=0.5),
    options=MMTOptions(),
)


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.tiny_sets import write_market

    root = tmp_path_factory.mktemp("source")
    return source_run(write_market(root / "set", persons=3), root / "run", 1).path


@pytest.fixture
def listed(market: Callable[..., Path]) -> Path:
    """24 crops in 12 tracks; the second crop of each repeats the first."""
    folder = market("site") / "bounding_box_train"
    lines = ["path,camera,track,time"]
    for first in sorted(folder.glob("*_000000_00.png")):
        second = first.with_name(first.name.replace("_000000_", "_000001_"))
        second.write_bytes(first.read_bytes())
        person, camera = first.name[:4], first.name[5:7]
        for seconds, path in enumerate((first, second)):
            lines.append(f"{path.name},{camera},{camera}-{person},{1000 + seconds}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder


def opened(target: Path, init: Path, recipe: Recipe = MMT) -> Session:
    """A session whose run folder is not there."""
    return open_session(adapt_spec(target, [init], recipe), on_cpu(), init.parent / "run-to-be")


def test_a_manifests_tracks_are_thinned_and_the_run_says_so(
    listed: Path, init: Path, tmp_path: Path
) -> None:
    adapt(adapt_spec(listed, [init], MMT), on_cpu(), tmp_path / "run")
    (target, _) = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert (target["crops"], target["thinned"], target["manifest"]) == (12, 12, "manifest.csv")
    assert target["cameras"] == ["c1", "c2"]
    session = opened(listed, init, MMT.model_copy(update={"thinning": Thinning(difference=0)}))
    assert (len(session.data), session.data.crops.thinned) == (24, 0)
    assert session.data.crops.fingerprint == target["fingerprint"], "of what was read"


def test_names_of_tracks_and_order_of_rows_decide_nothing(listed: Path, init: Path) -> None:
    """A track may be named after its person; the names run backwards here, and so do the rows."""
    first = opened(listed, init).data
    header, *rows = (listed / "manifest.csv").read_text().splitlines()
    cells = [row.split(",") for row in reversed(rows)]
    renamed = [
        f"{path},{camera},{9 - int(track[-1])}{camera},{t}" for path, camera, track, t in cells
    ]
    (listed / "manifest.csv").write_text("\n".join([header, *renamed]))
    second = opened(listed, init).data
    assert first.images.tobytes() == second.images.tobytes()
    assert [s.key for s in first.crops.samples] == [s.key for s in second.crops.samples]


def test_thinning_may_leave_too_few(listed: Path, init: Path) -> None:
    wide = MMT.model_copy(update={"batch": BatchShape(identities=8, instances=2)})
    with pytest.raises(TooFewCropsError, match="has 12 crops, this recipe needs at least 16"):
        opened(listed, init, wide)


def test_twelve_images_are_refused_unopened(tmp_path: Path, init: Path) -> None:
    """The files are not images: opening them would fail."""
    for n in range(12):
        (tmp_path / f"{n}.jpg").write_text("no image")
    with pytest.raises(TooFewCropsError, match="has 12 crops, this recipe needs at least 64"):
        opened(tmp_path, init, load_recipe("mmt", method="mmt"))


def test_one_track_alone_is_refused(listed: Path, init: Path) -> None:
    header, *rows = (listed / "manifest.csv").read_text().splitlines()
    alone = [f"{row.split(',')[0]},c1,one,{n}" for n, row in enumerate(rows)]
    (listed / "manifest.csv").write_text("\n".join([header, *alone]))
    with pytest.raises(TooFewCropsError, match=r"all 24 crops .* of one track"):
        opened(listed, init)


def test_few_tracks_and_one_camera_are_warned_of(
    listed: Path, init: Path, caplog: pytest.LogCaptureFixture
) -> None:
    header, *rows = (listed / "manifest.csv").read_text().splitlines()
    two = [f"{row.split(',')[0]},c1,t{n % 2},{n}" for n, row in enumerate(rows)]
    (listed / "manifest.csv").write_text("\n".join([header, *two]))
    opened(listed, init)
    assert "2 tracks can show at most as many people, but a batch takes 3" in caplog.text
    assert "do not tell cameras apart" in caplog.text


def test_weights_are_told_apart_by_content(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"abc")
    assert weights_hash("resnet18", str(tmp_path / "w.pth")).startswith("ba7816bf")


def test_downloaded_weights_are_found_where_torch_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "resnet18-f37072fd.pth").write_bytes(b"abc")
    assert weights_hash("resnet18", TORCHVISION).startswith("ba7816bf")

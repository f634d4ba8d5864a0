"""Synthetic sites: same bytes for the same seed, Market-1501's layout, honest difficulty."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapt.data.catalog.folders import read_market
from adapt.errors import ConfigError, DataError
from adapt.synthetic import (
    SITE_A,
    SITE_B,
    Figure,
    SiteSpec,
    SiteSummary,
    people_of,
    posts_of,
    render_crop,
    render_site,
)
from adapt.synthetic.site import GENERATOR_VERSION
from adapt.synthetic.styles import STYLES
from adapt.synthetic.wardrobe import Wardrobe, dress_crowd

SPEC = SiteSpec(
    name="small",
    style="winter",
    train_identities=3,
    test_identities=2,
    cameras=3,
    images_per_camera=2,
    height=64,
    width=32,
    seed=5,
)
NAME = re.compile(r"(\d{4})_c(\d)s(\d)_(\d{6})_(\d{2})\.jpg")


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteSummary:
    return render_site(SPEC, tmp_path_factory.mktemp("sites") / "site")


def test_what_was_written_is_a_sentence(site: SiteSummary) -> None:
    assert site.sentence == (
        "18 crops of 3 people to learn from; 6 crops of 2 others to search with, 6 crops to search "
        "in; 3 cameras"
    )


def names(site: SiteSummary, folder: str) -> list[re.Match[str]]:
    matches = [NAME.fullmatch(path.name) for path in (site.root / folder).iterdir()]
    assert all(matches)
    return [match for match in matches if match]


def test_the_same_seed_gives_the_same_bytes(site: SiteSummary, tmp_path: Path) -> None:
    render_site(SPEC, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(site.root)


def test_another_seed_gives_other_crops(site: SiteSummary, tmp_path: Path) -> None:
    render_site(replace(SPEC, seed=6), tmp_path / "other")
    other, first = contents(tmp_path / "other"), contents(site.root)
    assert other.keys() == first.keys()
    assert all(other[key] != first[key] for key in first)


def test_a_person_does_not_depend_on_how_many_follow(site: SiteSummary, tmp_path: Path) -> None:
    render_site(replace(SPEC, test_identities=1), tmp_path / "fewer")
    fewer, first = contents(tmp_path / "fewer"), contents(site.root)
    train = [key for key in first if key.startswith("bounding_box_train")]
    assert train
    assert all(fewer[key] == first[key] for key in train)


def test_counts_and_layout(site: SiteSummary) -> None:
    assert (site.train, site.query, site.gallery) == (18, 6, 6)
    for folder, count in (("bounding_box_train", 18), ("query", 6), ("bounding_box_test", 6)):
        assert len(names(site, folder)) == count
    assert {path.name for path in site.root.iterdir()} == {
        "bounding_box_train",
        "query",
        "bounding_box_test",
        "synthetic.json",
    }


def test_train_and_test_identities_are_disjoint(site: SiteSummary) -> None:
    train = {match[1] for match in names(site, "bounding_box_train")}
    query = {match[1] for match in names(site, "query")}
    gallery = {match[1] for match in names(site, "bounding_box_test")}
    assert (len(train), len(query)) == (3, 2)
    assert query == gallery
    assert not train & query


def test_one_query_per_identity_and_camera_and_every_identity_in_all_cameras(
    site: SiteSummary,
) -> None:
    assert set(Counter((m[1], m[2]) for m in names(site, "query")).values()) == {1}
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        cameras = defaultdict(set)
        for match in names(site, folder):
            cameras[match[1]].add(match[2])
        assert all(seen == {"1", "2", "3"} for seen in cameras.values())


def test_frame_numbers_are_unique_within_a_camera(site: SiteSummary) -> None:
    folders = ("bounding_box_train", "query", "bounding_box_test")
    frames = [(m[2], m[4]) for folder in folders for m in names(site, folder)]
    assert len(set(frames)) == len(frames)


def test_the_project_reads_what_it_wrote(site: SiteSummary) -> None:
    crops = read_market(site.root, ["query", "gallery"])
    assert len(crops) == site.query + site.gallery
    assert len(crops.cameras) == site.cameras
    assert not crops.dropped


def test_the_record_makes_the_site_again(site: SiteSummary, tmp_path: Path) -> None:
    record = json.loads((site.root / "synthetic.json").read_text())
    assert set(record["libraries"]) == {"numpy", "opencv-python-headless", "simplejpeg"}
    # A style that was changed since must show: two runs are comparable only with equal records.
    assert record["style"]["cameras"]["pitch"] == list(STYLES["winter"].cameras.pitch)
    assert record["style"]["wardrobe"]["shoes"] == STYLES["winter"].wardrobe.shoes
    render_site(SiteSpec(**record["spec"]), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(site.root)


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    render_site(SPEC, tmp_path / "site", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(6, 30), (12, 30), (18, 30), (24, 30), (30, 30)]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="not an empty folder"):
        render_site(SPEC, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "site").write_text("keep")
    with pytest.raises(DataError, match="not an empty folder"):
        render_site(SPEC, tmp_path / "site")
    assert (tmp_path / "site").read_text() == "keep"


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    assert render_site(SPEC, tmp_path).root == tmp_path
    assert (tmp_path / "synthetic.json").is_file()


def test_a_stopped_run_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_site(SPEC, tmp_path / "site", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        render_site(SPEC, tmp_path / "file" / "site")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("style", "autumn"),
        ("train_identities", 0),
        ("test_identities", 5000),
        ("cameras", 1),
        ("cameras", 10),
        ("images_per_camera", 1),
        ("height", 16),
        ("width", 8),
        ("seed", -1),
    ],
)
def test_a_bad_specification_names_its_field(field: str, value: int | str) -> None:
    values = asdict(SPEC) | {field: value}
    with pytest.raises(ConfigError, match=field):
        SiteSpec(**values)


def test_too_many_people_for_a_wardrobe_is_a_config_error() -> None:
    first: dict[str, Any] = {
        field.name: {next(iter(getattr(STYLES["winter"].wardrobe, field.name))): 1.0}
        for field in fields(Wardrobe)
        if not field.name.startswith("uniform")
    }
    one_look = Wardrobe(**first)
    with pytest.raises(ConfigError, match="fewer identities"):
        dress_crowd(np.random.default_rng(0), one_look, 2)


@pytest.mark.parametrize("spec", [SITE_A, SITE_B], ids=["A", "B"])
def test_any_two_people_differ_in_four_attributes(spec: SiteSpec) -> None:
    people = people_of(spec)
    assert len(people) == spec.train_identities + spec.test_identities
    for index, person in enumerate(people):
        assert all(person.differences(other) >= 4 for other in people[:index])


def test_colors_alone_are_ambiguous_at_site_b() -> None:
    people = people_of(SITE_B)[SITE_B.train_identities :]
    worn = Counter((person.top_color, person.lower_color) for person in people)
    shared = sum(worn[person.top_color, person.lower_color] > 1 for person in people)
    assert shared / len(people) > 0.6


def test_the_two_sites_differ_in_light_and_cameras() -> None:
    mean, pitch = [], []
    for spec in (SITE_A, SITE_B):
        posts = posts_of(spec)
        rng = np.random.default_rng(0)
        crops = [
            render_crop(Figure.of(look), post, 0.0, spec.height, spec.width, rng)
            for look in people_of(spec)[:5]
            for post in posts
        ]
        mean.append(float(np.mean(crops)))
        pitch.append([post.camera.pitch for post in posts])
    assert mean[0] > mean[1] + 25
    assert max(pitch[0]) < min(pitch[1])


def test_what_is_worn_behind_shows_from_behind() -> None:
    spec = replace(SITE_A, height=128, width=64)
    post = posts_of(spec)[0]
    clean = replace(post, camera=replace(post.camera, occlusion=0.0, noise=0.0, box_error=0.0))
    bare = replace(people_of(spec)[0], bag="none", bag_color="none", front="none", back="none")
    laden = replace(bare, bag="backpack", bag_color="yellow", bag_side="none")

    def change(azimuth: float) -> float:
        crops = [
            render_crop(Figure.of(look), clean, azimuth, 128, 64, np.random.default_rng(1))
            for look in (bare, laden)
        ]
        return float(np.abs(crops[0].astype(int) - crops[1].astype(int)).mean())

    assert change(np.pi) > 2 * change(0.0) > 0


def test_a_crop_is_an_image_of_the_size_asked_for() -> None:
    post, figure = posts_of(SPEC)[0], Figure.of(people_of(SPEC)[0])
    crop = render_crop(figure, post, 0.3, 64, 32, np.random.default_rng(0))
    assert crop.shape == (64, 32, 3)
    assert crop.dtype == np.uint8
    assert crop.std() > 10


PINNED = (2, "open", "wine", "black", "backpack")


def test_who_a_seed_stands_for_is_pinned_to_the_generator_version() -> None:
    first = people_of(SITE_B)[0]
    assert (GENERATOR_VERSION, first.top, first.top_color, first.shoes, first.bag) == PINNED


LOOKS = (
    (SITE_A, 0, 0.5, """
a4a3a1a19ea5c0bca5a39d7584a5c0bda9a5948aa5a2c2c1b1adb9ddcfbac6c8
d8dee0efeac3cccedcdcd9efe9cac4d2c7d9d3efe9cfb5d18ed8d1ece9cfb4a6
7bd197aec5bac5c942bc5c588d88c5c64bb064609d9ac1c1a2b3cac6d2c4bdbd
80a3c8c0d1bab8b97fa9d4bfdabeb3b46ea1b08fc78e9fb4a0a397928e91a5b3"""),
    (SITE_B, 8, 2.7, """
5b625a675f7e8d8a7048594f4757827fa35a432441517d7aa79f612945447472
a09f4a2f3577746a758f94958b947c63678f5b39365d866162865b3633438e62
5f684936333868675b5b403633396c6d55543a36333268745a593e39373b767a
5956514a475e7c8058544f4b47627f85575248464752778857524b464c577c89"""),
    (SITE_B, 11, 1.6, """
5b625a655e7e8d8a704850374c58827fa35a463b59547d7aa79e7651484d7472
a0937539344f6b6a756b553b3e46646367685f3f464a61616260564c47486262
5f5e4e46414664675b5b4f343053706d55544634304369745a59638a7b61777a
59566a9a86637c805854779d6c637f855752795f4652778857524e4e4a577c89"""),
)  # fmt: skip
"""Site, person, azimuth and picture: the means of 16x8 cells of 8x8 pixels, in hexadecimals."""


@pytest.mark.parametrize(("spec", "person", "azimuth", "picture"), LOOKS)
def test_how_a_seed_looks_is_pinned_to_the_generator_version(
    spec: SiteSpec, person: int, azimuth: float, picture: str
) -> None:
    """Short sleeves and a handbag; beanie, scarf and ponytail; hood, skirt and a bag's strap."""
    post = posts_of(spec)[0]
    clean = replace(post, camera=replace(post.camera, occlusion=0.0, noise=0.0, box_error=0.0))
    figure = Figure.of(people_of(spec)[person])
    crop = render_crop(figure, clean, azimuth, 128, 64, np.random.default_rng(1))
    cells = crop.reshape(16, 8, 8, 8, 3).mean((1, 3, 4)).ravel()
    assert PINNED[0] == GENERATOR_VERSION
    np.testing.assert_allclose(cells, np.frombuffer(bytes.fromhex(picture), np.uint8), atol=1.5)

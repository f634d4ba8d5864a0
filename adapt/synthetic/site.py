"""Composes people, cameras and scenes into a labelled site on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from adapt.errors import ConfigError, DataError
from adapt.synthetic.camera import Camera, develop, draw_camera, encode
from adapt.synthetic.person import Figure, Pose, View, draw_person
from adapt.synthetic.scene import Scene, backdrop, build_scene, cast_shadow, occlude
from adapt.synthetic.styles import STYLES
from adapt.synthetic.textures import Image
from adapt.synthetic.wardrobe import Appearance, dress_crowd
from models.files import atomic_folder
from models.wording import plural, reason_of

GENERATOR_VERSION = 2
"""Raised whenever a change here alters a single pixel of any site."""

SUPERSAMPLING = 2
PASSERS_BY = 10

Progress = Callable[[int, int], None]
"""Called with (crops written, crops in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSpec:
    """What to render; the same specification gives the same bytes.

    name: for people. style: key of `STYLES`. train_identities, test_identities: numbers of people,
    disjoint. cameras: 2..9. images_per_camera: crops of each person in each camera, >= 2 (of a
    test identity one becomes the query). height, width: of a crop, pixels. seed: >= 0.
    """

    name: str
    style: str
    train_identities: int
    test_identities: int
    cameras: int
    images_per_camera: int
    height: int = 128
    width: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"style {self.style!r} is unknown; choose one of {', '.join(sorted(STYLES))}"
            if self.style not in STYLES
            else "",
            "train_identities and test_identities must be 1..4999"
            if not (1 <= self.train_identities <= 4999 and 1 <= self.test_identities <= 4999)
            else "",
            "cameras must be 2..9" if not 2 <= self.cameras <= 9 else "",
            "images_per_camera must be 2..99" if not 2 <= self.images_per_camera <= 99 else "",
            "height must be 32..1024 and width 16..1024"
            if not (32 <= self.height <= 1024 and 16 <= self.width <= 1024)
            else "",
            "seed must be >= 0" if self.seed < 0 else "",
        ]
        if any(problems):
            raise ConfigError(f"site {self.name!r}: " + "; ".join(p for p in problems if p))


SITE_A = SiteSpec(
    name="site A", style="summer", train_identities=100, test_identities=50, cameras=4,
    images_per_camera=4, seed=11,
)  # fmt: skip
SITE_B = SiteSpec(
    name="site B", style="winter", train_identities=64, test_identities=60, cameras=4,
    images_per_camera=5, seed=22,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSummary:
    """What was written: numbers of crops per folder, of cameras and of people."""

    root: Path
    train: int
    query: int
    gallery: int
    cameras: int
    train_identities: int
    test_identities: int

    @property
    def sentence(self) -> str:
        """For people."""
        people = plural(self.train_identities, "person", "people")
        others = plural(self.test_identities, "other")
        return (
            f"{plural(self.train, 'crop')} of {people} to learn from; {plural(self.query, 'crop')} "
            f"of {others} to search with, {plural(self.gallery, 'crop')} to search in; "
            f"{plural(self.cameras, 'camera')}"
        )


@dataclass(frozen=True)
class Post:
    """A camera at its place."""

    camera: Camera
    scene: Scene


def people_of(spec: SiteSpec) -> tuple[Appearance, ...]:
    """The people of a site: identity i + 1 is entry i; the training identities come first."""
    rng = np.random.default_rng([spec.seed, 0])
    people = spec.train_identities + spec.test_identities
    return dress_crowd(rng, STYLES[spec.style].wardrobe, people)


def posts_of(spec: SiteSpec) -> tuple[Post, ...]:
    """The cameras of a site with their scenes."""
    style = STYLES[spec.style]
    posts = []
    for index in range(spec.cameras):
        rng = np.random.default_rng([spec.seed, 1, index])
        heading = 2 * math.pi * (index + rng.uniform(-0.2, 0.2)) / spec.cameras
        camera = draw_camera(rng, style.cameras, heading)
        strangers = dress_crowd(rng, style.wardrobe, PASSERS_BY)
        scene = build_scene(
            style.place,
            camera,
            [Figure.of(look) for look in strangers],
            SUPERSAMPLING * spec.height,
            SUPERSAMPLING * spec.width,
            rng,
        )
        posts.append(Post(camera, scene))
    return tuple(posts)


def render_crop(
    figure: Figure, post: Post, azimuth: float, height: int, width: int, rng: np.random.Generator
) -> Image:
    """Renders one crop of one person by one camera.

    Args:
        azimuth: radians the person is turned; 0 faces the camera.
        height, width: of the crop, pixels.
    Returns:
        (height, width, 3) uint8 RGB.
    """
    camera = post.camera
    h, w = SUPERSAMPLING * height, SUPERSAMPLING * width
    canvas = backdrop(post.scene, w, rng)
    error = rng.normal(0, camera.box_error, 3)
    grow = float(np.exp(rng.normal(0, 1.2 * camera.box_error)))
    tall = 0.90 * h * grow
    center = w * (0.5 + 1.2 * float(error[0]))
    bottom = h * (0.5 + float(error[1])) + tall / 2
    cast_shadow(canvas, center, bottom - 0.02 * tall, tall, camera.light)
    draw_person(
        canvas,
        figure,
        Pose(
            azimuth=azimuth,
            phase=float(rng.uniform(0, 2 * math.pi)),
            stride=float(rng.uniform(0.15, 1.0)),
        ),
        View(
            top=bottom - tall,
            bottom=bottom,
            center=center,
            pitch=camera.pitch + 0.2 * float(error[2]),
            perspective=camera.perspective,
            light=camera.light,
            ambient=camera.ambient,
        ),
    )
    if rng.random() < camera.occlusion:
        occlude(canvas, post.scene, rng)
    return develop(canvas, camera, height, width, rng)


def _write_person(
    spec: SiteSpec, person: int, figure: Figure, posts: tuple[Post, ...], root: Path
) -> None:
    """Writes all crops of identity `person` (from 1)."""
    train = person <= spec.train_identities
    for number, post in enumerate(posts, 1):
        rng = np.random.default_rng([spec.seed, 2, person, number])
        camera = post.camera
        for shot in range(spec.images_per_camera):
            # Two walks past each camera, mostly in opposite directions.
            walk = 2 * shot // spec.images_per_camera
            away = math.pi * (walk if rng.random() < 0.8 else 1 - walk)
            azimuth = camera.heading + away + float(rng.normal(0, camera.heading_spread))
            crop = render_crop(figure, post, azimuth, spec.height, spec.width, rng)
            folder = "bounding_box_train" if train else "bounding_box_test" if shot else "query"
            name = f"{person:04d}_c{number}s{walk + 1}_{100 * person + shot:06d}_01.jpg"
            (root / folder / name).write_bytes(encode(crop, camera))


def _record(spec: SiteSpec) -> str:
    libraries = ("numpy", "opencv-python-headless", "simplejpeg")
    record = {
        "generator_version": GENERATOR_VERSION,
        "spec": asdict(spec),
        "style": asdict(STYLES[spec.style]),
        "libraries": {name: version(name) for name in libraries},
    }
    return json.dumps(record, indent=2, sort_keys=True) + "\n"


def _write_site(spec: SiteSpec, root: Path, progress: Progress | None) -> None:
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder).mkdir(parents=True)
    posts, people = posts_of(spec), people_of(spec)
    per_person = spec.cameras * spec.images_per_camera
    for person, look in enumerate(people, 1):
        _write_person(spec, person, Figure.of(look), posts, root)
        if progress is not None:
            progress(person * per_person, len(people) * per_person)
    (root / "synthetic.json").write_text(_record(spec))


def render_site(spec: SiteSpec, out_dir: Path, *, progress: Progress | None = None) -> SiteSummary:
    """Render a site as a Market-1501 folder, all of it or nothing.

    Writes bounding_box_train/, query/ (one crop per test identity and camera), bounding_box_test/
    and synthetic.json; the last is what the crops can be made again from, byte for byte.

    Raises:
        DataError: `out_dir` exists and is not empty, or cannot be written.
        ConfigError: the wardrobe has too little variety for so many people.
    """
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise DataError(f"{out_dir} is not an empty folder; remove it or give another one")
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(out_dir) as folder:
            _write_site(spec, folder, progress)
    except OSError as error:
        raise DataError(f"{out_dir} cannot be written: {reason_of(error)}") from error
    views = spec.test_identities * spec.cameras
    return SiteSummary(
        root=out_dir,
        train=spec.train_identities * spec.cameras * spec.images_per_camera,
        query=views,
        gallery=views * (spec.images_per_camera - 1),
        cameras=spec.cameras,
        train_identities=spec.train_identities,
        test_identities=spec.test_identities,
    )

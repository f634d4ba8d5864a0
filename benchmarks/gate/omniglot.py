"""Part `omniglot`: small sites of letters, with source networks of other alphabets.

Omniglot (Lake et al., Science 2015) as a set of identities: a character is a person, a drawer is a
camera, with one crop of each. The zip holds it in Market-1501's layout. Characters are numbered
alphabet by alphabet, so neighbouring numbers look alike.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from adapt.data.folders import SPLIT_FOLDERS
from adapt.recipes import load_recipe, recipe_label
from adapt.training import Machine, adapt, pretrain
from benchmarks.methods.arms import ARMS
from benchmarks.methods.runs import CPU
from models.image import Preprocessing

SIZE = Preprocessing(height=32, width=32)
BACKBONE = "resnet18"

SOURCE_CHARACTERS = 200
"""Of the background alphabets."""

CHARACTERS = 40
"""Of a site, to learn from, and as many of the same alphabets to judge by."""

SMALL_IMAGES = ("augment.pad=2", "augment.erase=0.0", "augment.flip=0.0")
"""Letters of 32x32; a mirrored letter is another one."""

SHORT = ("schedule.rounds=6",)
METHODS = ("plain", "mmt", "hli")


@dataclass(frozen=True)
class LetterSite:
    """Folders of labelled characters. learnt: to adapt to. judged: others of these alphabets."""

    learnt: Path
    judged: Path


def letters(archive: Path, out: Path, *, seed: int) -> None:
    """Unpack a site, pre-train two source networks and adapt them, all below `out`.

    seed: of networks and batches, and which alphabets the site and the sources have. What is there
    stays.
    """
    source, site = unpack(archive, out, seed)
    sources = [out / f"source-{seed}-{n}" for n in (1, 2)]
    for number, folder in enumerate(sources):
        if not (folder / "run.json").exists():
            recipe = load_recipe("source_demo", method="source", overrides=SMALL_IMAGES)
            pretrain(
                [source],
                splits=("train",),
                backbone=BACKBONE,
                weights=None,
                preprocessing=SIZE,
                recipe=recipe,
                recipe_name=recipe_label("source_demo", SMALL_IMAGES),
                out=folder,
                machine=Machine(CPU, 2 * seed + number),
            )
    for name in METHODS:
        folder = out / f"{name}-{seed}"
        if (folder / "run.json").exists():
            continue
        recipe, recipe_name = ARMS[name].recipe((*SMALL_IMAGES, *SHORT))
        adapt(
            site.learnt,
            camera_pattern=None,
            inits=sources[: 1 if name == "plain" else 2],
            recipe=recipe,
            recipe_name=recipe_name,
            out=folder,
            machine=Machine(CPU, seed),
            keep_rounds=True,
        )


def unpack(archive: Path, out: Path, seed: int) -> tuple[Path, LetterSite]:
    """Source characters and a site; other seeds have other alphabets."""
    with zipfile.ZipFile(archive) as file:
        images = [PurePosixPath(name) for name in file.namelist() if name.endswith(".png")]
        learning = [
            i for i in images if i.parts[0] == "omniglot_evaluation" and "train" in i.parts[1]
        ]
        judging = [
            i for i in images if i.parts[0] == "omniglot_evaluation" and "train" not in i.parts[1]
        ]
        background = [i for i in images if i.parts[0] == "omniglot_background"]
        first = _block(learning, CHARACTERS, seed)
        low, high = min(map(_character, first)), max(map(_character, first))
        others = [image for image in judging if low <= _character(image) <= high]
        site = LetterSite(out / f"site-{seed}" / "learnt", out / f"site-{seed}" / "judged")
        source = out / f"background-{seed}"
        for folder, wanted in (
            (source, _block(background, SOURCE_CHARACTERS, seed)),
            (site.learnt, first),
            (site.judged, others),
        ):
            _write(file, wanted, folder / SPLIT_FOLDERS["train"])
    return source, site


def _character(image: PurePosixPath) -> str:
    return image.name.partition("_")[0]


def _block(images: list[PurePosixPath], count: int, seed: int) -> list[PurePosixPath]:
    """The seed's block of neighbouring characters, from 1."""
    names = sorted({_character(image) for image in images})
    start = (seed - 1) * count % (len(names) - count + 1)
    wanted = set(names[start : start + count])
    return [image for image in images if _character(image) in wanted]


def _write(file: zipfile.ZipFile, images: list[PurePosixPath], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        if not (folder / image.name).exists():
            (folder / image.name).write_bytes(file.read(str(image)))

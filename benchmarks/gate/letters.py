"""Part `letters`: small sites of Omniglot, and source crops of other alphabets.

Omniglot (Lake et al., Science 2015) as a set of identities: a character is a person, a drawer is a
camera, with one crop of each. The archive holds it in Market-1501's layout, the folders
omniglot_background and omniglot_evaluation. Characters are numbered alphabet by alphabet:
neighbors in number look alike.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from adapt.data.catalog.splits import SPLIT_FOLDERS

SOURCE_CHARACTERS = 200
"""Of the background alphabets."""

CHARACTERS = 40
"""Of a site, to adapt to; it is judged on the others of their alphabets."""


@dataclass(frozen=True)
class Letters:
    """Folders of labelled characters.

    source: of the background. learned: of the evaluation alphabets, to adapt to. judged: characters
    among these that are not learned.
    """

    source: Path
    learned: Path
    judged: Path


def unpack_letters(archive: Path, out: Path, block: int) -> Letters:
    """Write the characters of one block, from 1, below `out`; another block, other characters.

    Raises SystemExit when the archive has no such block.
    """
    made = Letters(out / f"source-{block}", out / f"site-{block}", out / f"judged-{block}")
    with zipfile.ZipFile(archive) as file:
        images = [PurePosixPath(name) for name in file.namelist() if name.endswith(".png")]
        evaluation = [image for image in images if image.parts[0] == "omniglot_evaluation"]
        train = [image for image in evaluation if image.parts[1] == SPLIT_FOLDERS["train"]]
        learned = _block(train, CHARACTERS, block)
        first, last = min(map(_character, learned)), max(map(_character, learned))
        background = [image for image in images if image.parts[0] == "omniglot_background"]
        for folder, wanted in (
            (made.source, _block(background, SOURCE_CHARACTERS, block)),
            (made.learned, learned),
            (
                made.judged,
                [i for i in set(evaluation) - set(train) if first <= _character(i) <= last],
            ),
        ):
            _write(file, wanted, folder / SPLIT_FOLDERS["train"])
    return made


def _character(image: PurePosixPath) -> str:
    return image.name.partition("_")[0]


def _block(images: list[PurePosixPath], count: int, block: int) -> list[PurePosixPath]:
    """Images of the block's neighboring characters."""
    names = sorted({_character(image) for image in images})
    wanted = set(names[(block - 1) * count : block * count])
    if block < 1 or len(wanted) < count:
        raise SystemExit(f"there are {len(names) // count} blocks of {count} characters")
    return [image for image in images if _character(image) in wanted]


def _write(file: zipfile.ZipFile, images: list[PurePosixPath], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        (folder / image.name).write_bytes(file.read(str(image)))

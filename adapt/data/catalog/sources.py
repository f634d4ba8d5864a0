"""Several labelled sets as one source."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from adapt.data.catalog.splits import SPLIT_FOLDERS
from adapt.errors import DataError
from adapt.types import CropSet, Dropped, Sample
from models.wording import plural

log = logging.getLogger("resight")


def refuse_twice(sources: Sequence[Path]) -> None:
    """Raise DataError when two paths are one folder: its people would count as two each."""
    seen: dict[Path, Path] = {}
    for root in sources:
        folder = root.resolve()
        if folder in seen:
            raise DataError(
                f"--source {root} is the folder of --source {seen[folder]}: its people would count "
                "as two each; give every folder once"
            )
        seen[folder] = root


def merge_sources(sets: Sequence[CropSet]) -> CropSet:
    """Make one labelled set of several; identities and cameras of different sets stay apart.

    Junk boxes (negative identities) and Market-1501's distractors are left out.
    """
    samples: list[Sample] = []
    cameras: list[str] = []
    dropped: list[Dropped] = []
    unlisted: list[Dropped] = []
    next_person = 0
    for number, crops in enumerate(sets):
        prefix = f"{number}/" if len(sets) > 1 else ""
        labelled = _without_distractors([s for s in crops.samples if s.person >= 0])
        if len(labelled) < len(crops):
            log.info("%s: %d junk and distractor boxes", crops.root, len(crops) - len(labelled))
        codes = {p: next_person + i for i, p in enumerate(sorted({s.person for s in labelled}))}
        next_person += len(codes)
        samples += [
            replace(s, key=prefix + s.key, camera=s.camera + len(cameras), person=codes[s.person])
            for s in labelled
        ]
        cameras += [prefix + name for name in crops.cameras]
        dropped += [replace(d, key=prefix + d.key) for d in crops.dropped]
        unlisted += [replace(d, key=prefix + d.key) for d in crops.unlisted]
    if next_person < 2:
        raise DataError("a source needs crops of at least two identities; add labelled crops")
    return CropSet(
        sets[0].root, tuple(samples), tuple(cameras), tuple(dropped), unlisted=tuple(unlisted)
    )


def warn_of_copies(crops: CropSet) -> None:
    """Log how many crops of a merged source are in several of its sets, byte for byte.

    Their people count as two each. Only files of one size are read; decoding says what cannot be.
    """
    sizes: dict[int, list[Sample]] = defaultdict(list)
    for sample in crops.samples:
        with suppress(OSError):
            sizes[sample.path.stat().st_size].append(sample)
    copies, first = 0, ""
    for samples in sizes.values():
        if len({_set_of(each) for each in samples}) < 2:
            continue
        home: dict[bytes, Sample] = {}
        for sample in samples:
            with suppress(OSError):
                content = hashlib.sha256(sample.path.read_bytes()).digest()
                before = home.setdefault(content, sample)
                if _set_of(before) != _set_of(sample):
                    copies += 1
                    first = first or f"{sample.path} is {before.path}"
    if copies:
        log.warning(
            "in several --source folders: %s (first: %s): their people count as two each; give "
            "every crop once",
            plural(copies, "crop"),
            first,
        )


def _set_of(sample: Sample) -> str:
    return sample.key.partition("/")[0]


def _without_distractors(samples: Sequence[Sample]) -> list[Sample]:
    """Identity 0 only in a gallery is Market-1501's mark for distractors."""
    gallery = SPLIT_FOLDERS["gallery"] + "/"
    zeros = [s for s in samples if s.person == 0]
    if all(s.key.startswith(gallery) for s in zeros):
        return [s for s in samples if s.person != 0]
    return list(samples)

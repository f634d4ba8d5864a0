"""Features of labelled crops as files, which `python -m benchmarks.graph radius --features` reads.

    python -m benchmarks.site_features --run RUN --data DIR --out PREFIX

Embeds all crops of a Market-1501-style folder, of all its splits, with the network that a run kept
and writes PREFIX-features.npy, PREFIX-people.npy and PREFIX-cameras.npy. Crops whose person is not
known (-1) are left out.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapt.data.catalog.folders import read_market
from adapt.data.catalog.splits import SPLIT_FOLDERS
from adapt.data.decoding.loading import load_crops
from adapt.errors import NoImagesError
from adapt.evaluation.scoring import network_embedder
from adapt.runs.folder import Run
from adapt.runtime.device import pick_device
from adapt.types import UNLABELLED, CropSet


@dataclass(frozen=True)
class SiteFeatures:
    """features: (N, D) float32. people, cameras: (N,) int64."""

    features: NDArray[np.float32]
    people: NDArray[np.int64]
    cameras: NDArray[np.int64]

    def write(self, prefix: Path) -> None:
        """Write PREFIX-features.npy, PREFIX-people.npy and PREFIX-cameras.npy."""
        prefix.parent.mkdir(parents=True, exist_ok=True)
        for name, table in vars(self).items():
            np.save(prefix.with_name(f"{prefix.name}-{name}.npy"), table)


def labelled_crops(root: Path) -> CropSet:
    """List the crops of all splits that are there, in the order train, query, gallery.

    Raises NoImagesError: none is there, or no crop is labelled.
    """
    splits = [split for split, folder in SPLIT_FOLDERS.items() if (root / folder).is_dir()]
    found = read_market(root, splits)
    labelled = tuple(sample for sample in found.samples if sample.person != UNLABELLED)
    if not labelled:
        raise NoImagesError(
            f"{root} has no labelled crops in {', '.join(SPLIT_FOLDERS.values())}; give a folder "
            "in Market-1501's layout"
        )
    return replace(found, samples=labelled)


def site_features(run: Run, root: Path, device: str) -> SiteFeatures:
    """Embed all labelled crops with a run's network."""
    data = load_crops(labelled_crops(root), run.info.preprocessing)
    embed = network_embedder(run.network(), pick_device(device))
    return SiteFeatures(embed(data.images), data.crops.persons, data.crops.camera_codes)


def main() -> None:
    """Embed, write and say how much there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, required=True, help="run folder")
    parser.add_argument("--data", type=Path, required=True, help="Market-1501-style folder")
    parser.add_argument("--out", type=Path, required=True, metavar="PREFIX")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = site_features(Run.open(arguments.run), arguments.data, arguments.device)
    found.write(arguments.out)
    people, cameras = (len(np.unique(codes)) for codes in (found.people, found.cameras))
    print(f"{arguments.out}: {found.features.shape}, {people} people, {cameras} cameras")


if __name__ == "__main__":
    main()

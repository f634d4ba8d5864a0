"""The sparse neighbor graph beside the dense one: `python -m benchmarks.graph PART ...`.

labels   labels of our code, of a plain dense one and of public code (`--public`), point by point
scale    time and memory against N, ours and dense in turn (each call in a process of its own)
whole    `resight cluster` on 100,000 float16 features of 2048 numbers, on disk
hdbscan  against the hdbscan library on the dense matrix
kmeans   against faiss's k-means
radius   rules for DBSCAN's radius against the best radius that labels could pick
pictures draws what `scale` and `radius` left in `--out` into `--pictures`

Each part prints Markdown. Features are synthetic unless `--features` names real ones, such as
`benchmarks.site_features` writes. `scale` and `radius` keep their figures in `--out` and show them
with those of other sizes that are there.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from benchmarks.graph.dense import public_jaccard, unit_rows
from benchmarks.graph.hdbscan_library import hdbscan_library
from benchmarks.graph.kmeans_library import kmeans_library
from benchmarks.graph.pictures import pictures
from benchmarks.graph.radius import radius
from benchmarks.graph.same_labels import labels
from benchmarks.graph.scale import scale
from benchmarks.graph.settings import K1
from benchmarks.graph.sites import PER_PERSON, site
from benchmarks.graph.whole import whole

PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "labels": labels,
    "scale": scale,
    "whole": whole,
    "hdbscan": hdbscan_library,
    "kmeans": kmeans_library,
    "radius": radius,
    "pictures": pictures,
}


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.graph",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("parts", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    add("--sizes", nargs="+", type=int, help="N; each part has its own default")
    add("--repeats", type=int, default=3, help="scale, kmeans: runs of each code, in turn")
    add("--dense", action="store_true", help="scale: the dense code, and --public, beside ours")
    add("--variant", choices=K1, default="faiss", help="scale, whole, pictures")
    add("--public", type=Path, action="append", default=[], metavar="FILE.py",
        help="SpCL's faiss_rerank.py or OpenUnReID's compute_dist.py; repeatable")  # fmt: skip
    add("--per-person", nargs="+", type=int, default=[4, 8, 17, 40], help="radius: images, mean")
    add("--noises", nargs="+", type=float, default=[0.6, 1.0, 1.4], help="radius: see sites.py")
    add("--features", type=Path, action="append", default=[], help="radius: real .npy; repeatable")
    add("--people", type=Path, action="append", default=[], help="of each --features")
    add("--cameras", type=Path, action="append", default=[], help="of each --features, or of none")
    add("--name", action="append", default=[], help="of each --features, for the table")
    add("--subsets", nargs="+", type=int, default=[], help="radius: images of random people")
    add("--out", type=Path, default=Path("runs/graph"), help="figures of the parts")
    add("--pictures", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    if len(options.people) != len(options.features):
        parser.error("give one --people for each --features")
    if options.cameras and len(options.cameras) != len(options.features):
        parser.error("give --cameras for all --features or for none")
    if len(options.name) > len(options.features):
        parser.error("more --name than --features")
    if twice := _twice(["dense", *(file.stem for file in options.public)]):
        parser.error(f"two codes are called {twice}: rename the file of --public")
    if twice := _twice(options.name + [f.stem for f in options.features[len(options.name) :]]):
        parser.error(f"two --features are called {twice}: give each a --name")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options.out.mkdir(parents=True, exist_ok=True)
    options.public = [file for file in options.public if _runs(file)]
    for part in options.parts:
        print(f"\n## {part}\n", flush=True)
        PARTS[part](options)


def _twice(names: list[str]) -> str:
    """Names that do not tell what they name apart."""
    return ", ".join(sorted({name for name in names if names.count(name) > 1}))


def _runs(public: Path) -> bool:
    """Try a public file on a few images; say so if it cannot run here."""
    few = unit_rows(site(50, PER_PERSON).features)
    try:
        public_jaccard(public, few, k1=10, k2=2)
    except (ImportError, AttributeError, OSError, SyntaxError, TypeError) as error:
        print(f"{public} is left out, it does not run here: {error}")
        return False
    return True


if __name__ == "__main__":
    main()

"""The files of this project, without what git ignores."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def source_files(root: Path = ROOT, *folders: str) -> set[str]:
    """Paths, relative to `root`, of the files below `folders` (of all if none) that git does not
    ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]
    listed = subprocess.run(  # noqa: S603
        [*command, *folders], cwd=root, capture_output=True, text=True, check=True
    )
    return {name for name in listed.stdout.split("\0") if name and (root / name).is_file()}


def copy_source(root: Path, out: Path) -> None:
    """Copy the files that git does not ignore from `root` to `out`, which is made."""
    for name in source_files(root):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, out / name)

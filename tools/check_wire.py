"""Compare proto/ with the last release: a change that breaks its callers is an error.

python -m tools.check_wire

`buf breaking` compares with the newest tag v* among the ancestors of HEAD. Before the first release
there is none, and the check says so. In a tree without .git, e.g. a source archive, it is skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

BROKEN = 100
"""buf's exit code where it found a breaking change."""


def last_release(repository: Path) -> str | None:
    """The newest tag v* among the ancestors of HEAD, or None. v1.0.0-rc1 is older than v1.0.0.

    Raises:
        subprocess.CalledProcessError: `repository` is not in a git repository with a commit.
    """
    order = ("-c", "versionsort.suffix=-rc", "tag", "--sort=-version:refname")
    tags = _git(repository, *order, "--list", "v*", "--merged", "HEAD")
    return tags.split()[0] if tags else None


def breaking_changes(repository: Path, tag: str) -> str:
    """What `buf breaking` prints about proto/ against the release `tag`: empty if compatible.

    Raises:
        RuntimeError: buf could not compare the two.
    """
    # In a worktree `.git` is a file; buf needs the repository itself.
    git = _git(repository, "rev-parse", "--path-format=absolute", "--git-common-dir")
    buf = Path(sys.executable).parent / "buf"
    command = [str(buf), "breaking", "--against", f"{git}#format=git,tag={tag}"]
    done = subprocess.run(  # noqa: S603
        command, cwd=repository, env=_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, BROKEN):
        raise RuntimeError(f"buf breaking ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _git(repository: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repository), *arguments]
    done = subprocess.run(  # noqa: S603
        command, env=_environment(), capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _environment() -> dict[str, str]:
    """Without git's variables: a hook sets some, which would point buf's git to another folder."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def main(repository: Path = ROOT) -> int:
    """Run the check; returns the exit code."""
    if not (repository / ".git").exists():
        print(f"buf breaking: skipped, {repository} is not a git repository")
        return 0
    try:
        tag = last_release(repository)
    except subprocess.CalledProcessError as error:
        print(f"error: git cannot list tags: {error.stderr.strip()}", file=sys.stderr)
        return 1
    if tag is None and _git(repository, "rev-parse", "--is-shallow-repository") == "true":
        print(
            "error: this shallow clone has no tag v* to compare proto/ with: run"
            " git fetch --unshallow --tags",
            file=sys.stderr,
        )
        return 1
    if tag is None:
        print("buf breaking: no tag v* yet, so there is no release to compare with")
        return 0
    found = breaking_changes(repository, tag)
    if found:
        print(found, end="", file=sys.stderr)
        print(
            f"error: proto/ breaks callers of {tag}: keep what {tag} has and add beside it,"
            " or start a new package version",
            file=sys.stderr,
        )
        return 1
    print(f"buf breaking: compatible with {tag}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

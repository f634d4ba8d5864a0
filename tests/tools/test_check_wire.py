"""`buf breaking` against the last tag, in repositories of a test's own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tools.check_wire import ROOT, last_release, main

ONE_FIELD = 'syntax = "proto3";\npackage shop.v1;\nmessage Item {\n  string name = 1;\n}\n'


def git(repository: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@example.com"]
    subprocess.run(["git", "-C", str(repository), *identity, *arguments], check=True)


def write(repository: Path, text: str) -> None:
    (repository / "proto" / "shop" / "v1" / "item.proto").write_text(text)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One commit with one message; no tag."""
    root = tmp_path / "repository"
    (root / "proto" / "shop" / "v1").mkdir(parents=True)
    shutil.copy(ROOT / "buf.yaml", root)
    write(root, ONE_FIELD)
    git(tmp_path, "init", "--quiet", str(root))
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "One message")
    return root


def test_without_a_tag_there_is_nothing_to_compare(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(repository, ONE_FIELD.replace("= 1", "= 2"))
    assert main(repository) == 0
    assert "no tag v* yet" in capsys.readouterr().out


def test_what_is_added_is_compatible(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(repository, "tag", "v0.1.0")
    write(repository, ONE_FIELD.replace("= 1;", "= 1;\n  string color = 2;"))
    assert main(repository) == 0
    assert capsys.readouterr().out == "buf breaking: compatible with v0.1.0\n"


def test_what_breaks_callers_is_an_error(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git(repository, "tag", "v0.1.0")
    write(repository, ONE_FIELD.replace("= 1", "= 2"))
    assert main(repository) == 1
    error = capsys.readouterr().err
    assert 'field "1" with name "name" on message "Item" was deleted' in error
    assert "error: proto/ breaks callers of v0.1.0" in error


def test_a_worktree_in_a_hook_of_git_is_compared_too(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(repository, "tag", "v0.1.0")
    tree = tmp_path / "tree"
    git(repository, "worktree", "add", "--quiet", str(tree))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert main(tree) == 0
    write(tree, ONE_FIELD.replace("= 1", "= 2"))
    assert main(tree) == 1


def test_the_newest_of_several_releases_counts(repository: Path) -> None:
    for tag in ("v0.9.0", "v0.10.0", "note"):
        git(repository, "tag", tag)
    assert last_release(repository) == "v0.10.0"


def test_a_candidate_is_older_than_its_release(repository: Path) -> None:
    for tag in ("v1.0.0", "v1.0.0-rc1", "v1.0.0-rc2"):
        git(repository, "tag", tag)
    assert last_release(repository) == "v1.0.0"


def test_a_shallow_clone_without_tags_is_an_error(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git(repository, "tag", "v0.1.0")
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "After the release")
    clone = tmp_path / "clone"
    shallow = ("clone", "--quiet", "--depth=1", "--no-tags")
    git(tmp_path, *shallow, repository.as_uri(), str(clone))
    assert main(clone) == 1
    assert "git fetch --unshallow --tags" in capsys.readouterr().err
    git(clone, "fetch", "--quiet", "--unshallow", "--tags")
    assert main(clone) == 0


def test_tags_that_git_cannot_list_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git(tmp_path, "init", "--quiet")
    assert main(tmp_path) == 1
    assert "error: git cannot list tags" in capsys.readouterr().err


def test_a_release_of_another_branch_does_not_count(repository: Path) -> None:
    git(repository, "checkout", "--quiet", "-b", "other")
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "Elsewhere")
    git(repository, "tag", "v2.0.0")
    git(repository, "checkout", "--quiet", "-")
    assert last_release(repository) is None


def test_outside_of_git_the_check_says_that_it_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tmp_path) == 0
    assert "skipped" in capsys.readouterr().out


def test_a_comparison_that_fails_is_not_a_pass(repository: Path) -> None:
    git(repository, "tag", "v0.1.0")
    (repository / "buf.yaml").write_text("version: v99\n")
    with pytest.raises(RuntimeError, match="buf breaking ended with"):
        main(repository)

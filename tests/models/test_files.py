from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models.files import atomic_folder, is_plain_file, sha256_file, write_synced


def test_the_folder_appears_complete(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with atomic_folder(target) as folder:
        write_synced(folder / "deep" / "a.txt", b"a")
        assert not target.exists()
        inode = folder.stat().st_ino
    assert target.stat().st_ino == inode  # renamed, not copied
    assert (target / "deep" / "a.txt").read_bytes() == b"a"
    assert target.stat().st_mode & 0o777 == 0o755
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "made") as folder:
            write_synced(folder / "a.txt", b"a")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_target_made_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "made"

    def race() -> None:
        with atomic_folder(target) as folder:
            write_synced(folder / "a.txt", b"mine")
            write_synced(target / "a.txt", b"theirs")

    with pytest.raises(FileExistsError):
        race()
    assert (target / "a.txt").read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_a_kill_between_writes_leaves_no_half_folder(tmp_path: Path) -> None:
    target = tmp_path / "made"
    script = f"""
import os, signal
from pathlib import Path
from models.files import atomic_folder, write_synced
with atomic_folder(Path({str(target)!r})) as folder:
    write_synced(folder / "a.txt", b"a")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    (leftover,) = tmp_path.iterdir()
    assert leftover.name.startswith(".made.tmp-")
    with atomic_folder(target) as folder:  # the leftover is in nobody's way
        write_synced(folder / "a.txt", b"again")
    assert (target / "a.txt").read_bytes() == b"again"


def test_files_are_never_overwritten(tmp_path: Path) -> None:
    write_synced(tmp_path / "a", b"1")
    with pytest.raises(FileExistsError):
        write_synced(tmp_path / "a", b"2")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_links_are_not_plain_files(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "sub", outside):
        folder.mkdir(parents=True)
        (folder / "a").write_bytes(b"a")
    (root / "link").symlink_to(outside / "a")
    (root / "linked").symlink_to(outside)
    assert is_plain_file(root, "sub/a")
    assert not any(is_plain_file(root, name) for name in ("link", "linked/a", "sub", "none"))

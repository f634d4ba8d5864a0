from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.errors import DamagedFileError
from models.files import (
    FileLock,
    atomic_file,
    atomic_folder,
    is_plain_file,
    read_json_lines,
    read_json_page,
    sha256_file,
    write_atomically,
    write_synced,
)
from tests.support.disk_calls import recorded_disk_calls, synced_then_renamed


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


def test_content_is_on_the_disk_before_its_name_and_then_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = recorded_disk_calls(monkeypatch)
    write_atomically(tmp_path / "file", b"content")
    assert calls == synced_then_renamed(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_failed_write_leaves_the_file_of_before(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"old")

    def fail() -> None:
        with atomic_file(file) as draft:
            draft.write_bytes(b"half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


HOLD = """
import sys
from pathlib import Path
from models.files import FileLock
lock = FileLock(Path(sys.argv[1]), wait=True)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_lock_keeps_others_out_until_its_process_is_killed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"content")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(BlockingIOError):
            FileLock(path)
        holder.kill()
    with FileLock(path):  # by the kill
        with pytest.raises(BlockingIOError):
            FileLock(path)  # also within a process
        waiting = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
    with waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == b"locked\n"
        waiting.kill()
    assert sorted(tmp_path.iterdir()) == [path], "no lock file is left"
    assert kind == "folder" or path.read_bytes() == b"content"


def test_a_released_lock_is_free_and_what_is_absent_has_none(tmp_path: Path) -> None:
    lock = FileLock(tmp_path)
    lock.release()
    lock.release()
    FileLock(tmp_path).release()
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / "nothing")


def test_json_lines_without_the_one_that_was_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    for content, expected in (
        (b"", []),
        (b'{"a": 1', []),
        (b'{"a": 1}\n', [{"a": 1}]),
        (b'{"a": 1}\n{"a": 2}\n{"a": 3}', [{"a": 1}, {"a": 2}]),
        (b'{"a": 1}\n\xff\xfe', [{"a": 1}]),
    ):
        file.write_bytes(content)
        assert read_json_lines(file) == expected
        assert page(file) == (expected, False)
    with pytest.raises(FileNotFoundError):
        read_json_lines(tmp_path / "nothing")


@pytest.mark.parametrize(
    "line", [b"", b"3", b"[]", b"null", b"\xff\xfe", b'{"a": 2, "b', b"[" * 100_000]
)
def test_any_other_line_that_cannot_be_read_is_an_error_that_names_it(
    tmp_path: Path, line: bytes
) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    for read in (read_json_lines, lambda path: page(path, 1)):
        with pytest.raises(DamagedFileError, match=rf"{file} is damaged in line 2 \("):
            read(file)
    assert page(file, 2) == ([{"a": 3}], False)


def page(
    file: Path, after: int = 0, line_bytes: int = 200_000
) -> tuple[list[dict[str, Any]], bool]:
    return read_json_page(file, after=after, page_bytes=20, line_bytes=line_bytes)


def test_pages_of_json_lines_have_so_many_bytes_or_one_line(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text('{"a": 1}\n{"a": 2}\n{"a": 3}\n{"abcdefghijklmnopqrst": 4}\n')
    assert page(file) == ([{"a": 1}, {"a": 2}], True)
    assert page(file, 2) == ([{"a": 3}], True)
    assert page(file, 3) == ([{"abcdefghijklmnopqrst": 4}], False)
    assert page(file, 9) == ([], False)
    assert read_json_page(file, after=3, page_bytes=20, line_bytes=99, min_lines=4)[1] is False
    with pytest.raises(DamagedFileError, match=r"it has 4 of 5 lines; restore it from a copy"):
        read_json_page(file, after=3, page_bytes=20, line_bytes=99, min_lines=5)
    with pytest.raises(
        DamagedFileError, match=rf"{file} is damaged in line 4 \(more than 26 bytes"
    ):
        page(file, 2, line_bytes=26)
    assert page(file, 3, line_bytes=27) == page(file, 3)
    with pytest.raises(FileNotFoundError):
        page(tmp_path / "nothing")


def test_a_folder_in_the_place_of_json_lines_is_an_error(tmp_path: Path) -> None:
    for read in (read_json_lines, page):
        with pytest.raises(DamagedFileError, match="cannot be read: Is a directory"):
            read(tmp_path)


def test_json_lines_behind_a_broken_link_are_not_absent(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.symlink_to(tmp_path / "unmounted")
    for read in (read_json_lines, page):
        with pytest.raises(DamagedFileError, match=rf"{file} is a link to .*not exist; mount or"):
            read(file)


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

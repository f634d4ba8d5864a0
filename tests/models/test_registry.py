from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path

import pytest

from models.bundle import Bundle
from models.errors import (
    BundleError,
    BundleHashMismatchError,
    BundleNotFoundError,
    ModelConflictError,
    ModelNotFoundError,
    ModelReferenceError,
    RegistryError,
)
from models.job_contract import UNJUDGED
from models.registry import (
    DAMAGED,
    GateRecord,
    ModelReference,
    Registry,
    verdict_file,
    version_key,
)

MakeBundle = Callable[..., Bundle]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def test_add_and_resolve(registry: Registry, make_bundle: MakeBundle, tmp_path: Path) -> None:
    source = make_bundle(tmp_path / "b")
    added = registry.add(source.path)
    assert added.path == registry.root / "toy" / "1"
    assert added.digest == source.digest
    assert registry.resolve("toy") == registry.resolve("toy@1") == added
    assert registry.verify("toy") == added
    source.model_path.write_bytes(b"changed later")  # a copy, not a link
    registry.verify("toy")


def test_next_version(registry: Registry, make_bundle: MakeBundle, tmp_path: Path) -> None:
    assert registry.next_version("toy") == "1"
    for version, following in (("1", "2"), ("2.7", "3"), ("10", "11"), ("9", "11")):
        registry.add(make_bundle(tmp_path / version, version=version).path)
        assert registry.next_version("toy") == following
    assert registry.next_version("other") == "1"
    assert registry.next_version("toy", "toy@11.2", "other@30") == "12"
    assert registry.next_version("toy", "toy@3") == "11"
    assert registry.next_version("other", "other@1") == "2"


def test_where_a_model_comes_from(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    for version, told, expected in (
        ("1", b'{"verdict": "reject", "adaptation": "sites/a/adaptations/b"}',
         GateRecord("reject", "sites/a/adaptations/b")),
        ("2", b'{"verdict": "hold"}', GateRecord("hold")),
        ("3", b'{"verdict": "unjudged", "adaptation": "a", "reasons": ["no", "memory"]}',
         GateRecord(UNJUDGED, "a", "no; memory")),
        ("4", None, GateRecord()),
    ):  # fmt: skip
        registry.add(make_bundle(tmp_path / version, version=version).path, verdict=told)
        assert registry.gate_record(ModelReference("toy", version)) == expected


def test_the_verdict_is_kept_beside_the_model(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    one = ModelReference("toy", "1")
    bundle = make_bundle(tmp_path / "one", version="1")
    assert registry.gate_record(one).verdict == ""
    registry.add(bundle.path, verdict=b'{"verdict": "hold"}')
    assert registry.gate_record(one).verdict == "hold"
    assert [str(r) for r in registry.references()] == ["toy@1"]
    registry.verify("toy@1")
    # The same content again changes no bundle, other content is refused.
    registry.add(bundle.path, verdict=b'{"verdict": "promote"}')
    other = make_bundle(tmp_path / "other", version="1", scores={"x": 1.0})
    with pytest.raises(ModelConflictError):
        registry.add(other.path, verdict=b'{"verdict": "promote"}')
    assert registry.gate_record(one).verdict == "hold"
    # A verdict is of the model that it came with.
    shutil.rmtree(registry.root / "toy" / "1")
    registry.add(other.path)
    assert registry.gate_record(one).verdict == ""


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"verdict": "REJECT"}', b'{"verdict": "rej',
     b'{"reasons": []}', b'{"verdict": ["reject"]}', b'{"verdict":' + b"[" * 100_000,
     b'{"verdict": "promote", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
     b'{"VERDICT": "promote"}', b'{"verdict": "Promote"}', b'{"verdict": "promote"} {}',
     b'\xef\xbb\xbf{"verdict": "promote"}', b'{"verdict": "promote", "reasons": ["\\ud800"]}',
     b'{"verdict": "damaged"}', b"\0" * 4096, None],
)  # fmt: skip
def test_a_verdict_that_cannot_be_read_blocks_as_a_rejection_does(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path, content: bytes | None
) -> None:
    registry.add(make_bundle(tmp_path / "one", version="1").path)
    file = registry.root / "toy" / "1.gate.json"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    record = registry.gate_record(ModelReference("toy", "1"))
    assert (record.verdict, record.blocks_activation) == (DAMAGED, True)
    assert str(file) in record.problem


def test_a_verdict_that_is_a_link_to_nowhere_is_not_an_absent_one(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    registry.add(make_bundle(tmp_path / "one", version="1").path)
    (registry.root / "toy" / "1.gate.json").symlink_to(tmp_path / "nowhere")
    record = registry.gate_record(ModelReference("toy", "1"))
    assert record.blocks_activation
    assert "a link to a file that does not exist" in record.problem


@pytest.mark.parametrize(
    ("present", "new", "kept"),
    [
        ("", "promote", "promote"), ("", "reject", "reject"), ("", UNJUDGED, UNJUDGED),
        ("", DAMAGED, DAMAGED), ("promote", "", "promote"), ("reject", "", "reject"),
        ("promote", "reject", "reject"), ("reject", "promote", "reject"),
        ("promote", "hold", "hold"), ("hold", "promote", "hold"),
        # That the gate said nothing counts less than what it said.
        (UNJUDGED, "promote", "promote"), ("promote", UNJUDGED, "promote"),
        (UNJUDGED, "reject", "reject"), ("reject", UNJUDGED, "reject"),
        # What cannot be read may have been a rejection.
        (DAMAGED, "promote", DAMAGED), ("promote", DAMAGED, DAMAGED), (DAMAGED, "", DAMAGED),
        (DAMAGED, UNJUDGED, DAMAGED), (DAMAGED, "reject", "reject"), ("reject", DAMAGED, "reject"),
    ],
)  # fmt: skip
def test_of_two_verdicts_on_the_same_model_the_safer_one_counts(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path, present: str, new: str, kept: str
) -> None:
    def report(verdict: str) -> bytes | None:
        if verdict == DAMAGED:
            return b'{"verdict": "rej'
        return f'{{"verdict": "{verdict}"}}'.encode() if verdict else None

    bundle = make_bundle(tmp_path / "one", version="1")
    registry.add(bundle.path, verdict=report(present))
    registry.add(bundle.path, verdict=report(new))
    assert registry.gate_record(ModelReference("toy", "1")).verdict == kept


@pytest.mark.parametrize("report", [b'{"verdict": "reject"}', b'{"verdict": "rej', None])
def test_the_verdict_beside_a_bundle_goes_with_it(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path, report: bytes | None
) -> None:
    """Also from one registry to another: a rejected model is not made a new one by a copy."""
    bundle = make_bundle(tmp_path / "one", version="1")
    file = verdict_file(bundle.path)
    if report is None:
        file.mkdir()
    else:
        file.write_bytes(report)
    added = registry.add(bundle.path)
    other = Registry(tmp_path / "other")
    other.add(added.path)
    for each in (registry, other):
        assert each.gate_record(ModelReference("toy", "1")).blocks_activation


def test_a_disk_that_fills_while_a_model_is_added_leaves_it_whole_or_absent(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each fsync in turn, the disk is full; then there is room again."""
    fsync, left = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    one = ModelReference("toy", "1")
    bundle = make_bundle(tmp_path / "one", version="1")
    reject = b'{"verdict": "reject"}'
    monkeypatch.setattr(os, "fsync", full)
    for room in count():
        shutil.rmtree(registry.root, ignore_errors=True)
        left = room
        try:
            registry.add(bundle.path, verdict=reject)
            break
        except OSError:
            assert registry.gate_record(one).blocks_activation or not registry.references()
        left = 1000
        registry.add(bundle.path, verdict=reject)
        assert registry.gate_record(one).verdict == "reject"
        registry.verify("toy@1")
        assert sorted(path.name for path in (registry.root / "toy").iterdir()) == [
            "1", "1.gate.json",
        ]  # fmt: skip
    assert room > 5


def test_a_disk_that_fills_while_a_verdict_is_made_safer_loses_none(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ModelReference("toy", "1")
    bundle = make_bundle(tmp_path / "one", version="1")
    registry.add(bundle.path, verdict=b'{"verdict": "hold"}')

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            registry.add(bundle.path, verdict=b'{"verdict": "reject"}')
    assert registry.gate_record(one).verdict == "hold"
    registry.add(bundle.path, verdict=b'{"verdict": "reject"}')
    assert registry.gate_record(one).verdict == "reject"


def test_which_verdicts_block() -> None:
    verdicts = ("", "promote", "hold", "reject", UNJUDGED, DAMAGED)
    blocking = {verdict for verdict in verdicts if GateRecord(verdict).blocks_activation}
    assert blocking == {"reject", UNJUDGED, DAMAGED}


def test_newest_is_by_number(registry: Registry, make_bundle: MakeBundle, tmp_path: Path) -> None:
    for version in ("1.10", "1.9", "1", "0.3.7"):
        registry.add(make_bundle(tmp_path / version, version=version).path)
    registry.add(make_bundle(tmp_path / "other", name="another").path)
    assert [str(r) for r in registry.references()] == [
        "another@1", "toy@0.3.7", "toy@1", "toy@1.9", "toy@1.10"
    ]  # fmt: skip
    assert registry.resolve("toy").manifest.version == "1.10"
    assert registry.resolve("toy@1.9").manifest.version == "1.9"


def test_newest_that_needs_no_force(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    assert registry.newest_unblocked("toy") is None
    for version, report, newest in (
        ("3", b'{"verdict": "reject"}', None),
        ("1.9", b'{"verdict": "promote"}', "1.9"),
        ("1.10", b'{"verdict": "hold"}', "1.10"),
        ("4", b"{", "1.10"),
        ("5", None, "5"),
        ("6", b'{"verdict": "unjudged"}', "5"),
    ):
        registry.add(make_bundle(tmp_path / version, version=version).path, verdict=report)
        expected = None if newest is None else ModelReference("toy", newest)
        assert registry.newest_unblocked("toy") == expected
    assert registry.newest_unblocked("another") is None


def test_order_of_versions() -> None:
    ordered = ["0", "0.0", "0.9", "0.10", "1", "1.0", "1.0.0", "1.0.1", "1.1", "2", "10"]
    keys = [version_key(version) for version in ordered]
    assert all(a < b for a, b in pairwise(keys))


def test_adding_the_same_again_changes_nothing(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    first = registry.add(make_bundle(tmp_path / "a").path)
    inode = first.model_path.stat().st_ino
    assert registry.add(make_bundle(tmp_path / "b").path) == first
    assert registry.add(first.path) == first  # also from the registry itself
    assert first.model_path.stat().st_ino == inode


def test_a_version_never_changes(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    first = registry.add(make_bundle(tmp_path / "a").path)
    with pytest.raises(ModelConflictError, match="new version"):
        registry.add(make_bundle(tmp_path / "b", model=b"other").path)
    assert registry.verify("toy@1") == first


def test_what_does_not_hold_is_not_added(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    damaged = make_bundle(tmp_path / "a")
    damaged.model_path.write_bytes(b"changed")
    with pytest.raises(BundleHashMismatchError):
        registry.add(damaged.path)
    more = make_bundle(tmp_path / "b")
    (more.path / "notes.txt").write_text("x")
    with pytest.raises(BundleHashMismatchError, match=r"notes\.txt"):
        registry.add(more.path)
    with pytest.raises(BundleNotFoundError):
        registry.add(tmp_path / "nothing")
    assert registry.references() == ()


def test_damage_in_the_registry_is_found_and_hurts_no_other(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bad = registry.add(make_bundle(tmp_path / "a").path)
    good = registry.add(make_bundle(tmp_path / "b", version="2").path)
    bad.model_path.write_bytes(b"changed")
    with pytest.raises(BundleHashMismatchError):
        registry.verify("toy@1")
    with pytest.raises(BundleHashMismatchError):
        registry.add(tmp_path / "a")
    (bad.path / "manifest.json").unlink()
    with pytest.raises(BundleError):
        registry.resolve("toy@1")
    assert registry.verify("toy") == good
    assert len(registry.references()) == 2


def test_a_moved_folder_is_found(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    added = registry.add(make_bundle(tmp_path / "a").path)
    added.path.rename(added.path.parent / "2")
    with pytest.raises(BundleHashMismatchError, match="toy@1"):
        registry.resolve("toy@2")


@pytest.mark.parametrize("reference", ["toy", "toy@1", "toy@1.0", "other"])
def test_unknown_models(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path, reference: str
) -> None:
    with pytest.raises(ModelNotFoundError, match="known: none"):
        registry.resolve(reference)
    registry.add(make_bundle(tmp_path / "a", version="3").path)
    if reference != "toy":
        with pytest.raises(ModelNotFoundError, match="known: toy@3"):
            registry.resolve(reference)


@pytest.mark.parametrize(
    "reference",
    ["", "@", "@1", "toy@", "toy@v1", "toy@1@2", "../toy", "toy@../1", "Toy", "toy@01", "toy\n",
     "toy@1\n", "/etc", ".", ".lock", "a/b@1"],
)  # fmt: skip
def test_bad_references(registry: Registry, reference: str) -> None:
    with pytest.raises(ModelReferenceError):
        registry.resolve(reference)


def test_references_print_as_they_parse() -> None:
    for text in ("toy", "toy@1.2"):
        assert str(ModelReference.parse(text)) == text


def test_strangers_in_the_folder_are_not_models(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    registry.add(make_bundle(tmp_path / "a").path)
    (registry.root / "notes.txt").write_text("x")
    (registry.root / "toy" / "draft").mkdir()
    assert [str(r) for r in registry.references()] == ["toy@1"]


def test_strangers_in_the_folder_are_told_with_the_reason(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    assert registry.no_models() == ()
    registry.add(make_bundle(tmp_path / "a").path, verdict=b'{"verdict": "hold"}')
    assert registry.no_models() == (), "its own lock and verdicts are not told"
    make_bundle(registry.root / "dropped")
    for folder in ("empty", "Not A Name", "toy/draft", "toy/.2.tmp-abc"):
        (registry.root / folder).mkdir()
    for file in ("notes.txt", ".DS_Store", "toy/7.gate.json", "toy/notes"):
        (registry.root / file).write_text("x")
    told = dict(registry.no_models())
    assert told.pop("dropped").startswith("a bundle that was not added")
    assert told.pop("toy/.2.tmp-abc").startswith("of an addition that did not end")
    assert told == {
        ".DS_Store": "a file, and models are folders",
        "Not A Name": "its name is none of a model",
        "empty": "a folder without a version of a model",
        "notes.txt": "a file, and models are folders",
        "toy/7.gate.json": "a verdict on none of the versions 1",
        "toy/draft": "its name is none of a version, like 3 or 1.2.0",
        "toy/notes": "a file, and models are folders",
    }
    assert [str(r) for r in registry.references()] == ["toy@1"]


def test_what_a_crash_left_is_not_a_model_and_goes_at_the_next_add(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    registry.add(make_bundle(tmp_path / "a").path)
    leftover = registry.root / "toy" / ".2.tmp-abc"
    leftover.mkdir()
    (leftover / "model.onnx").write_bytes(b"half")
    assert [str(r) for r in registry.references()] == ["toy@1"]
    registry.add(make_bundle(tmp_path / "b", version="2").path)
    assert not leftover.exists()
    registry.verify("toy@2")


ADD = """
import sys, time
from pathlib import Path
from models.errors import ModelConflictError
from models.registry import Registry
start, root, *bundles = sys.argv[1:]
while not Path(start).exists():
    time.sleep(0.001)
for bundle in bundles:
    try:
        Registry(Path(root)).add(Path(bundle))
    except ModelConflictError:
        sys.exit(7)
"""


def add_at_once(start: Path, root: Path, bundles: list[list[Path]]) -> list[int]:
    """One process per list, all let loose at the same moment; their exit codes."""
    running = [
        subprocess.Popen([sys.executable, "-c", ADD, str(start), str(root), *map(str, paths)])
        for paths in bundles
    ]
    start.touch()
    return [process.wait(timeout=60) for process in running]


@pytest.mark.slow
def test_many_processes_add_the_same(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    paths = [
        make_bundle(tmp_path / str(i), version=str(i), model=bytes(2_000_000)).path
        for i in range(8)
    ]
    orders = [paths, paths[::-1], paths]
    assert add_at_once(tmp_path / "go", registry.root, orders) == [0, 0, 0]
    assert len(registry.references()) == 8
    for reference in registry.references():
        registry.verify(str(reference))
    assert sorted(p.name for p in (registry.root / "toy").iterdir()) == list("01234567")


def test_of_two_processes_with_other_content_one_wins(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    one, two = (make_bundle(tmp_path / c, model=c.encode() * 1_000_000).path for c in "ab")
    codes = add_at_once(tmp_path / "go", registry.root, [[one], [two]])
    assert sorted(codes) == [0, 7]
    winner = Bundle.open((one, two)[codes.index(0)])
    assert registry.verify("toy@1").digest == winner.digest


CALLS: list[Callable[[Registry], object]] = [
    Registry.references,
    lambda registry: registry.next_version("toy"),
    lambda registry: registry.resolve("toy"),
]


def test_a_registry_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    for call in CALLS:
        with pytest.raises(RegistryError, match=rf"{file} is not a folder; give the folder"):
            call(Registry(file))
    assert Registry(tmp_path / "absent").references() == ()


@pytest.mark.parametrize("below", ["", "folder"])
def test_a_registry_behind_a_broken_link_is_not_an_empty_one(
    make_bundle: MakeBundle, tmp_path: Path, below: str
) -> None:
    link = tmp_path / "volume"
    link.symlink_to(tmp_path / "unmounted")
    registry = Registry(link / below)
    bundle = make_bundle(tmp_path / "a").path
    for call in (*CALLS, lambda registry: registry.add(bundle)):
        with pytest.raises(RegistryError, match=rf"{link} is a link to .*not exist; mount or"):
            call(registry)
    (tmp_path / "unmounted").mkdir()
    assert registry.references() == ()


@pytest.mark.parametrize("broken", ["toy/2", "toy"])
def test_a_model_behind_a_broken_link_is_not_an_absent_one(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path, broken: str
) -> None:
    """Or the version before would be the newest, and the next one is taken."""
    registry.add(make_bundle(tmp_path / "a").path)
    registry.add(make_bundle(tmp_path / "b", version="2").path)
    other = registry.add(make_bundle(tmp_path / "c", name="other").path)
    link = registry.root / broken
    link.rename(tmp_path / "volume")
    link.symlink_to(tmp_path / "unmounted")
    bundle = tmp_path / "b"
    asked = (lambda registry: registry.resolve("toy@2"), lambda registry: registry.add(bundle))
    for call in (*CALLS, *asked):
        with pytest.raises(RegistryError, match=rf"{link} is a link to .*not exist; mount or"):
            call(registry)
    assert registry.resolve("other") == other
    if broken == "toy/2":
        assert registry.resolve("toy@1").reference == "toy@1"
    (tmp_path / "volume").rename(tmp_path / "unmounted")
    assert registry.resolve("toy").reference == "toy@2"
    assert registry.next_version("toy") == "3"


def test_a_registry_that_this_user_may_not_read_is_not_an_empty_one(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    for call in CALLS:
        with pytest.raises(RegistryError, match="cannot be read: Permission denied; give a folder"):
            call(registry)


def test_a_file_in_place_of_a_models_folder_is_no_model(
    registry: Registry, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    registry.add(make_bundle(tmp_path / "a").path)
    (registry.root / "lobby").write_text("notes")
    for reference in ("lobby", "lobby@1"):
        with pytest.raises(ModelNotFoundError, match=rf"no model {reference} in .*known: toy@1"):
            registry.verify(reference)
    assert [str(r) for r in registry.references()] == ["toy@1"]
    assert registry.next_version("lobby") == "1"

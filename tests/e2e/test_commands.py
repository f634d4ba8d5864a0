"""The commands as a user runs them, against a real server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest

from models.bundle import Bundle
from models.registry import Registry
from tests.support.tiny_model import crop, embed_files

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """c1/a.png, c1/b.png, c2/a.png and what else lies in such folders."""
    folder = tmp_path / "crops"
    for n, name in enumerate(["c1/a.png", "c1/b.png", "c2/a.png"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(crop(n))
    (folder / "c2" / "broken.jpg").write_bytes(crop(9, suffix=".jpg")[:-200])
    (folder / "c2" / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not a crop")
    (folder / ".hidden.png").write_bytes(crop(8))
    return folder


@pytest.fixture
def resight(shared_server, command: Command) -> Command:  # type: ignore[no-untyped-def]
    return lambda *arguments: command(*arguments, server=shared_server.address)


def test_enroll_warns_of_people_taken_for_cameras_and_tells_of_broken_links(
    resight: Command, tmp_path: Path
) -> None:
    for name in ("0001/0001_c1s1_1.png", "0002/0002_c1s1_1.png", "0003/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(crop(8))
    (tmp_path / "cam4").symlink_to("gone")
    assert resight("site", "create", "people").returncode == 0
    enrolled = resight("enroll", "--site", "people", tmp_path)
    told, done = enrolled.stderr, enrolled.stdout
    assert "warning: 3 cameras of 3 crops look like people, not cameras ('0001' is" in told
    assert f"left out {tmp_path / 'cam4'}: a broken link: gone is not there" in told
    assert "enrolled 3 of 3 files in site people, 3 cameras, 1 other file left out; " in done
    assert resight("site", "delete", "people", "--force").returncode == 0


def test_from_create_to_delete(resight: Command, crops: Path) -> None:
    created = resight("site", "create", "door")
    assert (created.returncode, created.stdout) == (0, "door\n")
    assert created.stderr == "created with model tiny@1:\n"

    enrolled = resight("enroll", "--site", "door", crops)
    assert enrolled.returncode == 0
    assert enrolled.stdout == (
        "enrolled 3 of 5 files in site door, 2 cameras, 2 refused, 2 other files left out; stderr "
        "says why, --json names all\n"
    )
    for bad in ("broken.jpg", "empty.png"):
        assert f"left out {crops / 'c2' / bad}: " in enrolled.stderr
    told = f"left out {crops / 'notes.txt'}: file type .txt is not an image type\n"
    assert told in enrolled.stderr
    assert f"left out {crops / '.hidden.png'}: a hidden file\n" in enrolled.stderr

    again = json.loads(resight("enroll", "--site", "door", crops, "--json").stdout)
    assert (again["enrolled"], again["replaced"], again["failed"], again["ignored"]) == (3, 3, 2, 2)
    assert [Path(each["path"]).name for each in again["left_out"]] == [
        ".hidden.png",
        "notes.txt",
    ]
    assert {r["path"] for r in again["results"] if "error" in r} == {
        str(crops / "c2" / "broken.jpg"),
        str(crops / "c2" / "empty.png"),
    }
    (site,) = [
        s for s in json.loads(resight("site", "list", "--json").stdout) if s["site"] == "door"
    ]
    assert (site["sightings"], site["state"], site["model"]) == (3, "READY", "tiny@1")

    found = json.loads(
        resight("search", "--site", "door", crops / "c1" / "a.png", "--limit", "5", "--json").stdout
    )
    scores = embed_files([crop(n) for n in range(3)])
    scores = scores @ scores[0]
    names = ["c1/a.png", "c1/b.png", "c2/a.png"]
    order = np.argsort(-scores)
    assert [m["attributes"]["file"] for m in found["matches"]] == [names[n] for n in order]
    np.testing.assert_allclose([m["score"] for m in found["matches"]], scores[order], atol=1e-5)

    done = resight("search", "--site", "door", crops / "c1" / "a.png", "--exclude-camera", "c1")
    assert done.stderr == "site door, model tiny@1, cosine similarity (1 = same)\n"
    across = done.stdout.splitlines()
    assert across[0].split() == ["rank", "score", "camera", "time", "file", "sighting"]
    assert len(across) == 2
    assert "c2/a.png" in across[1]

    refused = resight("site", "delete", "door")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: site door is not empty (sightings: 3)")
    assert "--force" in refused.stderr
    assert resight("site", "delete", "door", "--force").returncode == 0
    assert "error: there is no site door" in resight("enroll", "--site", "door", crops).stderr


def test_a_camera_that_a_site_does_not_have_is_told_with_those_that_it_has(
    resight: Command, tmp_path: Path
) -> None:
    """Folders as macOS names them, a name as a keyboard types it."""
    crops, nfd = tmp_path / "crops", normalize("NFD", "Café")
    for name in (f"{nfd}/a.png", "Hall/b.png", "Door/c.png"):
        (crops / name).parent.mkdir(parents=True)
        (crops / name).write_bytes(crop(len(name)))
    resight("site", "create", "cafe")
    enrolled = json.loads(resight("enroll", "--site", "cafe", crops, "--json").stdout)
    assert sorted(each["camera"] for each in enrolled["results"]) == ["Café", "Door", "Hall"]
    again = json.loads(resight("enroll", "--site", "cafe", crops, "--json").stdout)
    assert (again["enrolled"], again["replaced"]) == (3, 3)

    def search(*options: str) -> tuple[set[str], list[Any], str]:
        done = resight("search", "--site", "cafe", crops / "Hall" / "b.png", *options, "--json")
        found = json.loads(done.stdout)
        return {m["camera"] for m in found["matches"]}, found["unknown"], done.stderr

    for form in ("Café", nfd):
        assert search("--exclude-camera", form) == ({"Door", "Hall"}, [], "")
    cameras, unknown, told = search("--exclude-camera", "Cafe", "--exclude-track", "t1")
    assert cameras == {"Café", "Door", "Hall"}
    assert [(each["field"], each["values"], each["known"]) for each in unknown] == [
        ("exclude_cameras", ["Cafe"], ["Café", "Door", "Hall"]),
        ("exclude_tracks", ["t1"], []),
    ]
    assert told.splitlines() == [
        "warning: no sighting of site cafe has the camera 'Cafe' (--exclude-camera); cameras of "
        "the site: 'Café', 'Door', 'Hall'",
        "warning: no sighting of site cafe has the track 't1' (--exclude-track); the site has no "
        "tracks",
    ]
    listed = resight("sighting", "list", "--site", "cafe", "--camera", "Hal", "--camera", "Dor")
    assert listed.stdout == ""
    assert listed.stderr.splitlines()[-1] == "no sightings in site cafe pass the filter"
    assert "has the cameras 'Hal', 'Dor' (--camera); cameras of the site: 'Hall'" in listed.stderr


def test_the_cameras_of_a_site(resight: Command, crops: Path) -> None:
    for site in ("empty", "seen"):
        resight("site", "create", site)
    resight("enroll", "--site", "seen", crops)
    shown = resight("site", "show", "seen").stdout.splitlines()
    assert shown[1].split()[:4] == ["seen", "3", "tiny@1", "ready"]
    assert shown[3].split() == ["camera", "sightings", "first", "last"]
    assert [line.split()[:2] for line in shown[4:]] == [["c1", "2"], ["c2", "1"]]
    assert len(resight("site", "show", "empty").stdout.splitlines()) == 2

    site = json.loads(resight("site", "show", "seen", "--json").stdout)
    times = [
        datetime.fromtimestamp((crops / "c1" / name).stat().st_mtime, UTC)
        for name in ("a.png", "b.png")
    ]
    assert (site["site"], site["sightings"], len(site["cameras"])) == ("seen", 3, 2)
    assert site["cameras"][0] == {
        "camera": "c1",
        "sightings": 2,
        "first": min(times).isoformat(),
        "last": max(times).isoformat(),
    }
    every = json.loads(resight("site", "list", "--cameras", "--json").stdout)
    cameras = {each["site"]: each["cameras"] for each in every}
    assert (cameras["seen"], cameras["empty"]) == (site["cameras"], [])
    rows = [row.split() for row in resight("site", "list", "--cameras").stdout.splitlines()]
    assert rows[0] == ["site", "camera", "sightings", "first", "last"]
    assert ["empty", "-", "0", "-", "-"] in rows
    assert ["seen", "c2", "1"] in [row[:3] for row in rows]

    missing = resight("site", "show", "nowhere")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.startswith("error: there is no site nowhere")


def test_forgetting_by_command(resight: Command, crops: Path) -> None:
    resight("site", "create", "privacy")
    resight("enroll", "--site", "privacy", "--camera", "c7", crops / "c1")
    listed = json.loads(resight("sighting", "list", "--site", "privacy", "--json").stdout)
    assert [s["camera"] for s in listed] == ["c7", "c7"]
    first = listed[0]["sighting"]
    assert resight("sighting", "delete", "--site", "privacy", first).returncode == 0
    left = json.loads(resight("sighting", "list", "--site", "privacy", "--json").stdout)
    assert left == listed[1:]
    second = left[0]["sighting"]
    again = resight("sighting", "delete", "--site", "privacy", first, "no/id", second)
    assert (again.returncode, again.stdout) == (1, f"{second}\n")
    assert "2 of 3 sightings not deleted" in again.stderr
    assert first in again.stderr
    assert "no/id" in again.stderr


def test_labels_of_enroll_and_a_list_without_end(resight: Command, tmp_path: Path) -> None:
    resight("site", "create", "labels")
    folder = tmp_path / "many"
    folder.mkdir()
    for n in range(101):
        (folder / f"{n}.png").write_bytes(crop(n))
    options = ("--camera", "c", "--person", "ann", "--track", "t1")
    assert resight("enroll", "--site", "labels", *options, folder).returncode == 0
    listed = json.loads(
        resight("sighting", "list", "--site", "labels", "--person", "ann", "--json").stdout
    )
    assert {(s["person"], s["track"]) for s in listed} == {("ann", "t1")}
    assert len(listed) == 101
    few = json.loads(
        resight("sighting", "list", "--site", "labels", "--limit", "3", "--json").stdout
    )
    assert few == listed[:3]


def test_exit_codes_of_enroll(resight: Command, crops: Path) -> None:
    resight("site", "create", "codes")
    assert resight("enroll", "--site", "codes", crops, "--strict").returncode == 1
    nothing = resight("enroll", "--site", "codes", "--camera", "c", crops / "c2" / "empty.png")
    assert nothing.returncode == 1
    assert nothing.stdout == (
        "enrolled 0 of 1 file in site codes, 0 cameras, 1 refused; stderr says why, --json names "
        "all\n"
    )
    absent = resight("enroll", "--site", "codes", crops / "absent")
    assert absent.returncode == 1
    wrong = resight("enroll", "--site", "codes", crops, "--camera", "c", "--camera-pattern", "(c)")
    assert wrong.returncode == 2


def test_an_unreachable_server(command_process: Command, crops: Path) -> None:
    done = command_process("enroll", "--site", "x", crops, server="127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: no resight server answers at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["enroll", "--site", "../etc", "{crops}"],
        ["search", "--site", "../etc", "{crops}/c1/a.png"],
        ["sighting", "list", "--site", "../etc"],
        ["site", "create", "../etc"],
    ],
)
def test_a_site_that_cannot_be_is_named_as_it_was_typed(
    command: Command, crops: Path, arguments: list[str]
) -> None:
    done = command(*(part.format(crops=crops) for part in arguments))
    assert done.returncode == 2
    assert "'../etc' is not a site id" in " ".join(done.stderr.split())
    assert "sites/" not in done.stderr


def test_a_model_that_the_gate_rejected(
    start: Callable[..., Any], command: Command, other_bundle: Bundle, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "registry")
    told = {"verdict": "reject", "adaptation": "sites/yard/adaptations/j1"}
    registry.add(other_bundle.path, verdict=json.dumps(told).encode())
    server = start(registry=registry.root)
    command("site", "create", "lobby", server=server.address)
    activate = ("models", "activate", "tiny@2", "--site", "lobby")
    refused = command(*activate, server=server.address)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == (
        "error: the gate rejected tiny@2 (sites/yard/adaptations/j1); activate another model, or "
        "force this one (--force)"
    )
    forced = command(*activate, "--force", server=server.address)
    assert forced.stdout == "tiny@2\n"
    assert forced.stderr.splitlines() == [
        "site lobby: 0 sightings; its model is now:",
        "tiny@2 is of sites/yard/adaptations/j1; the gate's verdict: reject",
    ], forced.stderr
    back = command("models", "activate", "tiny@1", "--site", "lobby", server=server.address)
    assert back.stderr.splitlines()[-1] == "tiny@1 was not judged by the gate"
    rollback = ("models", "rollback", "--site", "lobby")
    again = command(*rollback, server=server.address)
    assert (again.returncode, again.stderr.splitlines()[-1]) == (1, refused.stderr.splitlines()[-1])
    again = command(*rollback, "--force", server=server.address)
    assert (again.stdout, again.stderr) == (forced.stdout, forced.stderr)

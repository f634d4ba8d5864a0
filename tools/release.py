"""Build wheel and sdist, install the wheel into a clean environment, and serve with it there.

python -m tools.release

The environment and the working directory of the smoke test are in a temporary folder, so that
nothing of the source tree can be imported. The files in dist/ are those that passed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.tiny_model import crop, write_tiny_bundle
from tools.source_tree import ROOT, copy_source, source_files

PACKAGES = ("adapt", "cli", "models", "service")
WAIT_S = 60.0
"""How long a command of the smoke test may take."""


class ReleaseError(Exception):
    """The release cannot be made; the message says why and what to do."""


def build(folder: Path, *options: str) -> tuple[Path, Path]:
    """Build wheel and sdist in `folder` from a copy of the source tree without ignored files.

    The wheel is made from the sdist, so that both agree. options: of `python -m build`.

    Returns:
        The wheel's path, the sdist's path.
    """
    source, out = folder / "source", folder / "dist"
    copy_source(ROOT, source)
    environment = os.environ | {"PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    command = [sys.executable, "-m", "build", *options, "--outdir", str(out), str(source)]
    subprocess.run(command, env=environment, check=True)  # noqa: S603
    (wheel,) = out.glob("*.whl")
    (sdist,) = out.glob("*.tar.gz")
    return wheel, sdist


def files_of_wheel(wheel: Path) -> set[str]:
    """Paths in a wheel without its metadata, which is in *.dist-info."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def licenses_of_wheel(wheel: Path) -> list[bytes]:
    """The license texts of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/licenses/" in name]
        return [archive.read(name) for name in names]


def files_of_sdist(sdist: Path) -> set[str]:
    """Paths in an sdist, relative to its only folder, without PKG-INFO, which the build makes."""
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    return names - {"PKG-INFO"}


def check_files(what: str, found: set[str], wanted: set[str]) -> None:
    """Compare an archive's files with those of the source tree.

    Raises:
        ReleaseError: they differ.
    """
    if found != wanted:
        raise ReleaseError(
            f"{what} lacks {sorted(wanted - found)} and has {sorted(found - wanted)} too much:"
            " commit new files, and look at [tool.hatch.build] in pyproject.toml"
        )


def install(wheel: Path, environment: Path) -> Path:
    """Install a wheel for serving into a new environment; returns its folder of programs."""
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)  # noqa: S603
    programs = environment / "bin"
    command = [str(programs / "python"), "-I", "-m", "pip", "install", "--quiet"]
    command += ["--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*command, f"resight[cpu] @ {wheel.as_uri()}"], check=True)  # noqa: S603
    return programs


class Installed:
    """The commands of an installation, run in an empty folder with a clean environment."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._environment = {"PATH": os.defpath, "HOME": str(folder), "LANG": "C.UTF-8"}

    def run(self, program: str, *arguments: object) -> str:
        """What a command prints.

        Raises:
            ReleaseError: its exit code is not 0, or it takes too long.
        """
        command = [str(self._programs / program), *map(str, arguments)]
        try:
            done = subprocess.run(  # noqa: S603
                command,
                cwd=self._folder,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=WAIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ReleaseError(f"{command} took more than {WAIT_S:.0f} s") from error
        if done.returncode:
            raise ReleaseError(f"{command} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    @contextmanager
    def server(self, data: Path, bundle: Path) -> Iterator[str]:
        """Serve a bundle; gives the address. Leaving the block stops the server by SIGTERM.

        Raises:
            ReleaseError: it does not start, or its exit code is not 0.
        """
        ports = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        process = subprocess.Popen(  # noqa: S603
            [self._programs / "resight", "serve", "--data-dir", data, "--model", bundle, *ports],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None  # noqa: S101
            ready = process.stdout.readline()
            if not ready.startswith("ready: grpc "):
                raise ReleaseError(f"the server did not start, it said {ready!r}")
            yield ready.removeprefix("ready: grpc ").partition(",")[0]
            process.send_signal(signal.SIGTERM)
            if process.wait(WAIT_S):
                raise ReleaseError(f"the server ended with {process.returncode}")
        finally:
            process.kill()
            process.wait()


def smoke(programs: Path, folder: Path, version: str) -> None:
    """Use an installation as an operator would: version, help, serve, enroll, search, stop.

    Raises:
        ReleaseError: something of it does not work, or a module is not the installed one.
    """
    bundle = write_tiny_bundle(folder / "bundle").path
    crops = folder / "crops"
    crops.mkdir()
    for number in range(3):
        (crops / f"{number}.png").write_bytes(crop(number))
    empty = folder / "empty"
    empty.mkdir()
    installed = Installed(programs, empty)
    for package in PACKAGES:
        place = installed.run("python", "-c", f"import {package}; print({package}.__file__)")
        if not Path(place).is_relative_to(programs.parent):
            raise ReleaseError(f"{package} was imported from {place.strip()}")
    said = installed.run("resight", "--version").strip()
    if said != f"resight {version}":
        raise ReleaseError(f"resight --version says {said!r}, pyproject.toml {version}")
    installed.run("resight", "--help")
    with installed.server(folder / "data", bundle) as address:
        at = ("--server", address)
        installed.run("resight", "site", "create", "lobby", *at)
        installed.run("resight", "enroll", "--site", "lobby", "--camera", "c1", crops, *at)
        query = crops / "1.png"
        search = ("search", "--site", "lobby", query, "--limit", 3, "--json", *at)
        matches: list[dict[str, Any]] = json.loads(installed.run("resight", *search))["matches"]
    scores = [match["score"] for match in matches]
    if len(scores) != 3 or abs(scores[0] - 1) > 1e-4 or scores != sorted(scores, reverse=True):
        raise ReleaseError(f"the search for an enrolled crop gave the scores {scores}")


def main() -> int:
    """Make the release; returns the exit code."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    out = ROOT / "dist"
    try:
        changed = subprocess.run(
            ["git", "status", "--porcelain"],  # noqa: S607
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        if changed:
            raise ReleaseError(f"commit or remove what is not committed first:\n{changed}")
        with tempfile.TemporaryDirectory(prefix="resight-release-") as name:
            folder = Path(name)
            wheel, sdist = build(folder)
            check_files("the wheel", files_of_wheel(wheel), source_files(ROOT, *PACKAGES))
            check_files("the sdist", files_of_sdist(sdist), source_files())
            if licenses_of_wheel(wheel) != [(ROOT / "LICENSE").read_bytes()]:
                raise ReleaseError("the wheel lacks LICENSE")
            smoke(install(wheel, folder / "environment"), folder, version)
            out.mkdir(exist_ok=True)
            kept = [shutil.copy(archive, out) for archive in (wheel, sdist)]
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(*kept, sep="\n")
    print(f"tested. Date the changelog, then: git tag -a v{version} -m 'resight {version}'")
    return 0


if __name__ == "__main__":
    sys.exit(main())

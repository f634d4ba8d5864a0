"""A folder of bundles with versions: ROOT/NAME/VERSION, and the gate's report on a version in
ROOT/NAME/VERSION.gate.json. A report lies beside other bundles by the same rule. No torch.

Several processes may add at once (one lock file); readers need no lock, because a version appears
by a rename and never changes afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from models.bundle import Bundle
from models.errors import (
    BundleHashMismatchError,
    DamagedFileError,
    ModelConflictError,
    ModelNotFoundError,
    ModelReferenceError,
    RegistryError,
)
from models.files import (
    FileLock,
    atomic_folder,
    sync_directory,
    write_atomically,
    write_synced,
)
from models.job_contract import UNJUDGED, GateVerdict
from models.manifest import MANIFEST_FILE, NAME_PATTERN, VERSION_PATTERN

_LOCK_FILE, _VERDICT_SUFFIX = ".lock", ".gate.json"

DAMAGED = "damaged"
"""Stands for a verdict that cannot be read. It may have been a rejection, so it blocks like one."""

_SAFER = ("", UNJUDGED, "promote", "hold", DAMAGED, "reject")
"""Verdicts on one content, of which the last one counts. What the gate said counts more than that
it said nothing. Only a rejection counts more than one that cannot be read: that may have been one.
"""


@dataclass(frozen=True, slots=True)
class ModelReference:
    """`name` (its newest version is meant) or `name@version`."""

    name: str
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelReference:
        """Split "name" or "name@version".

        Raises:
            ModelReferenceError: a part has other characters than names and versions have.
        """
        name, at, version = text.partition("@")
        if not re.fullmatch(NAME_PATTERN, name):
            raise ModelReferenceError(
                f"{text!r} is not a model: a name has up to 63 characters of a-z, 0-9, '.', '_', "
                "'-' and starts with a letter or digit"
            )
        if at and not re.fullmatch(VERSION_PATTERN, version):
            raise ModelReferenceError(
                f"{text!r} is not a model: a version is 1 to 3 numbers, like 3, 1.2 or 1.2.0"
            )
        return cls(name, version if at else None)

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


def version_key(version: str) -> tuple[int, ...]:
    """Order of versions: number by number, a missing number before any (1 < 1.0 < 1.2 < 1.10)."""
    return tuple(int(number) for number in version.split("."))


@dataclass(frozen=True, slots=True)
class GateRecord:
    """What the gate's report beside a model says of it.

    verdict: the gate's, `promote`, `hold` or `reject`; `UNJUDGED` where the gate was due and gave
    none; `DAMAGED` where the report cannot be read; empty where there is no report. adaptation:
    that made the model, "sites/{site}/adaptations/{adaptation}"; empty where it is not known.
    problem: why the report cannot be read, or why the gate gave no verdict, for people.
    """

    verdict: str = ""
    adaptation: str = ""
    problem: str = ""

    @property
    def blocks_activation(self) -> bool:
        """Whether a site may use the model only by force: rejected, unjudged or damaged."""
        return self.verdict in ("reject", UNJUDGED, DAMAGED)

    def objection(self, reference: str) -> str:
        """Why this record of the model `reference` blocks its activation, for people."""
        made_by = self.adaptation or "unknown"
        if self.verdict == DAMAGED:
            return f"the gate's verdict on {reference} is damaged: {self.problem}"
        if self.verdict == UNJUDGED:
            return f"the gate gave no verdict on {reference} ({made_by}): {self.problem}"
        return f"the gate rejected {reference} ({made_by})"


@dataclass(frozen=True)
class Registry:
    """The bundles below `root`, which is made on the first `add`."""

    root: Path

    def add(self, path: Path, *, verdict: bytes | None = None) -> Bundle:
        """Verify a bundle and copy it in, with the gate's report on it.

        Adding the same content again changes no bundle. Of two verdicts on it the safer one is
        kept, by `_SAFER`.

        Args:
            path: of the bundle.
            verdict: the gate's report on it as JSON; None: the one that lies beside it, if any.

        Returns:
            The bundle inside the registry.

        Raises:
            BundleError: the bundle at `path` is absent, invalid or damaged.
            ModelConflictError: this name@version is registered with other content.
            RegistryError: the registry cannot be read, or a link in the model's place is broken.
            OSError: the registry cannot be written. What was there before is still there, and the
                model appears with its verdict or not at all.
        """
        source = Bundle.open(path)
        source.verify()
        self._versions_of(source.manifest.name, source.manifest.version)  # refuses broken links
        report = _report_beside(path) if verdict is None else verdict
        target = self._folder(source.manifest.name, source.manifest.version)
        with self._lock():
            target.parent.mkdir(exist_ok=True)
            sync_directory(self.root)
            # Under the lock no other process writes: hidden folders are left from a crash.
            for leftover in target.parent.glob(".*.tmp-*"):
                shutil.rmtree(leftover)
            for draft in target.parent.glob(".*.tmp"):
                draft.unlink()
            if target.exists():
                present = self._same_content(source, target)
                self._keep_safer(verdict_file(target), report)
                return present
            with atomic_folder(target) as folder:
                for name in (*source.manifest.files, MANIFEST_FILE):
                    write_synced(folder / name, (source.path / name).read_bytes())
                copied = Bundle.open(folder)
                copied.verify()
                if copied.digest != source.digest:
                    raise BundleHashMismatchError(
                        f"{path} changed while it was copied; add it again"
                    )
                # Before the model appears: a reader that sees it sees its verdict, too.
                self._keep_verdict(verdict_file(target), report)
        return Bundle.open(target)

    def gate_record(self, reference: ModelReference) -> GateRecord:
        """What the gate's report on "name@version" says; empty where there is none."""
        return _record(verdict_file(self._folder(reference.name, str(reference.version))))

    def references(self) -> tuple[ModelReference, ...]:
        """All models, names in alphabetical order, versions oldest to newest; RegistryError."""
        return tuple(
            ModelReference(name.name, version)
            for name in sorted(_folders(self.root, NAME_PATTERN))
            for version in _versions(name)
        )

    def no_models(self) -> tuple[tuple[str, str], ...]:
        """What lies in the folder and is not a model: its path there, and why; RegistryError.

        The registry's own files, the verdicts on its models and its lock, are not told.
        """
        found: list[tuple[str, str]] = []
        names = {folder.name: folder for folder in _folders(self.root, NAME_PATTERN)}
        for path in _entries(self.root):
            versions = _versions(names[path.name]) if path.name in names else []
            if versions:
                found += [
                    (f"{path.name}/{each.name}", _why_no_version(each, versions))
                    for each in _entries(path)
                    if each.name.removesuffix(_VERDICT_SUFFIX) not in versions
                ]
            elif path.name != _LOCK_FILE:
                found.append((path.name, _why_no_name(path)))
        return tuple(found)

    def newest_unblocked(self, name: str) -> ModelReference | None:
        """The newest version of a name that needs no force; None: there is none; RegistryError."""
        for version in reversed(self._versions_of(name)):
            model = ModelReference(name, version)
            if not self.gate_record(model).blocks_activation:
                return model
        return None

    def next_version(self, name: str, *used: str) -> str:
        """The first number above all versions of a name; "1" for a name that is not here.

        used: `name@version` of models elsewhere, whose versions are taken, too.
        """
        taken = self._versions_of(name)
        for other in map(ModelReference.parse, used):
            if other.name == name and other.version is not None:
                taken.append(other.version)
        return str(max((version_key(version)[0] for version in taken), default=0) + 1)

    def resolve(self, reference: str) -> Bundle:
        """Open "name" (the newest version) or "name@version".

        Raises:
            ModelReferenceError: `reference` is neither.
            ModelNotFoundError: nothing of that name or version is here.
            BundleError: it is here, and invalid or damaged.
            RegistryError: the folder of bundles cannot be read.
        """
        wanted = ModelReference.parse(reference)
        versions = self._versions_of(wanted.name, wanted.version)
        if not versions:
            known = ", ".join(str(known) for known in self.references()) or "none"
            raise ModelNotFoundError(
                f"no model {reference} in {self.root} (known: {known}); "
                "add its bundle with `resight models add`"
            )
        version = versions[-1]
        bundle = Bundle.open(self._folder(wanted.name, version))
        if bundle.reference != f"{wanted.name}@{version}":
            raise BundleHashMismatchError(
                f"{bundle.path} holds {bundle.reference}: it was moved; remove the folder "
                "and add the bundle again"
            )
        return bundle

    def verify(self, reference: str) -> Bundle:
        """Resolve a model and compare all its files with their hashes.

        Raises:
            RegistryError, BundleError: as `resolve`, and when a file differs.
        """
        bundle = self.resolve(reference)
        bundle.verify()
        return bundle

    def _versions_of(self, name: str, version: str | None = None) -> list[str]:
        """Oldest to newest; none where the name is absent, or of a file. Raises RegistryError.

        version: the only one that is looked at, so that damage to others does not matter.
        """
        pattern = VERSION_PATTERN if version is None else re.escape(version)
        return [
            found
            for folder in _folders(self.root, re.escape(name))
            for found in _versions(folder, pattern)
        ]

    def _folder(self, name: str, version: str) -> Path:
        return self.root / name / version

    @staticmethod
    def _keep_verdict(file: Path, report: bytes | None) -> None:
        if report is None:
            file.unlink(missing_ok=True)  # of a model that was here before
        else:
            write_atomically(file, report)
        sync_directory(file.parent)

    @staticmethod
    def _keep_safer(file: Path, report: bytes | None) -> None:
        if report is None:
            return
        if _SAFER.index(_verdict_in(report)) > _SAFER.index(_record(file).verdict):
            write_atomically(file, report)

    @staticmethod
    def _same_content(source: Bundle, target: Path) -> Bundle:
        present = Bundle.open(target)
        if present.digest != source.digest:
            raise ModelConflictError(
                f"{source.reference} is registered already with other content; "
                "a published version never changes: export under a new version"
            )
        present.verify()
        return present

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / _LOCK_FILE).touch()
        with FileLock(self.root / _LOCK_FILE, wait=True):
            yield


def verdict_file(bundle: Path) -> Path:
    """Where the gate's report on the bundle of a folder lies: beside it."""
    return bundle.with_name(bundle.name + _VERDICT_SUFFIX)


def _verdict_in(report: bytes) -> str:
    try:
        return GateVerdict.model_validate_json(report).verdict
    except ValidationError:
        return DAMAGED


def _report_beside(bundle: Path) -> bytes | None:
    """The gate's report on a bundle, None where there is none; empty where it cannot be read."""
    file = verdict_file(bundle.resolve())
    if not os.path.lexists(file):
        return None
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _record(file: Path) -> GateRecord:
    try:
        gate = GateVerdict.read(file)
    except FileNotFoundError:
        return GateRecord()
    except DamagedFileError as error:
        return GateRecord(DAMAGED, problem=str(error))
    problem = "; ".join(gate.reasons) if gate.verdict == UNJUDGED else ""
    return GateRecord(gate.verdict, gate.adaptation, problem)


def _versions(folder: Path, pattern: str = VERSION_PATTERN) -> list[str]:
    found = _folders(folder, pattern)
    return sorted((version.name for version in found), key=version_key)


def _folders(root: Path, pattern: str) -> list[Path]:
    """Folders below `root` of such names, none where `root` is absent. Raises RegistryError."""
    try:
        named = [path for path in root.iterdir() if re.fullmatch(pattern, path.name)]
        for path in named:
            _refuse_broken_link(path)
        return [path for path in named if path.is_dir()]
    except FileNotFoundError:
        for path in (root, *root.parents):
            _refuse_broken_link(path)
        return []
    except NotADirectoryError:
        raise RegistryError(
            f"{root} is not a folder; give the folder of registered models"
        ) from None
    except OSError as error:
        raise RegistryError(
            f"{root} cannot be read: {error.strerror}; give a folder that this user may read"
        ) from None


def _entries(root: Path) -> list[Path]:
    """What lies in a folder that `_folders` could read, by name; nothing where it is absent."""
    return sorted(root.iterdir()) if root.is_dir() else []


def _why_no_name(path: Path) -> str:
    if not path.is_dir():
        return "a file, and models are folders"
    if (path / MANIFEST_FILE).exists():
        return "a bundle that was not added; move it elsewhere and run `resight models add` on it"
    if not re.fullmatch(NAME_PATTERN, path.name):
        return "its name is none of a model"
    return "a folder without a version of a model"


def _why_no_version(path: Path, versions: Sequence[str]) -> str:
    if path.name.startswith(".") and ".tmp" in path.name:
        return "of an addition that did not end, or is under way; the next one removes it"
    if path.name.endswith(_VERDICT_SUFFIX):
        return f"a verdict on none of the versions {', '.join(versions)}"
    if not path.is_dir():
        return "a file, and models are folders"
    return "its name is none of a version, like 3 or 1.2.0"


def _refuse_broken_link(path: Path) -> None:
    """A link to nothing is not an absent model: its volume may not be mounted."""
    if path.is_symlink() and not path.exists():
        raise RegistryError(
            f"{path} is a link to a folder that does not exist; mount or restore what it leads to, "
            "or remove the link"
        )

"""The folder of one adaptation on the server's side; `models.job_contract` says what is in it.

The crops of a site are written as follows, until the adaptation is over:

    crops/0001/00000017.jpg ...    a folder for each camera
    crops/manifest.csv             path, camera, track and time of each crop
"""

from __future__ import annotations

import csv
import logging
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from models.errors import DamagedFileError
from models.job_contract import (
    BUNDLE_FOLDER,
    CROPS_FOLDER,
    GATE_FILE,
    JOB_FILE,
    LOG_FILE,
    METRICS_FILE,
    OUTCOME_FILE,
    RESUME_FILES,
    RUN_FOLDER,
    AdaptationRound,
    GateVerdict,
    Job,
    JobOutcome,
    RunRecord,
    read_rounds,
    read_rounds_after,
)
from models.registry import verdict_file
from service.jobs.records import JobState
from service.store.records import SeenCrop

log = logging.getLogger("resight.jobs")

_SUFFIXES = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"BM", ".bmp"),
    (b"RIFF", ".webp"),
)
_DATES = (datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
_LOG_TAIL_BYTES = 2000
"""Bytes at the end of the log that are searched for its last line."""


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The files of one adaptation below `path`."""

    path: Path

    @property
    def crops(self) -> Path:
        """The site's crops; present until the adaptation is over."""
        return self.path / CROPS_FOLDER

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.path / RUN_FOLDER

    @property
    def bundle(self) -> Path:
        """The model that training exported."""
        return self.path / BUNDLE_FOLDER

    @property
    def gate_file(self) -> Path:
        """The gate's verdict and figures."""
        return self.path / GATE_FILE

    @property
    def report_file(self) -> Path:
        """The gate's report as the registry is to keep it: who adds the bundle takes it along."""
        return verdict_file(self.bundle)

    @property
    def log(self) -> Path:
        """The output of the processes."""
        return self.path / LOG_FILE

    @property
    def prepared(self) -> bool:
        """Whether crops and job are written completely."""
        return (self.path / JOB_FILE).exists()

    def prepare(self, crops: Iterable[Sequence[SeenCrop]], job: Job) -> int:
        """Write crops and job, readable by the server's user only; returns the number of crops.

        What a crash left half written is replaced. Raises OSError, and DamagedFileError where the
        folder has a run or a model already: no process starts before the job is written.
        """
        for made in (self.run, self.bundle):
            if _is_there(made):
                raise DamagedFileError(
                    f"{self.path} has a {made.name} but no {JOB_FILE}, so it cannot be continued; "
                    f"what is in {made} stays there: start another adaptation"
                )
        if self.path.exists():
            log.warning("%s was left half written: it is written anew", self.path)
            shutil.rmtree(self.path)
        self.path.mkdir(mode=0o700, parents=True)
        number = self._write_crops(crops)
        job.write(self.path)  # last: it says that everything is written
        return number

    def tidy(self, state: JobState) -> None:
        """Remove the crops of an adaptation that is over, as files and decoded, and large files.

        Crops must not outlive the adaptation: they may be of a person whose sightings are deleted.
        Log, run and verdict stay, and the bundle of a failed adaptation. Raises OSError: names all
        that could not be removed; the rest is gone.
        """
        left: list[str] = []
        for name in RESUME_FILES:  # left where the run was not over
            left += _remove_file(self.run / name)
        left += _remove_folder(self.crops)
        if state is not JobState.FAILED:  # it is in the registry, or was cancelled
            left += [*_remove_folder(self.bundle), *_remove_file(self.report_file)]
        if left:
            raise OSError("; ".join(left))

    def discard_outcome(self) -> None:
        """Remove the outcome of an earlier process."""
        (self.path / OUTCOME_FILE).unlink(missing_ok=True)

    def discard_verdict(self) -> None:
        """Remove the verdict of an earlier gate."""
        self.gate_file.unlink(missing_ok=True)

    def outcome(self) -> JobOutcome | None:
        """How the last process ended; None where it wrote no outcome. Raises DamagedFileError."""
        try:
            return JobOutcome.read(self.path)
        except FileNotFoundError:
            return None

    def verdict(self) -> GateVerdict | None:
        """The gate's verdict; None where it gave none. Raises DamagedFileError."""
        try:
            return GateVerdict.read(self.gate_file)
        except FileNotFoundError:
            return None

    def rounds(self) -> list[AdaptationRound]:
        """The rounds finished so far. Raises DamagedFileError."""
        try:
            return read_rounds(self.run / METRICS_FILE)
        except FileNotFoundError:
            return []

    def rounds_after(self, number: int, *, over: bool) -> tuple[list[AdaptationRound], bool]:
        """Some rounds, and whether there are more: `read_rounds_after`.

        over: whether the adaptation is. Its rounds then are as many as its run counts, where that
        was not removed; before, a run that is resumed makes up for lost ones. Raises
        DamagedFileError.
        """
        counted = self._counted_rounds() if over else 0
        try:
            return read_rounds_after(self.run / METRICS_FILE, number, counted)
        except FileNotFoundError:
            return [], False

    def _counted_rounds(self) -> int:
        try:
            return RunRecord.read(self.run).rounds
        except FileNotFoundError:
            return 0

    def last_log_line(self) -> str:
        """The last line of the log that is not blank; empty where there is none. Raises OSError."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES, 0))
                text = file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
        return next((line for line in reversed(text.splitlines()) if line.strip()), "")

    def _write_crops(self, crops: Iterable[Sequence[SeenCrop]]) -> int:
        self.crops.mkdir()
        number = 0
        # Names of cameras are not always valid names of folders.
        folders: dict[str, str] = {}
        with (self.crops / "manifest.csv").open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["path", "camera", "track", "time"])
            for crop in (crop for chunk in crops for crop in chunk):
                folder = folders.get(crop.camera)
                if folder is None:
                    folder = folders[crop.camera] = f"{len(folders) + 1:04d}"
                    (self.crops / folder).mkdir()
                path = f"{folder}/{crop.row:08d}{_suffix(crop.image)}"
                (self.crops / path).write_bytes(crop.image)
                # Each camera numbers its own tracks: the same name at two cameras is two tracks.
                track = f"{folder}-{crop.track}" if crop.track else ""
                table.writerow([path, crop.camera, track, _time(crop.time)])
                number += 1
        return number


def tidy_all(root: Path, states: Mapping[str, JobState]) -> set[str]:
    """Tidy the folders of adaptations that are over; returns the names of unowned entries.

    states: of all adaptations, by id.
    """
    names = {path.name for path in root.iterdir()} if root.is_dir() else set()
    for name in names & states.keys():
        if states[name].over:
            try:
                JobFolder(root / name).tidy(states[name])
            except OSError as error:
                message = "%s has files that cannot be removed; remove them by hand: %s"
                log.warning(message, root / name, error)
    return names - states.keys()


def _is_there(path: Path) -> bool:
    """Whether there is such a name, be it of a link to nowhere."""
    return path.exists() or path.is_symlink()


def _remove_file(path: Path) -> list[str]:
    """Remove a file, which need not exist; returns why it could not be."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        return [str(error)]
    return []


def _remove_folder(path: Path) -> list[str]:
    """Remove as much of a folder as possible; returns what could not be removed, with the reason.

    A link is not followed: it could not be removed.
    """
    left: list[str] = []
    if _is_there(path):
        shutil.rmtree(path, onerror=lambda _, name, info: left.append(f"{name}: {info[1]}"))
    return left


def remove_folders(root: Path, adaptations: Iterable[str]) -> list[str]:
    """Remove the folders of adaptations of deleted sites; returns the ids whose folder is gone.

    None is where `root` is a link to nowhere, e.g. to a disk that is not mounted.
    """
    if not root.exists() and root.is_symlink():
        message = (
            "%s leads nowhere: the folders of deleted sites there are removed once it does not"
        )
        log.warning(message, root)
        return []
    removed = []
    for adaptation in adaptations:
        folder = root / adaptation
        present = folder.exists()
        if left := _remove_folder(folder):
            message = "%s of a deleted site cannot be removed; remove it by hand: %s"
            log.warning(message, folder, "; ".join(left))
            continue
        if present:
            log.info("removed %s: its site was deleted", folder)
        removed.append(adaptation)
    return removed


def _suffix(image: bytes) -> str:
    return next((suffix for magic, suffix in _SUFFIXES if image.startswith(magic)), ".tif")


def _time(moment: datetime) -> str:
    """ISO 8601; empty for a time outside `_DATES`, at which no camera can have seen anybody."""
    return moment.isoformat() if _DATES[0] <= moment < _DATES[1] else ""

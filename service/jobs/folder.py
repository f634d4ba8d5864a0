"""The folder of one adaptation: what the server writes for its process, and what that leaves.

crops/0001/00000017.jpg ...    the site's kept crops, a folder for each camera; until it is over
crops/manifest.csv             path, camera, track and time of each
job.json                       what the process is to do
run/                           the run folder, with metrics.jsonl
bundle/                        the model
outcome.json                   how the process ended
gate.json                      what the gate says
log.txt                        what the processes said
"""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from models.files import read_json_lines, write_atomically
from service.jobs.records import NOT_JUDGED, JobState, Judgment, Round
from service.store.records import SeenCrop

log = logging.getLogger("resight.jobs")

_SUFFIXES = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"BM", ".bmp"),
    (b"RIFF", ".webp"),
)
_DATES = (datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
_GOING_ON = ("checkpoint.safetensors", "target.crops", "source.crops")
"""Files of the run folder to go on with: where the run stands, and the crops, decoded."""
_LAST_WORDS = 2000
"""Bytes of the log's end that are looked at for what a dead process said."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the process ended by its own word: `finished`, `failed`, or `stopped`, which can go on.

    reason, error: why it failed or stopped, for programs and for people.
    """

    state: str
    reason: str
    error: str


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The files of one adaptation below `path`."""

    path: Path

    @property
    def crops(self) -> Path:
        """The site's crops; there until the adaptation is over."""
        return self.path / "crops"

    @property
    def bundle(self) -> Path:
        """The model that the process exported."""
        return self.path / "bundle"

    @property
    def verdict(self) -> Path:
        """What the gate writes."""
        return self.path / "gate.json"

    @property
    def log(self) -> Path:
        """What the processes said."""
        return self.path / "log.txt"

    @property
    def prepared(self) -> bool:
        """Whether crops and job are written completely."""
        return (self.path / "job.json").exists()

    def prepare(self, crops: Iterable[Sequence[SeenCrop]], job: Mapping[str, object]) -> int:
        """Write crops and job, for the owner of the server only; how many crops. Raises OSError."""
        shutil.rmtree(self.path, ignore_errors=True)  # what a crash left half written
        self.path.mkdir(mode=0o700, parents=True)
        number = self._write_crops(crops)
        # Last: it says that all is there.
        write_atomically(self.path / "job.json", json.dumps(job, indent=1).encode())
        return number

    def hold_back(self) -> float:
        """The share of the crops that the adaptation was begun without; raises OSError."""
        return float(json.loads((self.path / "job.json").read_bytes())["hold_back"])

    def tidy(self, state: JobState) -> None:
        """Of an adaptation that is over, remove the crops, as files and decoded, so that a person
        who is to be forgotten is not left in a copy, and what is large and of no more use; what
        tells of it stays."""
        shutil.rmtree(self.crops, ignore_errors=True)
        for name in _GOING_ON:  # a run that ended before it was done leaves them
            (self.path / "run" / name).unlink(missing_ok=True)
        if state is not JobState.FAILED:  # it is in the registry, or nobody wants it
            shutil.rmtree(self.bundle, ignore_errors=True)

    def forget_outcome(self) -> None:
        """Remove what an earlier process said at its end."""
        (self.path / "outcome.json").unlink(missing_ok=True)

    def forget_judgment(self) -> None:
        """Remove what the gate said before."""
        self.verdict.unlink(missing_ok=True)

    def outcome(self) -> Outcome | None:
        """How the last process ended, None if it did not get to say so."""
        try:
            raw = json.loads((self.path / "outcome.json").read_bytes())
            return Outcome(str(raw["state"]), str(raw["reason"]), str(raw["error"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def judgment(self) -> Judgment:
        """What the gate said, `NOT_JUDGED` if it did not."""
        try:
            raw = json.loads(self.verdict.read_bytes())
            return Judgment(str(raw["verdict"]), tuple(map(str, raw["reasons"])))
        except (OSError, ValueError, KeyError, TypeError):
            return NOT_JUDGED

    def rounds(self) -> list[Round]:
        """The finished rounds so far; a line that is still being written is none."""
        try:
            lines = read_json_lines(self.path / "run" / "metrics.jsonl")
        except FileNotFoundError:
            return []
        return [_round(line) for line in lines]

    def last_words(self) -> str:
        """The last line of the log, empty if there is none."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - _LAST_WORDS, 0))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return next((line for line in reversed(text.splitlines()) if line.strip()), "")

    def _write_crops(self, crops: Iterable[Sequence[SeenCrop]]) -> int:
        self.crops.mkdir()
        number = 0
        # Cameras may have any name, files and folders may not.
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
                # Trackers count for themselves: the same track of two cameras is two.
                track = f"{folder}-{_cell(crop.track)}" if crop.track else ""
                table.writerow([path, _cell(crop.camera), track, _time(crop.time)])
                number += 1
        return number


def tidy_all(root: Path, states: Mapping[str, JobState]) -> set[str]:
    """Tidy up after adaptations that are over; the names of what lies there of nobody.

    states: of all adaptations, by id.
    """
    names = {path.name for path in root.iterdir()} if root.is_dir() else set()
    for name in names & states.keys():
        if states[name].over:
            JobFolder(root / name).tidy(states[name])
    return names - states.keys()


def remove_folders(root: Path, adaptations: Iterable[str]) -> list[str]:
    """Remove the folders of adaptations whose site is no more; those whose folder is no more."""
    removed = []
    for adaptation in adaptations:
        folder = root / adaptation
        try:
            if folder.exists():
                shutil.rmtree(folder)
                log.info("removed %s: its site was deleted", folder)
            removed.append(adaptation)
        except OSError as error:
            log.warning("%s of a deleted site cannot be removed: %s", folder, error)
    return removed


def _suffix(image: bytes) -> str:
    return next((suffix for magic, suffix in _SUFFIXES if image.startswith(magic)), ".tif")


def _cell(name: str) -> str:
    """A name, quoted if readers of manifests would strip it: galleries may hold "c1" and "c1 ".

    So is one that begins with a quotation mark: no two names share a cell.
    """
    return f'"{name}"' if name != name.strip() or name.startswith('"') else name


def _time(moment: datetime) -> str:
    """Empty for a time that nobody can have seen somebody at."""
    return moment.isoformat() if _DATES[0] <= moment < _DATES[1] else ""


def _round(raw: Mapping[str, object]) -> Round:
    warnings = raw.get("warnings")
    return Round(
        number=int(str(raw["round"])),
        labels=str(raw.get("labels", "")),
        warnings=tuple(map(str, warnings)) if isinstance(warnings, list) else (),
        figures={
            name: float(value)
            for name, value in raw.items()
            if name != "round" and isinstance(value, int | float) and not isinstance(value, bool)
        },
    )

"""The contract of one adaptation between the server and its processes. No torch.

The server writes a folder and starts processes on it; a process reads the folder and leaves its
results there. `service.jobs` and `adapt` both import what follows, and never each other.

    python -m adapt train FOLDER                               crops -> run -> bundle
    python -m adapt gate FOLDER --old BUNDLE --device DEVICE   both bundles -> gate.json

    FOLDER/job.json        server     what to do (`Job`)
    FOLDER/crops/          server     the site's crops, and manifest.csv
    FOLDER/run/            train      the run folder, with metrics.jsonl (`AdaptationRound`)
    FOLDER/bundle/         train      the model
    FOLDER/outcome.json    both       how the process ended (`JobOutcome`)
    FOLDER/gate.json       gate       whether the model should replace the old one (`GateVerdict`)
    FOLDER/log.txt         server     what the processes print

Each JSON file is written whole or not at all (`models.files.write_atomically`), so that one that
cannot be read is damaged, not unfinished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.errors import DamagedFileError
from models.files import ALL_LINES, read_json_lines, read_json_page, write_atomically
from models.validation import read_record
from models.wording import plural

METHODS = ("aml", "daal", "hli", "mmt", "nrmt")
"""Methods of adaptation."""

NEEDS_SOURCES = frozenset({"daal"})
"""Methods that also learn from labelled source crops."""

MIN_GATE_CROPS = 100
"""The gate's verdict on fewer crops is `hold` (docs/gate.md)."""

WORKER = "adapt"
"""The module that does the work: `python -m adapt`."""

TRAIN, GATE = "train", "gate"

JOB_FILE = "job.json"
CROPS_FOLDER = "crops"
RUN_FOLDER = "run"
BUNDLE_FOLDER = "bundle"
OUTCOME_FILE = "outcome.json"
GATE_FILE = "gate.json"
LOG_FILE = "log.txt"

RUN_FILE = "run.json"
"""Of a run folder: what the run was; a server reads `RunRecord` of it."""

METRICS_FILE = "metrics.jsonl"
"""Of a run folder: one line for each finished round."""

MAX_ROUND_BYTES = 64 * 1024
"""Most bytes of a line that a server reads; one of a run of ours has some thousand."""

ROUNDS_BYTES = 256 * 1024
"""Bytes of lines that a server reads at a time: of a hundred rounds."""

CHECKPOINT_FILE = "checkpoint.safetensors"
TARGET_CROPS, SOURCE_CROPS = "target.crops", "source.crops"
RESUME_FILES = (CHECKPOINT_FILE, TARGET_CROPS, SOURCE_CROPS)
"""Of a run folder: what it is resumed from, the last state and the decoded crops."""

EXIT_CODES: Mapping[str, int] = {"finished": 0, "failed": 1, "stopped": 75}
"""Exit code of a process by `JobOutcome.state`; 75 is EX_TEMPFAIL of sysexits.h."""

Verdict = Literal["promote", "hold", "reject"]
"""What the gate says of a model that it judged."""

UNJUDGED: Final = "unjudged"
"""What the server records in place of a verdict when the gate was due and gave none."""


def train_arguments(folder: Path) -> list[str]:
    """Arguments of `WORKER` to do what is left of a job."""
    return [TRAIN, str(folder)]


def gate_arguments(folder: Path, old: Path, device: str) -> list[str]:
    """Arguments of `WORKER` to compare a job's new model with a bundle.

    old: bundle of the model in use. device: `auto`, `cpu`, `cuda` or `cuda:N`.
    """
    return [GATE, str(folder), "--old", str(old), "--device", device]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Job(_Record):
    """Contents of job.json.

    method: one of `METHODS`. recipe, overrides: as `--recipe` and `--set` of `resight adapt`.
    device: `auto`, `cpu`, `cuda` or `cuda:N`. inits: run folders of pre-trained networks; a method
    takes as many as it needs, from the first on. sources: folders of labelled crops, for methods
    that learn from them. hold_back: share of the crops in [0, 1) that is kept from training and
    given to the gate; with 0 both see all crops. name, version: of the bundle.
    """

    method: str
    recipe: str
    overrides: tuple[str, ...]
    seed: int
    device: str
    inits: tuple[Path, ...]
    sources: tuple[Path, ...]
    hold_back: float
    name: str
    version: str

    @field_validator("method")
    @classmethod
    def _is_known(cls, method: str) -> str:
        if method not in METHODS:
            raise ValueError(f"no method {method!r}; choose one of: {', '.join(METHODS)}")
        return method

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The job of a folder. Raises FileNotFoundError, DamagedFileError."""
        return read_record(folder / JOB_FILE, cls)

    def write(self, folder: Path) -> None:
        """Replace job.json. Raises OSError."""
        write_atomically(folder / JOB_FILE, self.model_dump_json(indent=1).encode())


class JobOutcome(_Record):
    """Contents of outcome.json: how the last process of a job ended.

    state: `stopped` when the process was asked to stop, or met a transient condition, e.g. a full
    disk: started again with the same arguments it continues. reason, error: why it failed or
    stopped, for programs (as in run.json) and for people; empty where it finished.
    """

    state: Literal["finished", "failed", "stopped"]
    reason: str = ""
    error: str = ""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The outcome in a folder. Raises FileNotFoundError, DamagedFileError."""
        return read_record(folder / OUTCOME_FILE, cls)

    def write(self, folder: Path) -> None:
        """Replace outcome.json. Raises OSError."""
        write_atomically(folder / OUTCOME_FILE, self.model_dump_json(indent=1).encode())


class GateVerdict(BaseModel):
    """What the gate says of a new model; its further figures in the same file are not read.

    verdict: on the new model beside the one in use. reasons: for people; of `UNJUDGED` the error
    of the last gate. adaptation: that made the
    new model, "sites/{site}/adaptations/{adaptation}"; empty where it is not known.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    verdict: Verdict | Literal["unjudged"]
    reasons: tuple[str, ...] = ()
    adaptation: str = ""

    @classmethod
    def read(cls, file: Path) -> Self:
        """The verdict in a file that the gate wrote. Raises FileNotFoundError, DamagedFileError."""
        return read_record(file, cls)


class RunRecord(BaseModel):
    """What a server reads of `RUN_FILE`.

    rounds: finished ones. A round has its line in `METRICS_FILE` before it is counted.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    rounds: int = Field(ge=0)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The record of a run folder. Raises FileNotFoundError, DamagedFileError."""
        return read_record(folder / RUN_FILE, cls)


@dataclass(frozen=True, slots=True)
class AdaptationRound:
    """A finished round of a run; figures by name, as in the run folder's metrics.jsonl."""

    number: int
    labels: str
    warnings: tuple[str, ...]
    figures: Mapping[str, float]


def read_rounds(file: Path) -> list[AdaptationRound]:
    """The rounds of a metrics.jsonl, oldest first. Raises as `read_rows`."""
    return [_round(row) for row in read_rows(file)]


def read_rounds_after(
    file: Path, number: int, counted: int = 0
) -> tuple[list[AdaptationRound], bool]:
    """The rounds of a metrics.jsonl after one of this number, as many as `ROUNDS_BYTES` have.

    counted: how many rounds the file has at least (`RunRecord.rounds`).

    Returns:
        The rounds, oldest first, and whether there are further ones.

    Raises:
        FileNotFoundError, DamagedFileError: as `read_rows`; also where a line has more than
            `MAX_ROUND_BYTES`, or there are fewer rounds than `counted`. Lines before these rounds
            are not looked at.
    """
    try:
        rows, left = read_json_page(
            file,
            after=number,
            page_bytes=ROUNDS_BYTES,
            line_bytes=MAX_ROUND_BYTES,
            min_lines=counted,
        )
    except FileNotFoundError:
        if not counted:
            raise
        raise DamagedFileError(
            f"{file} is missing, of {plural(counted, 'round')}; restore it from a copy"
        ) from None
    _check(file, rows, number + 1)
    return [_round(row) for row in rows], left


def _round(row: Mapping[str, Any]) -> AdaptationRound:
    return AdaptationRound(
        number=row["round"],
        labels=row["labels"],
        warnings=tuple(row["warnings"]),
        figures={name: float(row[name]) for name in row if name not in _ROW_FIELDS},
    )


_ROW_FIELDS = ("round", "labels", "warnings")
"""Of a line of metrics.jsonl; each further field is a figure."""


def read_rows(file: Path, which: slice = ALL_LINES) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl as they were written, oldest first.

    which: of the lines, counted from the first, 0; the others are not looked at. A last line
    that was cut short by a crash is left out.
    Raises FileNotFoundError, and DamagedFileError when line n is not round n: `round` is n,
    `labels` text, `warnings` a list of texts, and each further field a number.
    """
    rows = read_json_lines(file, which)
    _check(file, rows, 1 + (which.start or 0))
    return rows


def _check(file: Path, rows: Sequence[Mapping[str, Any]], first: int) -> None:
    """Raise `DamagedFileError` where a line has no round. first: number of the first, from 1."""
    for line, row in enumerate(rows, start=first):
        if fault := _fault(row, line):
            raise DamagedFileError(
                f"{file} is damaged in line {line} ({fault}); restore it from a copy"
            )


def _fault(row: Mapping[str, Any], line: int) -> str:
    """What is wrong with a line of metrics.jsonl, counted from 1; empty where nothing is."""
    if missing := [name for name in _ROW_FIELDS if name not in row]:
        return f"no {missing[0]}"
    if type(row["round"]) is not int:
        return "round is not an integer"
    if row["round"] != line:
        return f"it holds round {row['round']}"
    if not isinstance(row["labels"], str):
        return "labels is not text"
    warnings = row["warnings"]
    if not isinstance(warnings, list) or not all(isinstance(text, str) for text in warnings):
        return "warnings is not a list of texts"
    for name, value in row.items():
        if name not in _ROW_FIELDS and type(value) not in (int, float):
            return f"{name} is not a number"
    return _unsendable(row)


def _unsendable(row: Mapping[str, Any]) -> str:
    """What of a line JSON can hold and a message cannot: huge integers, halves of characters."""
    try:
        for name, value in row.items():
            if type(value) is int:
                float(value)
            for text in (name, value) if isinstance(value, str) else (name,):
                text.encode()
        "".join(row["warnings"]).encode()
    except OverflowError:
        return f"{name} is too large a number"
    except UnicodeEncodeError:
        return "a text is not Unicode"
    return ""

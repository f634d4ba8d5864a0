"""The run folder: what a training run was, did and left behind.

RUN/run.json             spec, origin, data, versions and device of the run, and how it ended
RUN/metrics.jsonl        one JSON object per round
RUN/model.safetensors    the network to keep, of the last finished round
RUN/labels.safetensors   of an adaptation: the labels that round learned from, one array per set
RUN/rounds/0001.safetensors ...    the network of each round, where the spec keeps them
RUN/checkpoint.safetensors         of a run that is not over: the state to resume from
RUN/target.crops, source.crops     of a run that is not over: the crops it learns from, decoded
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from adapt.errors import (
    AdaptError,
    CheckpointError,
    ConfigError,
    RunError,
    StoppedError,
    WriteError,
)
from adapt.runs.info import FORMAT, DataInfo, RunInfo
from adapt.runs.lock import locked
from adapt.runs.tensor_files import (
    load_network,
    load_tensors,
    save_network,
    save_tensors,
)
from models import job_contract
from models.backbones.net import ReIDNet
from models.errors import DamagedFileError
from models.files import ALL_LINES, FileLock, append_synced, write_atomically
from models.validation import explain
from models.wording import plural

log = logging.getLogger("resight")
_NETWORK, _METRICS, _INFO = "model.safetensors", job_contract.METRICS_FILE, job_contract.RUN_FILE
TARGET_CROPS, SOURCE_CROPS = job_contract.TARGET_CROPS, job_contract.SOURCE_CROPS
_ROUNDS, _CHECKPOINT, _LABELS = "rounds", job_contract.CHECKPOINT_FILE, "labels.safetensors"
REPORT = "report.html"
"""A page about the run; a new run in this folder replaces it."""


class FolderUse(Enum):
    """What a run folder is good for.

    NEW: a new run; it holds none, or one that finished no round and cannot be resumed. RESUME: to
    be resumed. REUSE: its run is finished. ENDED: its run is not, but cannot be resumed; it holds
    the network of the last good round.
    """

    NEW = "new"
    RESUME = "resume"
    REUSE = "reuse"
    ENDED = "ended"


class Run:
    """A run folder."""

    def __init__(self, path: Path, info: RunInfo, lock: FileLock | None = None) -> None:
        """lock: of the folder, held while this process writes there."""
        self.path = path
        self.info = info
        self._lock = lock

    @classmethod
    def create(cls, path: Path, info: RunInfo) -> Run:
        """Start a run folder; a run there that ended without a network is replaced.

        Raises RunError when the folder cannot be made, holds something, or is in use.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(
                f"cannot make {path}: {error.strerror}; choose another --out"
            ) from None
        lock = locked(path)
        try:
            if any(path.iterdir()):
                _refuse_worth(path)
                log.warning("%s: replacing a run that ended without a network", path)
                for entry in path.iterdir():
                    entry.unlink()
            run = cls(path, info, lock)
            run._write_info()
        except BaseException:
            lock.release()
            raise
        return run

    @classmethod
    def open(cls, path: Path) -> Run:
        """Read a run folder. Raises RunError when it is not one or of another format."""
        file = path / _INFO
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            if file.is_symlink():
                raise RunError(f"{file} is a link to nowhere; restore it from a copy") from None
            raise RunError(f"{path} is not a run folder: {_what_it_is(path)}") from None
        except NotADirectoryError:
            raise RunError(
                f"{path} is a file, not a run folder; `resight import --weights` makes one of it, "
                "`resight pretrain --weights` trains it on labelled crops first"
            ) from None
        except OSError as error:
            raise RunError(f"{file} cannot be read: {error.strerror}") from None
        return cls(path, _read_info(file, content))

    @staticmethod
    def is_at(path: Path) -> bool:
        """Whether a folder is a run folder: it has a run.json, be it one that cannot be read."""
        file = path / _INFO
        return file.exists() or file.is_symlink()

    def status(self) -> str:
        """`RunInfo.state` as it is now; `crashed` if that is `running` and no process writes there.

        Where the folder cannot be locked at all it stays `running`, with a warning. Only a run
        whose state is `running` is locked, for no longer than it takes to look.
        """
        if self.info.state == "running":
            try:
                lock = FileLock(self.path)
            except BlockingIOError:
                return "running"
            except OSError as error:
                log.warning(
                    "%s: whether a process still writes there cannot be told (%s); run.json says "
                    "running",
                    *(self.path, error.strerror),
                )
                return "running"
            with lock:
                self.info = Run.open(self.path).info  # it may have ended since it was read
        return "crashed" if self.info.state == "running" else self.info.state

    @property
    def can_continue(self) -> bool:
        """Whether the run is not over and has a checkpoint to resume from."""
        return not self.info.is_over and (self.path / _CHECKPOINT).exists()

    @property
    def use(self) -> FolderUse:
        """What the folder is good for, whether or not a process writes there."""
        if self.info.state == "finished":
            return FolderUse.REUSE
        if self.can_continue:
            return FolderUse.RESUME
        return FolderUse.ENDED if self.info.rounds else FolderUse.NEW

    @classmethod
    def use_of(cls, path: Path) -> FolderUse:
        """The same of a folder, which need not exist. Raises RunError as `open`."""
        return cls.open(path).use if cls.is_at(path) else FolderUse.NEW

    @classmethod
    def reopen(cls, path: Path) -> Run:
        """Open the folder of a run that is not over, to resume it.

        Raises RunError when it is over or in use.
        """
        cls.open(path)
        lock = locked(path)
        try:
            run = cls(path, cls.open(path).info, lock)  # as its last process left it
            info = run.info
            if info.state == "finished":
                raise RunError(f"{path} is finished: there is nothing to continue")
            if info.is_over:
                raise RunError(
                    f"{path} ended for good ({info.reason}): {info.error}; start a new run"
                )
            for entry in filter(_half_written, path.iterdir()):
                entry.unlink()
        except BaseException:
            lock.release()
            raise
        return run

    def load_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and notes of the last saved state.

        Raises CheckpointError, and RunError when the recipe in run.json is not the one that the
        checkpoint was trained by.
        """
        file = self.path / _CHECKPOINT
        tensors, notes = load_tensors(file)
        if notes.pop("format", None) != FORMAT:
            raise CheckpointError(f"{file} is of another version of resight: start the run again")
        if notes.pop("recipe", None) != self.info.spec.recipe_hash():
            raise RunError(
                f"the recipe in {self.path / _INFO} is not the one that the run was trained by up "
                "to its checkpoint; what changed cannot be told: restore run.json, or start a new "
                "run with the other recipe"
            )
        return tensors, notes

    def save_checkpoint(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Replace the checkpoint. Raises RunError as `record` does; the last one then stays."""
        with self._writing():
            marked = {**notes, "format": FORMAT, "recipe": self.info.spec.recipe_hash()}
            save_tensors(self.path / _CHECKPOINT, tensors, marked)

    def move_target(self, target: Path, data: DataInfo) -> None:
        """Note where the site's crops are now. data: the same crops, as they were read there."""
        moved = tuple(data if each.role == "target" else each for each in self.info.data)
        self._update(spec=self.info.spec.changed(target=target.resolve()), data=moved)

    def rewind(self, rounds: int, processes: int = 1) -> None:
        """Return to the end of an earlier round: drop the figures of the rounds after it.

        Figures that a power cut took from the last rounds are replaced by a warning: the state to
        continue from does not need them.
        processes: that continue from there.
        Raises RunError when a line of an earlier round is damaged.
        """
        rows = self._rows(slice(rounds))
        for number in range(len(rows) + 1, rounds + 1):
            log.warning("%s: the figures of round %d are lost", self.path, number)
            lost = "the figures of this round are lost"
            rows.append({"round": number, "labels": "", "warnings": [lost]})
        # run.json first: there are never fewer figures than rounds it counts
        self._update(rounds=rounds, processes=processes, state="running", reason="", error="")
        with self._writing():
            kept = "".join(map(_line, rows))
            write_atomically(self.path / _METRICS, kept.encode())

    def record(
        self,
        metrics: Mapping[str, Any],
        net: ReIDNet,
        labels: Sequence[NDArray[np.int64]] = (),
    ) -> None:
        """Keep a finished round: append its figures, replace the network and its labels.

        Each is on the disk before the next is written, and run.json counts the round last.
        metrics: as `models.job_contract.read_rows` reads them. Those that are not finite are left
            out, with a warning in the row: JSON has no such numbers.
        labels: (N,) per set, of the crops in the order of `decode_crops`; may be none.
        Raises RunError when that cannot be written; the network of the round before then stays.
        """
        with self._writing():
            append_synced(self.path / _METRICS, _line(metrics).encode())
            if labels:
                # Copies: both networks of AML may learn from one array.
                tensors = {f"{i:02d}": torch.tensor(each) for i, each in enumerate(labels)}
                save_tensors(self.path / _LABELS, tensors, {"round": self.info.rounds + 1})
            save_network(net, self.path / _NETWORK)
            if self.info.spec.keep_rounds:
                kept = self._round_file(self.info.rounds + 1)
                kept.parent.mkdir(exist_ok=True)
                save_network(net, kept)
        self._update(rounds=self.info.rounds + 1)

    def keep(self, net: ReIDNet) -> None:
        """Keep a network that no round trained. Raises RunError as `record` does."""
        with self._writing():
            save_network(net, self.path / _NETWORK)

    def finish(
        self, seconds: float, stopped_by: AdaptError | KeyboardInterrupt | None = None
    ) -> None:
        """Close the run; `stopped_by` is why it is not finished. Raises RunError as `record` does.

        The checkpoint and the decoded crops stay where the run can be resumed. One that cannot be
        removed elsewhere is named in a warning.
        """
        ended: dict[str, object] = {"seconds": seconds, "state": "finished"}
        if stopped_by is not None:
            reason = stopped_by.reason if isinstance(stopped_by, AdaptError) else "INTERRUPTED"
            asked = isinstance(stopped_by, StoppedError)
            ended |= {"state": "stopped" if asked else "failed", "reason": reason}
            ended["error"] = str(stopped_by) or "interrupted"
        try:
            self._update(**ended)
            if not self.can_continue:
                for name in job_contract.RESUME_FILES:
                    self._remove(self.path / name)
        finally:
            self.release()

    def release(self) -> None:
        """Release the folder's lock: this process writes there no more."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def network(self, round_number: int | None = None) -> ReIDNet:
        """Build the kept network, in eval mode, on the CPU; warns if the run did not finish.

        round_number: from 1, that of a round; the last one unless given.
        Raises RunError when it is not there or damaged.
        """
        file = self.path / _NETWORK
        if round_number is not None:
            file = self._round_file(round_number)
            if round_number not in self.kept_rounds():
                kept = ", ".join(map(str, self.kept_rounds())) or "none"
                raise RunError(
                    f"{self.path} did not keep the network of round {round_number} (kept: {kept}); "
                    "--keep-rounds keeps them all"
                )
        elif self.info.state != "finished":
            if not self.info.rounds:
                raise RunError(
                    f"{self.path} has no network: it has not finished its first round (state: "
                    f"{self.status()}); resume or start it again, or give another run folder"
                )
            log.warning(
                "%s did not finish: its network is of round %d", self.path, self.info.rounds
            )
        net = ReIDNet(self.info.backbone, attention=self.info.attention)
        load_network(net, file)
        return net.eval()

    def labels(self) -> tuple[NDArray[np.int64], ...]:
        """(N,) pseudo labels per set that the last finished round learned from.

        Rows follow the target's crops as `decode_crops` orders them by content.
        Raises RunError when they were not kept, are damaged, or are of another round.
        """
        file = self.path / _LABELS
        if not file.exists():
            raise RunError(f"{self.path} has no labels: it finished no round of an adaptation")
        try:
            tensors, notes = load_tensors(file)
        except CheckpointError as error:
            raise RunError(f"{error}; the labels of the last round are lost") from error
        arrays = tuple(tensors[name].numpy() for name in sorted(tensors))
        if any(each.ndim != 1 or each.dtype != np.int64 for each in arrays) or not arrays:
            raise RunError(f"{file} is damaged: labels are one-dimensional int64")
        if notes.get("round") != self.info.rounds:
            raise RunError(f"{file} is of round {notes.get('round')}, not {self.info.rounds}")
        return arrays

    def kept_rounds(self) -> list[int]:
        """Numbers of the finished rounds whose networks were kept."""
        rounds = range(1, self.info.rounds + 1)
        return [number for number in rounds if self._round_file(number).is_file()]

    def _round_file(self, number: int) -> Path:
        return self.path / _ROUNDS / f"{number:04d}.safetensors"

    def network_hash(self) -> str:
        """sha256 of the kept network's file. Raises RunError when there is none."""
        try:
            return hashlib.sha256((self.path / _NETWORK).read_bytes()).hexdigest()
        except OSError as error:
            raise RunError(f"{self.path} holds no network: {error.strerror}") from None

    def metrics(self) -> list[dict[str, Any]]:
        """The rounds so far, oldest first.

        A last line without its end was cut off when the process was killed; it is not a round.
        Raises RunError when any other line is damaged, or rounds are missing.
        """
        rows = self._rows()
        if len(rows) < self.info.rounds:
            raise RunError(
                f"{self.path / _METRICS} has {len(rows)} of {plural(self.info.rounds, 'round')} "
                "that run.json counts; restore it from a copy"
            )
        return rows

    def figures_of(self, number: int) -> dict[str, Any] | None:
        """The figures of one round, from 1; None where the run finished no such round.

        Raises RunError when its line is damaged or lost.
        """
        rows = self._rows(slice(number - 1, number))
        if not rows and 1 <= number <= self.info.rounds:
            raise RunError(
                f"{self.path / _METRICS} has no line of round {number}, which {_INFO} counts; "
                "restore it from a copy"
            )
        return rows[0] if rows else None

    def _rows(self, which: slice = ALL_LINES) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl; there is no such file before the first round is finished."""
        try:
            return job_contract.read_rows(self.path / _METRICS, which)
        except FileNotFoundError:
            return []
        except DamagedFileError as error:
            raise RunError(str(error)) from None

    def _remove(self, file: Path) -> None:
        """Remove what a run that is over does not need: a failure changes nothing of the run."""
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s cannot be removed (%s): remove it by hand", file, error.strerror)

    def _update(self, **changes: object) -> None:
        self.info = self.info.model_copy(update=changes)
        self._write_info()

    def _write_info(self) -> None:
        with self._writing():
            write_atomically(self.path / _INFO, self.info.model_dump_json(indent=2).encode())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            again = "make room there or choose another --out, and start the run again"
            if (self.path / _CHECKPOINT).exists():
                again = f"make room there, then resume it with --resume {self.path}"
            raise WriteError(f"cannot write to {self.path}: {error.strerror}; {again}") from error


def _what_it_is(path: Path) -> str:
    """What a folder without a run.json is, and what to do."""
    if (path / "manifest.json").is_file():
        return (
            "it is a bundle, which is served and cannot be trained; give the run folder that it "
            "was exported from"
        )
    return f"there is no {path / _INFO}; check the path"


def _read_info(file: Path, content: bytes) -> RunInfo:
    """Contents of a run.json. Raises RunError when it is damaged or of another format."""
    try:
        found = json.loads(content)
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise RunError(f"{file} is damaged ({error}); restore it from a copy") from None
    if found.get("format") != FORMAT:
        raise RunError(
            f"{file} has format {found.get('format')}, this version reads {FORMAT}: use the "
            "version of resight that wrote it, or start a new run with this one"
        )
    try:
        return RunInfo.model_validate_json(content)
    except ValidationError as error:
        raise RunError(f"{file} is invalid: {explain(error)}; restore it from a copy") from None
    except ConfigError as error:
        raise RunError(f"{file} is invalid: {error}; restore it from a copy") from None


def in_run(file: Path) -> Path | None:
    """The run folder that a file lies in, or would, at any depth that runs have; resolved."""
    above = file.resolve().parents[:2]
    return next((folder for folder in above if Run.is_at(folder)), None)


def refuse_taken_run(path: Path) -> None:
    """Raise RunError unless `Run.create` could start a run there; changes nothing."""
    if not path.exists():
        return
    if not path.is_dir():
        raise RunError(f"{path} is a file; choose another --out")
    with locked(path):
        if any(path.iterdir()):
            _refuse_worth(path)


def _refuse_worth(path: Path) -> None:
    """Raise RunError if a folder holds more than a run that ended without a network."""
    taken = RunError(f"{path} exists and is not empty; choose another --out or remove it")
    if (path / _CHECKPOINT).exists() and _can_continue(path):
        raise RunError(
            f"{path} holds a run that is not over: continue it with --resume {path}, choose "
            "another --out, or remove it"
        )
    for entry in path.iterdir():
        ours = (_INFO, _METRICS, REPORT, TARGET_CROPS, SOURCE_CROPS)
        if entry.name not in ours and not _half_written(entry):
            raise taken
    if not Run.is_at(path):
        raise taken
    try:
        use = Run.open(path).use
    except RunError:
        raise taken from None
    if use is not FolderUse.NEW:
        raise taken


def _can_continue(path: Path) -> bool:
    """`Run.can_continue` of a folder that is to be another run's. Raises RunError as `open`."""
    try:
        return Run.open(path).can_continue
    except RunError as error:
        raise RunError(
            f"{path} has a checkpoint, but its run cannot be read ({error}): restore that, or "
            "choose another --out"
        ) from None


def _half_written(path: Path) -> bool:
    """Whether a killed process left it: a temporary file of ours or of safetensors."""
    return path.name.startswith(".tmp") or (path.name.startswith(".") and path.suffix == ".tmp")


def _line(row: Mapping[str, Any]) -> str:
    """A round in metrics.jsonl; figures that are not finite are a warning instead."""
    odd = [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]
    if odd:
        left_out = f"left out, as they are not finite: {', '.join(odd)}"
        kept = {name: value for name, value in row.items() if name not in odd}
        row = {**kept, "warnings": [*row.get("warnings", ()), left_out]}
    return json.dumps(row, allow_nan=False) + "\n"

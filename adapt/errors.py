"""Errors of `adapt`. Every message says what to do.

AdaptError
├── DataError                 a folder, file or table that cannot be used
│   ├── NoImagesError         nothing readable below a folder
│   ├── TooFewCropsError      a site that is too small to learn from
│   ├── NonFiniteFeaturesError  NaN or infinity in features
│   └── ZeroFeaturesError     rows of zeros in features
├── ConfigError               an invalid recipe, --set value or --device
├── RunError                  a run folder that cannot be read or continued
│   ├── WriteError            a run folder that cannot be written now, as its disk is full
│   └── CheckpointError       a checkpoint that does not fit
├── StoppedError              a run that was asked to stop, and can be continued
├── LostProcessError          another process of the run has ended, or does not answer
├── ClusteringError           clusters that cannot be trained on (collapse)
├── TrainingError             training that leads nowhere
│   ├── DivergedError         a loss or a network that is NaN or infinite
│   ├── NothingLearnedError    a round that held nothing to learn from
│   └── AttentionError        attention that tells nothing apart (DAAL)
└── ExportError               ONNX that does not equal its torch network
"""

from __future__ import annotations

from typing import ClassVar

from models.wording import plural


class AdaptError(Exception):
    """Base of all errors a user of `adapt` can meet.

    reason: what `run.json` calls it where it stops a run; docs/cli.md lists them.
    """

    reason: ClassVar[str] = "FAILED"


class DataError(AdaptError):
    """A folder, file or table that cannot be used."""

    reason = "DATA_UNUSABLE"


class NoImagesError(DataError):
    """Nothing readable below a folder."""


class TooFewCropsError(DataError):
    """A site that is too small to learn from, or shows one person only."""


class NonFiniteFeaturesError(DataError):
    """NaN or infinity in features."""

    reason = "FEATURES_NOT_FINITE"

    def __init__(self, first_row: int, rows: int) -> None:
        super().__init__(
            f"NaN or infinity in {plural(rows, 'feature row')} (first: row {first_row}); "
            "the network diverged or the input file is damaged: lower the learning rate or "
            "extract the features again"
        )
        self.first_row = first_row
        self.rows = rows


class ZeroFeaturesError(DataError):
    """Rows of features with nothing but zeros, which point nowhere. name: of the set."""

    def __init__(self, name: str, first_row: int, rows: int) -> None:
        super().__init__(
            f"{plural(rows, f'{name} feature row')} with nothing but zeros (first: row "
            f"{first_row}): no direction to compare; extract the features again"
        )
        self.rows = rows


class ConfigError(AdaptError):
    """An invalid recipe, --set value or --device."""

    reason = "CONFIG_INVALID"


class RunError(AdaptError):
    """A run folder that cannot be read or continued."""

    reason = "RUN_FOLDER_UNUSABLE"


class WriteError(RunError):
    """A run folder that cannot be written now: its disk is full, or somebody else writes there."""

    reason = "RUN_FOLDER_UNWRITABLE"


class CheckpointError(RunError):
    """A checkpoint that does not fit."""


class StoppedError(AdaptError):
    """A run that was asked to stop, and can be continued."""

    reason = "STOPPED"


class LostProcessError(AdaptError):
    """Another process of the run has ended, or does not answer."""

    reason = "PROCESS_LOST"


class ClusteringError(AdaptError):
    """Clusters that cannot be trained on."""

    reason = "CLUSTERS_COLLAPSED"


class TrainingError(AdaptError):
    """Training that leads nowhere."""

    reason = "TRAINING_FAILED"


class DivergedError(TrainingError):
    """A loss or a network that is NaN or infinite."""

    reason = "DIVERGED"


class NothingLearnedError(TrainingError):
    """A round that held nothing to learn from."""

    reason = "NOTHING_LEARNED"


class AttentionError(TrainingError):
    """Attention that is the same everywhere, 0 or 1: no domain-specific part is told apart."""

    reason = "ATTENTION_STUCK"


class ExportError(AdaptError):
    """ONNX that does not equal its torch network."""

    reason = "EXPORT_FAILED"

"""Errors of `adapt`. Every message says what to do.

AdaptError
├── DataError                 a folder, file or table that cannot be used
│   ├── NoImagesError         nothing readable below a folder
│   └── NonFiniteFeaturesError  NaN or infinity in features
├── ConfigError               a recipe, --set value or --device that does not hold
├── RunError                  a run folder that cannot be read or continued
├── ClusteringError           clusters that cannot be trained on (collapse)
├── TrainingError             a loss that is NaN or infinite, or nothing left to learn from
│   └── AttentionError        attention that tells nothing apart (DAAL)
└── ExportError               ONNX that does not equal its torch network
"""

from __future__ import annotations


class AdaptError(Exception):
    """Base of all errors a user of `adapt` can meet."""


class DataError(AdaptError):
    """A folder, file or table that cannot be used."""


class NoImagesError(DataError):
    """Nothing readable below a folder."""


class NonFiniteFeaturesError(DataError):
    """NaN or infinity in features."""

    def __init__(self, first_row: int, rows: int) -> None:
        super().__init__(
            f"{rows} feature rows hold NaN or infinity (first: row {first_row}); "
            "the network diverged or the input file is damaged: lower the learning rate or "
            "extract the features again"
        )
        self.first_row = first_row
        self.rows = rows


class ConfigError(AdaptError):
    """A recipe, --set value or --device that does not hold."""


class RunError(AdaptError):
    """A run folder that cannot be read or continued."""


class ClusteringError(AdaptError):
    """Clusters that cannot be trained on."""


class TrainingError(AdaptError):
    """A loss that is NaN or infinite, or nothing left to learn from."""


class AttentionError(TrainingError):
    """Attention that is the same everywhere, 0 or 1: no domain-specific part is told apart."""


class ExportError(AdaptError):
    """ONNX that does not equal its torch network."""

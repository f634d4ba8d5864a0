"""What a method is to the training loop, and nothing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from adapt.clustering.clusterer import Clusterer
from adapt.config import MethodOptions
from adapt.types import Batch, FeatureTable, Losses, PseudoLabels, RoundOf
from models.backbones.net import ReIDNet


class Method(Protocol):
    """A training method: its networks, its labels, its loss and what follows a step.

    The loop (`adapt.training.loop`) owns everything else: extraction, sampling, augmentation, the
    optimizer, logging and checkpoints.

    Options: the record of hyper-parameters that only this method has.
    views: independently augmented views of each batch that `step` wants.
    fresh_optimizer: whether the optimizer starts anew each round; else it keeps the moments of
        every parameter that is still there (new classifiers have none).
    sampling: `identities` for batches of P identities with S crops each, outliers left out;
        `images` for P x S crops drawn from all, outliers among them.
    """

    Options: ClassVar[type[MethodOptions]]
    views: ClassVar[int]
    sampling: ClassVar[Literal["identities", "images"]]

    @property
    def fresh_optimizer(self) -> bool: ...

    def networks(self) -> Mapping[str, nn.Module]:
        """All networks by name, and heads beside them: moved to the device, put in train mode."""
        ...

    def trained(self) -> Sequence[nn.Module]:
        """What of these the optimizer changes."""
        ...

    def extractors(self) -> Sequence[ReIDNet]:
        """The networks whose embeddings `relabel` wants, in the order of its table."""
        ...

    def relabel(self, table: FeatureTable, when: RoundOf) -> tuple[PseudoLabels, ...]:
        """Label the target anew, once or more; called once before the steps of each round."""
        ...

    def label_seconds(self) -> Mapping[str, float]:
        """Seconds that `relabel` has spent so far in stages that are told apart, by their names."""
        ...

    def step(self, batches: tuple[Batch, ...]) -> Losses:
        """Forward one batch of each set of labels; the loop weights, sums and back-propagates.

        Where a run has source crops their batch comes last, labelled by true identity.
        """
        ...

    def after_step(self, step: int) -> None:
        """Follow an optimizer step; `step` counts from 0 over all rounds."""
        ...

    def after_round(self, figures: Mapping[str, float]) -> Sequence[str]:
        """Look back at a round before it counts: warnings for people.

        figures: means of the round's loss terms and stats, by the names they are logged under.
        Raises TrainingError where nothing was learned.
        """
        ...

    def memory(self) -> Mapping[str, NDArray[Any]]:
        """What the rest of a run follows from besides networks and labels, for a checkpoint."""
        ...

    def recall(self, memory: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `memory` gave in an earlier process, before networks are loaded."""
        ...

    def embedder(self) -> ReIDNet:
        """The network to keep: evaluated, exported, served."""
        ...


class SiteMethod(Method, Protocol):
    """A method that adapts source-trained networks to an unlabelled site.

    students_wanted: how many source-trained networks it starts from; its options may leave fewer.
    """

    students_wanted: ClassVar[int]

    def __init__(
        self, students: Sequence[ReIDNet], options: MethodOptions, clusterer: Clusterer
    ) -> None: ...


@runtime_checkable
class SourceMethod(SiteMethod, Protocol):
    """A method that learns from labelled source crops, too: its steps get a batch of them."""

    def start_source(self, center_KD: NDArray[np.float32]) -> None:
        """Learn, once before training, where each source person's embeddings lie.

        center_KD: a row of unit length for each person, in the order of the batches' labels.
        """
        ...

"""What the training loop asks of a method, and what methods that cluster share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from adapt.clustering.clusterer import Clusterer
from adapt.config import MethodOptions
from adapt.types import Batch, FeatureTable, Losses, PseudoLabels, RoundOf
from models.backbones.net import ReIDNet


class Method(Protocol):
    """A training method: its networks, its labels, its loss and what follows a step.

    The loop (`adapt.training.loop`) does everything else: extraction, sampling, augmentation, the
    optimizer, logging and checkpoints.

    Options: the hyper-parameters that only this method has.
    views: independently augmented views of each batch that `step` wants.
    fresh_optimizer: whether the optimizer starts anew each round; else it keeps the moments of
        every parameter that still exists (new classifiers have none).
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
        """The networks that the optimizer changes."""
        ...

    def extractors(self) -> Sequence[ReIDNet]:
        """The networks whose embeddings `relabel` gets, in the order of its table."""
        ...

    def relabel(self, table: FeatureTable, when: RoundOf) -> tuple[PseudoLabels, ...]:
        """Label the target, with one set of labels or more; called before each round's steps."""
        ...

    def label_seconds(self) -> Mapping[str, float]:
        """Seconds that `relabel` has spent so far, by stage."""
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
        """Check a finished round before it is kept; returns warnings for people.

        figures: means of the round's loss terms and stats, by the names they are logged under.
        Raises TrainingError where nothing was learned.
        """
        ...

    def state_dict(self) -> Mapping[str, NDArray[Any]]:
        """What a checkpoint needs of the method besides its networks and labels."""
        ...

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state_dict` returned in an earlier process; networks are loaded after."""
        ...

    def embedder(self) -> ReIDNet:
        """The network that is evaluated, exported and served."""
        ...


class SiteMethod(Method, Protocol):
    """A method that adapts source-trained networks to an unlabelled site.

    max_students: source-trained networks that it starts from; its options may ask for fewer
        (`adapt.methods.students_of`).
    """

    max_students: ClassVar[int]

    def __init__(
        self, students: Sequence[ReIDNet], options: MethodOptions, clusterer: Clusterer
    ) -> None: ...


OptionsT = TypeVar("OptionsT", bound=MethodOptions)


class ClusteringMethod(Generic[OptionsT]):
    """Base class of the methods that label a site by clustering its features.

    A subclass adds its networks, `relabel`, `step` and `embedder`. Unless it overrides them, the
    students are trained and extract the features, nothing follows a step or a round, and a
    checkpoint keeps the state of the clusterer.
    """

    Options: ClassVar[type[MethodOptions]]
    max_students: ClassVar[int]
    views: ClassVar[int] = 1
    sampling: ClassVar[Literal["identities", "images"]] = "identities"
    fresh_optimizer: bool = True

    def __init__(
        self, students: Sequence[ReIDNet], options: OptionsT, clusterer: Clusterer
    ) -> None:
        """Start from source-trained networks, as many as the options ask for."""
        wanted = options.students_wanted(self.max_students)
        if len(students) != wanted:
            name = type(self).__name__
            raise ValueError(
                f"networks given: {len(students)}; {name} trains {wanted} with these options"
            )
        self.students = tuple(students)
        self.options = options
        self.clusterer = clusterer

    def label_seconds(self) -> Mapping[str, float]:
        """Seconds of the clusterer's stages so far."""
        return self.clusterer.stages.seconds

    def trained(self) -> Sequence[nn.Module]:
        """The students."""
        return self.students

    def extractors(self) -> Sequence[ReIDNet]:
        """The students."""
        return self.students

    def after_step(self, step: int) -> None:
        """Nothing follows a step."""

    def after_round(self, figures: Mapping[str, float]) -> Sequence[str]:
        """No warnings."""
        return ()

    def state_dict(self) -> Mapping[str, NDArray[Any]]:
        """The state of the clusterer."""
        return self.clusterer.state_dict()

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state_dict` returned."""
        self.clusterer.load_state_dict(state)


@runtime_checkable
class SourceMethod(SiteMethod, Protocol):
    """A method that also learns from labelled source crops: its steps get a batch of them."""

    def start_source(self, center_KD: NDArray[np.float32]) -> None:
        """Take the mean embedding of each source person, once before training.

        center_KD: a row of unit length for each person, in the order of the batches' labels.
        """
        ...

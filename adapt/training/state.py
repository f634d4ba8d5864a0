"""The state of a training run between two steps, and as plain tensors and figures.

What the rest of a run follows from: networks, optimizer, the round's labels, what the method keeps,
and torch's random numbers. Samplers and augmentation follow from the seed and the step.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from adapt.errors import CheckpointError
from adapt.methods.base import Method
from adapt.types import PseudoLabels
from models.backbones.net import ReIDNet

Optimizer = torch.optim.Optimizer


@dataclass(frozen=True)
class Snapshot:
    """A `TrainerState` to be saved: tensors on the CPU by name, and what JSON holds exactly."""

    tensors: Mapping[str, Tensor]
    notes: Mapping[str, Any]

    @property
    def rounds(self) -> int:
        """Finished rounds."""
        return int(self.notes["round"])


class Means:
    """Mean of each named figure over the steps of a round."""

    def __init__(self, values: Mapping[str, list[float]] | None = None) -> None:
        self._values = defaultdict(list, values or {})

    def add(self, figures: Mapping[str, float]) -> None:
        """Take the figures of a step."""
        for name, value in figures.items():
            self._values[name].append(value)

    def result(self) -> dict[str, float]:
        """The means."""
        return {name: float(np.mean(values)) for name, values in self._values.items()}

    def values(self) -> dict[str, list[float]]:
        """All figures."""
        return dict(self._values)


class Clock:
    """Seconds of each stage of a round, before a stop and after it."""

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        """Begin with a stage. seconds: by figure, of the part that is behind."""
        self.seconds = defaultdict(float, seconds or {})
        self._last = time.perf_counter()

    def lap(self, stage: str, parts: Mapping[str, float] | None = None) -> None:
        """End a stage. parts: seconds of it that are told apart; the stage's own are the rest."""
        now = time.perf_counter()
        spent = now - self._last
        for part, seconds in (parts or {}).items():
            self.seconds[f"seconds_{part}"] += seconds
            spent -= seconds
        self.seconds[f"seconds_{stage}"] += max(0.0, spent)
        self._last = now


@dataclass
class TrainerState:
    """The state of a run, which the loop advances.

    round: number of the round, from 0. steps_in_round: its finished steps; at 0 it has not begun.
    steps: finished steps of all rounds.
    labels: of this round, or of the one before if it has not begun.
    figures, warnings: what labelling gave. means: of the steps so far.
    clock: of the stages so far.
    """

    round: int = 0
    steps_in_round: int = 0
    steps: int = 0
    labels: tuple[PseudoLabels, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    means: Means = field(default_factory=Means)
    clock: Clock = field(default_factory=Clock)
    optimizer: Optimizer | None = None

    def state_dict(self, method: Method) -> Snapshot:
        """Copy all that the rest of the run follows from: networks, memory, random numbers."""
        tensors: dict[str, Tensor] = {"random": torch.get_rng_state()}
        for name, net in method.networks().items():
            tensors |= {f"network/{name}/{key}": v for key, v in net.state_dict().items()}
        if self.optimizer is not None:
            for name, slots in _slots(method, self.optimizer):
                tensors |= {f"optimizer/{name}/{slot}": value for slot, value in slots.items()}
        for number, labels in enumerate(self.labels):
            tensors[f"labels/{number}"] = torch.from_numpy(labels.labels)
        for name, array in method.state_dict().items():
            tensors[f"memory/{name}"] = torch.from_numpy(np.asarray(array))
        notes = {
            "round": self.round,
            "steps_in_round": self.steps_in_round,
            "steps": self.steps,
            "rules": [labels.rule for labels in self.labels],
            "label_warnings": [labels.warnings for labels in self.labels],
            "radii": [labels.radius for labels in self.labels],
            "figures": self.figures,
            "warnings": self.warnings,
            "means": self.means.values(),
            "stages": dict(self.clock.seconds),
            "optimizer": self.optimizer is not None,
        }
        copies = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
        return Snapshot(copies, notes)

    def load_state_dict(
        self, method: Method, snapshot: Snapshot, optimizer: Optimizer | None
    ) -> None:
        """Take over a state, after `restore_networks`; torch's random numbers continue from it.

        optimizer: a new one over the method's networks, to be filled; None where the snapshot has
        none. Raises CheckpointError when the snapshot does not match.
        """
        notes = snapshot.notes
        if optimizer is not None:
            _fill(method, optimizer, snapshot)
        torch.set_rng_state(snapshot.tensors["random"])
        self.round, self.steps = notes["round"], notes["steps"]
        self.steps_in_round = notes["steps_in_round"]
        self.labels = tuple(
            PseudoLabels(snapshot.tensors[f"labels/{n}"].numpy(), rule, tuple(warnings), radius)
            for n, (rule, warnings, radius) in enumerate(
                zip(notes["rules"], notes["label_warnings"], notes["radii"], strict=True)
            )
        )
        self.figures, self.warnings = dict(notes["figures"]), tuple(notes["warnings"])
        self.means, self.clock = Means(notes["means"]), Clock(notes["stages"])
        self.optimizer = optimizer


class Checkpointer(Protocol):
    """Saves the states of a run, and stops it on request."""

    def is_due(self) -> bool:
        """Whether a state is to be saved now."""
        ...

    def save(self, make_snapshot: Callable[[], Snapshot]) -> None:
        """Save the state of now.

        Raises StoppedError if the run is to stop, RunError if the state cannot be written.
        """
        ...

    def check_stop(self) -> None:
        """Between two states. Raises StoppedError if the run is to stop."""
        ...


class NoCheckpointer:
    """Of a run that saves no state and is never stopped."""

    def is_due(self) -> bool:
        """Never."""
        return False

    def save(self, make_snapshot: Callable[[], Snapshot]) -> None:
        """Nothing to do."""

    def check_stop(self) -> None:
        """Nothing to do."""


def restore_networks(method: Method, snapshot: Snapshot) -> None:
    """Put the method's memory and its networks back, classifiers in the size they had.

    Raises CheckpointError when they do not match.
    """
    method.load_state_dict({k: v.numpy() for k, v in _below(snapshot, "memory/").items()})
    for name, net in method.networks().items():
        kept = _below(snapshot, f"network/{name}/")
        if isinstance(net, ReIDNet) and "classifier.weight" in kept:
            net.reset_classifier(len(kept["classifier.weight"]))
        _load(net, kept, name)


def _load(net: nn.Module, kept: Mapping[str, Tensor], name: str) -> None:
    try:
        net.load_state_dict(dict(kept))
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint's {name} does not match: {error}") from error


def _below(snapshot: Snapshot, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in snapshot.tensors.items() if k.startswith(prefix)}


def _named_parameters(method: Method) -> Iterator[tuple[str, nn.Parameter]]:
    for number, net in enumerate(method.trained()):
        for name, parameter in net.named_parameters():
            yield f"{number}.{name}", parameter


def _slots(method: Method, optimizer: Optimizer) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What the optimizer holds of each parameter that is still trained, by its name."""
    for name, parameter in _named_parameters(method):
        held = optimizer.state.get(parameter, {})
        slots = {slot: value for slot, value in held.items() if value is not None}
        if slots:
            yield name, slots


def _fill(method: Method, optimizer: Optimizer, snapshot: Snapshot) -> None:
    kept = _below(snapshot, "optimizer/")
    slots: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in kept.items():
        name, slot = key.rsplit("/", 1)
        slots[name][slot] = value
    for name, parameter in _named_parameters(method):
        for slot, value in slots.pop(name, {}).items():
            moment = value.shape == parameter.shape and value.dim() > 0
            count = value.to(parameter.device, copy=True)  # fused optimizers want it there
            placed = torch.empty_like(parameter).copy_(value) if moment else count
            optimizer.state[parameter][slot] = placed
    if slots:
        raise CheckpointError(f"the checkpoint's optimizer has other parameters: {min(slots)}")

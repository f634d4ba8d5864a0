"""What travels between the rooms about adaptations."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from service.errors import BadAdaptationError

METHODS = ("aml", "daal", "hli", "mmt", "nrmt")
"""Methods of adaptation."""

NEEDS_SOURCES = frozenset({"daal"})
"""Methods that learn from labelled source crops, too."""

MAX_OVERRIDES = 64
MAX_OVERRIDE = 200
MAX_SEED = 2**31 - 1

# A recipe is named, never a file of the client's choosing: no dot, no slash.
_RECIPE = re.compile(r"[a-z0-9][a-z0-9_]{0,62}", re.ASCII)
_OVERRIDE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*=[^\x00-\x1f\x7f]+", re.ASCII)


_LONGEST, _DIGITS = 63, 12
_ENDS_IN_DIGITS = re.compile(rf"-[0-9a-f]{{{_DIGITS}}}$", re.ASCII)


def model_name(site: str) -> str:
    """The name of a site's models, its own to the site: names of models know no capitals.

    A site in lower case gives it its name. Any other is told apart by digits of its hash: `Lobby`
    is `lobby-4c97a9ef95cd`; so is one in lower case whose name ends as if it had them.
    """
    lower = site.lower()
    if site == lower and not _ENDS_IN_DIGITS.search(site):
        return site
    digits = hashlib.sha256(site.encode()).hexdigest()[:_DIGITS]
    return f"{lower[: _LONGEST - _DIGITS - 1]}-{digits}"


class JobState(StrEnum):
    """Where an adaptation stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self not in (JobState.PENDING, JobState.RUNNING)


class JobReason(StrEnum):
    """Why an adaptation failed that its run does not know of; docs/service.md explains them."""

    PROCESS_DIED = "PROCESS_DIED"
    JOB_FOLDER_UNUSABLE = "JOB_FOLDER_UNUSABLE"
    REGISTRY_REFUSED = "REGISTRY_REFUSED"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Wish:
    """What an adaptation is asked to do.

    method: one of `METHODS`. recipe: name of a recipe.
    overrides: `section.name=value`, what to change in it. seed: 0 to `MAX_SEED`.
    Raises `BadAdaptationError`.
    """

    method: str
    recipe: str
    overrides: tuple[str, ...] = ()
    seed: int = 1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise BadAdaptationError(
                f"there is no method {self.method[:64]!r}; choose one of {', '.join(METHODS)}"
            )
        if not _RECIPE.fullmatch(self.recipe):
            raise BadAdaptationError(
                f"{self.recipe[:80]!r} is no name of a recipe; `resight recipes` lists them"
            )
        if len(self.overrides) > MAX_OVERRIDES:
            raise BadAdaptationError(f"more than {MAX_OVERRIDES} overrides; send fewer")
        for override in self.overrides:
            if len(override) > MAX_OVERRIDE or not _OVERRIDE.fullmatch(override):
                raise BadAdaptationError(
                    f"{override[:80]!r} is not of the form section.name=value, of at most "
                    f"{MAX_OVERRIDE} characters"
                )
        if not 0 <= self.seed <= MAX_SEED:
            raise BadAdaptationError(f"the seed is {self.seed}; give 0 to {MAX_SEED}")


@dataclass(frozen=True, slots=True)
class Judgment:
    """What the gate says of a new model; verdict is empty where it did not judge."""

    verdict: str = ""
    reasons: tuple[str, ...] = ()


NOT_JUDGED = Judgment()


@dataclass(frozen=True, slots=True)
class Adaptation:
    """One row of the job table.

    cancel: whether somebody cancelled it. reason, error: why it failed, for programs and for
    people. model: reference of the model that it gave; empty unless it succeeded.
    """

    id: str
    site: str
    wish: Wish
    state: JobState
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    cancel: bool = False
    reason: str = ""
    error: str = ""
    model: str = ""
    judgment: Judgment = NOT_JUDGED


@dataclass(frozen=True, slots=True)
class Round:
    """A finished round; figures by name, as in the run folder's metrics.jsonl."""

    number: int
    labels: str
    warnings: tuple[str, ...]
    figures: Mapping[str, float]

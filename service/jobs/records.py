"""Records of adaptations, as the server keeps them and as clients see them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from models.job_contract import METHODS, GateVerdict
from service.errors import BadAdaptationError

MAX_OVERRIDES = 64
MAX_OVERRIDE = 200
MAX_SEED = 2**31 - 1

MAX_NAME = 100
MAX_ERROR = 4000
MAX_REASONS = 32
MAX_REASON = 500
"""Most characters of an adaptation's reason and error, reasons of its verdict, and characters of
each."""

MAX_ADAPTATION_BYTES = 160 * 1024
"""Most bytes of an adaptation on the wire, without its rounds: texts of 4 bytes a character."""

# A recipe is named, never a file of the client's choosing: no dot, no slash.
_RECIPE = re.compile(r"[a-z0-9][a-z0-9_]{0,62}", re.ASCII)
_OVERRIDE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*=[^\x00-\x1f\x7f]+", re.ASCII)

_LONGEST, _DIGITS = 63, 12
_ENDS_IN_DIGITS = re.compile(rf"-[0-9a-f]{{{_DIGITS}}}$", re.ASCII)


def model_name(site: str) -> str:
    """The name of a site's models, different for each site.

    Names of models have no capitals. A site in lower case gives its models its own name. Any other
    site's name gets digits of its hash: `Lobby` gives `lobby-4c97a9ef95cd`. So does a name in lower
    case that already ends in such digits.
    """
    lower = site.lower()
    if site == lower and not _ENDS_IN_DIGITS.search(site):
        return site
    digits = hashlib.sha256(site.encode()).hexdigest()[:_DIGITS]
    return f"{lower[: _LONGEST - _DIGITS - 1]}-{digits}"


class JobState(StrEnum):
    """State of an adaptation."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def over(self) -> bool:
        """Whether this state is final."""
        return self not in (JobState.PENDING, JobState.RUNNING)


class JobReason(StrEnum):
    """Why an adaptation failed, where the run itself has no reason; see docs/service.md."""

    PROCESS_DIED = "PROCESS_DIED"
    JOB_FOLDER_UNUSABLE = "JOB_FOLDER_UNUSABLE"
    REGISTRY_REFUSED = "REGISTRY_REFUSED"
    DATABASE_DAMAGED = "DATABASE_DAMAGED"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class AdaptationSpec:
    """What an adaptation is asked to do.

    method: one of `METHODS`. recipe: name of a recipe that comes with resight.
    overrides: changes to the recipe as `section.name=value`. seed: 0 to `MAX_SEED`.
    Raises `BadAdaptationError`.
    """

    method: str
    recipe: str
    overrides: tuple[str, ...] = ()
    seed: int = 1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise BadAdaptationError(
                f"no method {self.method[:64]!r}; choose one of {', '.join(METHODS)}"
            )
        if not _RECIPE.fullmatch(self.recipe):
            raise BadAdaptationError(
                f"{self.recipe[:80]!r} is not a name of a recipe; `resight recipes` lists them"
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
class JobResult:
    """How an adaptation ended; the fields are those of `Adaptation`."""

    state: JobState
    reason: str = ""
    error: str = ""
    model: str = ""
    gate: GateVerdict | None = None


@dataclass(frozen=True, slots=True)
class Adaptation:
    """A row of the table `adaptations`, and what is to be known of the rounds that come with it.

    cancel: whether a caller cancelled it. reason, error: why it failed, for programs and for
    people. model: reference of the new model; empty unless it succeeded. gate: the gate's verdict
    on that model; None where there is none. rounds_error: why its rounds are missing, for people;
    empty where they were not asked for. rounds_left: whether there are rounds after these.
    """

    id: str
    site: str
    spec: AdaptationSpec
    state: JobState
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    cancel: bool = False
    reason: str = ""
    error: str = ""
    model: str = ""
    gate: GateVerdict | None = None
    rounds_error: str = ""
    rounds_left: bool = False

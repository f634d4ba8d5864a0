"""Errors of `service`. A message says what is wrong, then what to do.

ServiceError
├── CallError                     one call or one item of it; `code` and `reason` go to the client
│   ├── InvalidCallError          INVALID_ARGUMENT
│   │   ├── BadMessageError
│   │   ├── BadNameError
│   │   ├── TooManyItemsError
│   │   ├── BadLimitError
│   │   ├── BadFilterError
│   │   ├── BadPageTokenError
│   │   ├── BadSightingError
│   │   ├── BadImageError
│   │   ├── DuplicateIdError
│   │   ├── RequestIdReusedError
│   │   └── BadAdaptationError
│   ├── MissingError              NOT_FOUND
│   │   ├── SiteNotFoundError
│   │   ├── SightingNotFoundError
│   │   ├── UnknownModelError
│   │   └── AdaptationNotFoundError
│   ├── SiteExistsError           ALREADY_EXISTS
│   ├── PreconditionError         FAILED_PRECONDITION
│   │   ├── SiteNotEmptyError
│   │   ├── ModelMismatchError
│   │   ├── CropUnusableError
│   │   ├── RolloverRunningError
│   │   ├── ModelUnusableError
│   │   ├── ModelRejectedError
│   │   ├── NoEarlierModelError
│   │   ├── NotConfiguredError
│   │   ├── AdaptationUnfinishedError
│   │   ├── AdaptationOverError
│   │   └── NoCropsError
│   ├── ExhaustedError            RESOURCE_EXHAUSTED
│   │   ├── OverloadedError
│   │   └── StoreFullError
│   ├── UnavailableError          UNAVAILABLE
│   │   ├── ShuttingDownError
│   │   ├── EnrollmentPausedError
│   │   └── StoreBusyError
│   └── InternalError             INTERNAL
│       ├── EngineError
│       ├── StoreError
│       └── DamagedRowError
└── StartError                    the server cannot start
    ├── SettingsError             an invalid setting
    ├── DataDirError              a data folder that cannot be used, or is in use
    ├── StoreUnusableError        a database that cannot be used
    ├── ModelLoadError            a bundle that cannot be served
    └── PortError                 an address that cannot be listened on
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import ClassVar


class Code(IntEnum):
    """The canonical codes in use, with the numbers of google.rpc.Code."""

    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    INTERNAL = 13
    UNAVAILABLE = 14


class ServiceError(Exception):
    """Base of all errors of the service."""


class CallError(ServiceError):
    """The error of a call, or of one item of it.

    code: canonical code. reason: stable name for programs (google.rpc.ErrorInfo.reason).
    metadata: further facts for programs. retry_after_s: seconds after which a retry may succeed.
    """

    code: ClassVar[Code] = Code.INTERNAL
    reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s


class InvalidCallError(CallError):
    """The call is invalid, whatever the state of the server."""

    code = Code.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"


class BadMessageError(InvalidCallError):
    """A request that is not a message of the method, or does not arrive in time."""

    reason = "BAD_MESSAGE"


class BadNameError(InvalidCallError):
    """A name or id that is not of its documented form."""

    reason = "BAD_NAME"


class TooManyItemsError(InvalidCallError):
    """No items, or more than one call may have."""

    reason = "TOO_MANY_ITEMS"


class BadLimitError(InvalidCallError):
    """A number of results outside the limits."""

    reason = "BAD_LIMIT"


class BadFilterError(InvalidCallError):
    """A filter that is malformed, or that no sighting can pass."""

    reason = "BAD_FILTER"


class BadPageTokenError(InvalidCallError):
    """A page token that is malformed, or of another call."""

    reason = "BAD_PAGE_TOKEN"


class BadSightingError(InvalidCallError):
    """A sighting with an invalid field."""

    reason = "BAD_SIGHTING"


class BadImageError(InvalidCallError):
    """Bytes that are not a usable image; metadata["problem"] names the problem."""

    reason = "BAD_IMAGE"


class DuplicateIdError(InvalidCallError):
    """Two items of one call have the same id."""

    reason = "DUPLICATE_ID"


class RequestIdReusedError(InvalidCallError):
    """A request id that was used for a call of other content."""

    reason = "REQUEST_ID_REUSED"


class BadAdaptationError(InvalidCallError):
    """An adaptation request with an invalid field."""

    reason = "BAD_ADAPTATION"


class MissingError(CallError):
    """A resource that does not exist."""

    code = Code.NOT_FOUND
    reason = "NOT_FOUND"


class SiteNotFoundError(MissingError):
    """No such site."""

    reason = "SITE_NOT_FOUND"


class SightingNotFoundError(MissingError):
    """No such sighting."""

    reason = "SIGHTING_NOT_FOUND"


class UnknownModelError(MissingError):
    """A model that is neither loaded nor in the server's registry."""

    reason = "MODEL_NOT_FOUND"


class AdaptationNotFoundError(MissingError):
    """No such adaptation."""

    reason = "ADAPTATION_NOT_FOUND"


class SiteExistsError(CallError):
    """The id of a new site is taken."""

    code = Code.ALREADY_EXISTS
    reason = "SITE_EXISTS"


class PreconditionError(CallError):
    """The state of the site does not allow the call."""

    code = Code.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class SiteNotEmptyError(PreconditionError):
    """A site with sightings is deleted only with force."""

    reason = "SITE_NOT_EMPTY"


class ModelMismatchError(PreconditionError):
    """The site is embedded with another model than the one that was used or loaded."""

    reason = "MODEL_MISMATCH"


class CropUnusableError(PreconditionError):
    """A sighting without a usable crop cannot be re-embedded."""

    reason = "CROP_UNUSABLE"


class RolloverRunningError(PreconditionError):
    """A rollover of the site to another model is running."""

    reason = "REEMBED_RUNNING"


class ModelUnusableError(PreconditionError):
    """A registered model that cannot be loaded."""

    reason = "MODEL_UNUSABLE"


class ModelRejectedError(PreconditionError):
    """A registered model with a rejected, unjudged or damaged verdict, activated without force."""

    reason = "MODEL_REJECTED"


class NoEarlierModelError(PreconditionError):
    """A rollback of a site that has used only one model."""

    reason = "NO_EARLIER_MODEL"


class NotConfiguredError(PreconditionError):
    """The server has no networks, or no labelled crops, for the adaptation to start from."""

    reason = "ADAPTATION_NOT_CONFIGURED"


class AdaptationUnfinishedError(PreconditionError):
    """An adaptation of the site is pending or running."""

    reason = "ADAPTATION_UNFINISHED"


class AdaptationOverError(PreconditionError):
    """A cancelled adaptation had succeeded or failed already."""

    reason = "ADAPTATION_OVER"


class NoCropsError(PreconditionError):
    """An adaptation of a site without kept crops."""

    reason = "NO_CROPS"


class ExhaustedError(CallError):
    """The server has no capacity for the call."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "RESOURCE_EXHAUSTED"


class OverloadedError(ExhaustedError):
    """Too much work is waiting; `retry_after_s` is set."""

    reason = "QUEUE_FULL"


class StoreFullError(ExhaustedError):
    """The disk is full."""

    reason = "STORE_FULL"


class UnavailableError(CallError):
    """The call can be repeated, now or after the server's next start."""

    code = Code.UNAVAILABLE
    reason = "UNAVAILABLE"


class ShuttingDownError(UnavailableError):
    """The server is stopping."""

    reason = "SHUTTING_DOWN"


class EnrollmentPausedError(UnavailableError):
    """A rollover of the site is about to end; `retry_after_s` is set."""

    reason = "SITE_SWITCHING"


class StoreBusyError(UnavailableError):
    """The database, or the index of a site, cannot be used now; `retry_after_s` is set."""

    reason = "STORE_BUSY"


class InternalError(CallError):
    """An internal error of the server."""


class EngineError(InternalError):
    """The model could not embed an image."""

    reason = "ENGINE_FAILED"


class StoreError(InternalError):
    """The database refused to read or to write."""

    reason = "STORE_FAILED"


class DamagedRowError(InternalError):
    """A stored row that cannot be decoded; the message names it."""

    reason = "ROW_DAMAGED"


class StartError(ServiceError):
    """The server cannot start."""


class SettingsError(StartError):
    """An invalid setting."""


class DataDirError(StartError):
    """A data folder that cannot be used, or is in use."""


class StoreUnusableError(StartError):
    """A database that cannot be used."""


class ModelLoadError(StartError):
    """A bundle that cannot be served."""


class PortError(StartError):
    """An address that cannot be listened on."""


def call_errors() -> dict[str, type[CallError]]:
    """Every class of `CallError` by its reason."""
    found: dict[str, type[CallError]] = {}
    waiting: list[type[CallError]] = [CallError]
    while waiting:
        kind = waiting.pop()
        found.setdefault(kind.reason, kind)
        waiting.extend(kind.__subclasses__())
    return found

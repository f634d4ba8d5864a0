"""Errors of `service`. Every message says what to do.

ServiceError
├── CallError                     one call or one item of it; `code` and `reason` go to the client
│   ├── InvalidCallError          INVALID_ARGUMENT
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
│   │   ├── ModelNotFoundError
│   │   └── AdaptationNotFoundError
│   ├── SiteExistsError           ALREADY_EXISTS
│   ├── PreconditionError         FAILED_PRECONDITION
│   │   ├── SiteNotEmptyError
│   │   ├── ModelMismatchError
│   │   ├── CropUnusableError
│   │   ├── ReembedRunningError
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
│   │   └── SwitchingError
│   └── InternalError             INTERNAL
│       ├── EngineError
│       └── StoreError
└── StartError                    the server cannot start
    ├── SettingsError             a setting that does not hold
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
    """The canonical codes that we use, with google.rpc.Code's numbers."""

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
    """What a call, or one item of it, is refused with.

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
    """The call is wrong, whatever the state of the server."""

    code = Code.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"


class BadNameError(InvalidCallError):
    """A name or id that does not have its documented form."""

    reason = "BAD_NAME"


class TooManyItemsError(InvalidCallError):
    """No items, or more than one call may hold."""

    reason = "TOO_MANY_ITEMS"


class BadLimitError(InvalidCallError):
    """A number of results that is not served."""

    reason = "BAD_LIMIT"


class BadFilterError(InvalidCallError):
    """A filter that no sighting could ever pass, or that is not well formed."""

    reason = "BAD_FILTER"


class BadPageTokenError(InvalidCallError):
    """A page token of another call."""

    reason = "BAD_PAGE_TOKEN"


class BadSightingError(InvalidCallError):
    """A sighting whose fields are not well formed."""

    reason = "BAD_SIGHTING"


class BadImageError(InvalidCallError):
    """Bytes that do not give a usable picture; metadata["problem"] names the problem."""

    reason = "BAD_IMAGE"


class DuplicateIdError(InvalidCallError):
    """Two items of one call have the same id."""

    reason = "DUPLICATE_ID"


class RequestIdReusedError(InvalidCallError):
    """A request id that came with another content before."""

    reason = "REQUEST_ID_REUSED"


class BadAdaptationError(InvalidCallError):
    """What an adaptation is asked to do is not well formed."""

    reason = "BAD_ADAPTATION"


class MissingError(CallError):
    """Something that is not there."""

    code = Code.NOT_FOUND
    reason = "NOT_FOUND"


class SiteNotFoundError(MissingError):
    """No such site."""

    reason = "SITE_NOT_FOUND"


class SightingNotFoundError(MissingError):
    """No such sighting."""

    reason = "SIGHTING_NOT_FOUND"


class ModelNotFoundError(MissingError):
    """The server has neither loaded this model, nor is it in its registry."""

    reason = "MODEL_NOT_FOUND"


class AdaptationNotFoundError(MissingError):
    """No such adaptation."""

    reason = "ADAPTATION_NOT_FOUND"


class SiteExistsError(CallError):
    """The name of a new site is taken."""

    code = Code.ALREADY_EXISTS
    reason = "SITE_EXISTS"


class PreconditionError(CallError):
    """The state of the site forbids the call."""

    code = Code.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class SiteNotEmptyError(PreconditionError):
    """A site with sightings, to be deleted without force."""

    reason = "SITE_NOT_EMPTY"


class ModelMismatchError(PreconditionError):
    """The site was embedded with another model than is at hand."""

    reason = "MODEL_MISMATCH"


class CropUnusableError(PreconditionError):
    """A sighting that cannot be embedded again."""

    reason = "CROP_UNUSABLE"


class ReembedRunningError(PreconditionError):
    """The site is being embedded again."""

    reason = "REEMBED_RUNNING"


class ModelUnusableError(PreconditionError):
    """A registered model that cannot be served."""

    reason = "MODEL_UNUSABLE"


class ModelRejectedError(PreconditionError):
    """A registered model that the gate found worse than the one in use."""

    reason = "MODEL_REJECTED"


class NoEarlierModelError(PreconditionError):
    """A site to be rolled back that has used one model only."""

    reason = "NO_EARLIER_MODEL"


class NotConfiguredError(PreconditionError):
    """The server lacks what an adaptation starts from."""

    reason = "ADAPTATION_NOT_CONFIGURED"


class AdaptationUnfinishedError(PreconditionError):
    """An adaptation of the site waits or runs."""

    reason = "ADAPTATION_UNFINISHED"


class AdaptationOverError(PreconditionError):
    """An adaptation to be cancelled that has succeeded or failed."""

    reason = "ADAPTATION_OVER"


class NoCropsError(PreconditionError):
    """A site without kept crops, to be learned from."""

    reason = "NO_CROPS"


class ExhaustedError(CallError):
    """The server has no room for the call."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "RESOURCE_EXHAUSTED"


class OverloadedError(ExhaustedError):
    """Too much work is waiting; `retry_after_s` is set."""

    reason = "QUEUE_FULL"


class StoreFullError(ExhaustedError):
    """The disk is full."""

    reason = "STORE_FULL"


class UnavailableError(CallError):
    """The call can be repeated, here or at the server's next start."""

    code = Code.UNAVAILABLE
    reason = "UNAVAILABLE"


class ShuttingDownError(UnavailableError):
    """The server is stopping."""

    reason = "SHUTTING_DOWN"


class SwitchingError(UnavailableError):
    """The site changes to another model at this moment; `retry_after_s` is set."""

    reason = "SITE_SWITCHING"


class InternalError(CallError):
    """A fault of the server."""


class EngineError(InternalError):
    """The model could not embed an image."""

    reason = "ENGINE_FAILED"


class StoreError(InternalError):
    """The database refused to read or to write."""

    reason = "STORE_FAILED"


class StartError(ServiceError):
    """The server cannot start."""


class SettingsError(StartError):
    """A setting that does not hold."""


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

"""Errors of `models`. Every message says what to do; `reason` is a stable name for programs.

ModelError
├── ImageError                    bytes that do not give a usable picture
│   ├── EmptyImageError           no bytes
│   ├── UnsupportedImageError     not an image, or a format we do not read
│   ├── DamagedImageError         truncated or corrupt
│   ├── ImageTooSmallError        a side below the minimum
│   └── ImageTooLargeError        more pixels than allowed (checked before decoding)
├── BundleError                   a bundle folder that cannot be used
│   ├── BundleNotFoundError       no bundle at this path
│   ├── BundleExistsError         the target of a write is taken
│   ├── ManifestInvalidError      manifest.json is invalid
│   ├── BundleHashMismatchError   files differ from the manifest
│   └── SelfTestFailedError       the vectors differ from the recorded ones
├── RegistryError                 the folder of bundles
│   ├── ModelNotFoundError        no such name or version
│   ├── ModelConflictError        name@version exists with other content
│   └── ModelReferenceError       not a valid name, version or name@version
├── DamagedFileError              a file of ours that cannot be read
├── BackboneError                 a network that cannot be built as asked
├── WeightsError                  a state dict that does not fit the network
└── WrapError                     a foreign ONNX file that cannot become a bundle
"""

from __future__ import annotations

from typing import ClassVar


class ModelError(Exception):
    """Base of all errors a user of `models` can meet."""

    reason: ClassVar[str] = "MODEL_ERROR"


class ImageError(ModelError):
    """Bytes that do not give a usable picture."""

    reason = "IMAGE_INVALID"


class EmptyImageError(ImageError):
    """No bytes."""

    reason = "IMAGE_EMPTY"


class UnsupportedImageError(ImageError):
    """Not an image, or a format we do not read."""

    reason = "IMAGE_UNSUPPORTED"


class DamagedImageError(ImageError):
    """Truncated or corrupt image."""

    reason = "IMAGE_DAMAGED"


class ImageTooSmallError(ImageError):
    """A side is below the minimum."""

    reason = "IMAGE_TOO_SMALL"


class ImageTooLargeError(ImageError):
    """More pixels than allowed."""

    reason = "IMAGE_TOO_LARGE"


class BundleError(ModelError):
    """A bundle folder that cannot be used."""

    reason = "BUNDLE_INVALID"


class BundleNotFoundError(BundleError):
    """No bundle at this path."""

    reason = "BUNDLE_NOT_FOUND"


class BundleExistsError(BundleError):
    """The target of a write is taken."""

    reason = "BUNDLE_EXISTS"


class ManifestInvalidError(BundleError):
    """manifest.json is invalid."""

    reason = "BUNDLE_MANIFEST_INVALID"


class BundleHashMismatchError(BundleError):
    """Files differ from the manifest."""

    reason = "BUNDLE_HASH_MISMATCH"


class SelfTestFailedError(BundleError):
    """The model's vectors differ from the recorded ones.

    deviation: largest Euclidean distance to a recorded vector; NaN when shape or values already
        rule out a comparison.
    """

    reason = "BUNDLE_SELF_TEST_FAILED"

    def __init__(self, message: str, deviation: float = float("nan")) -> None:
        super().__init__(message)
        self.deviation = deviation


class RegistryError(ModelError):
    """A fault of the folder of bundles."""

    reason = "REGISTRY_ERROR"


class ModelNotFoundError(RegistryError):
    """No such name or version."""

    reason = "MODEL_NOT_FOUND"


class ModelConflictError(RegistryError):
    """name@version exists with other content."""

    reason = "MODEL_CONFLICT"


class ModelReferenceError(RegistryError):
    """Not a valid name, version or name@version."""

    reason = "MODEL_REFERENCE_INVALID"


class DamagedFileError(ModelError):
    """A file of ours that is there and cannot be read."""

    reason = "FILE_DAMAGED"


class BackboneError(ModelError):
    """A network that cannot be built as asked."""

    reason = "BACKBONE_INVALID"


class WeightsError(ModelError):
    """A state dict that does not fit the network."""

    reason = "WEIGHTS_INVALID"


class WrapError(ModelError):
    """A foreign ONNX file that cannot become a bundle."""

    reason = "WRAP_FAILED"

"""Import torchvision from here: `from models.torchvision_compat import torchvision`.

torchvision registers shape rules for its C++ operators when it is imported and fails if these
operators do not exist. They do not where its binary cannot be loaded, as with a CUDA build of
torchvision beside a CPU build of torch. None of our code uses them, so their bare declaration is
enough; where the binary loads nothing is declared.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch

_SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _binary_loads() -> bool:
    """Load torchvision's operators as its own import would; loading twice does no harm."""
    load: Callable[[str], None] = torch.ops.load_library
    spec = find_spec("torchvision")
    folders = spec.submodule_search_locations if spec is not None else None
    for file in (file for folder in folders or () for file in Path(folder).glob("_C.*")):
        try:
            load(str(file))
        except OSError:
            continue
        return True
    return False


def _declare_missing_operators() -> None:
    if _binary_loads():
        return
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name.removeprefix("torchvision::")):
            torch.library.define(name, schema)


_declare_missing_operators()

import torchvision  # noqa: E402

__all__ = ["torchvision"]

"""The parts of a labelled set."""

from __future__ import annotations

from typing import Literal

Split = Literal["train", "query", "gallery"]

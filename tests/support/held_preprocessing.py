"""A double of `models.image.Preprocessing` that a test can hold and ask what it was given."""

from __future__ import annotations

import threading
import time

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr

from models.image import DEFAULT_MAX_PIXELS, Preprocessing
from tests.support.tiny_model import HEIGHT, WIDTH


class HeldPreprocessing(Preprocessing):
    """Any bytes are a gray image; each takes `seconds`, and waits until `gate` is open."""

    height: int = HEIGHT
    width: int = WIDTH
    seconds: float = 0.0
    _gate: threading.Event = PrivateAttr(default_factory=threading.Event)
    _seen: list[bytes] = PrivateAttr(default_factory=list)

    @property
    def gate(self) -> threading.Event:
        return self._gate

    @property
    def seen(self) -> list[bytes]:
        """What was begun, in order."""
        return self._seen

    def load(self, data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.uint8]:
        self._seen.append(data)
        time.sleep(self.seconds)
        assert self._gate.wait(10)
        return np.full((self.height, self.width, 3), 100, np.uint8)

"""The most memory that a server may take, from its settings: docs/service.md, "Memory"."""

from __future__ import annotations

from models.image import Preprocessing
from service.config import Settings, threads_or_cores
from service.rpc.arrival import HEALTH_PLACES, LIST_PLACES, REFLECTION_PLACES, SMALL_PLACES

COPIES = 3
"""Of a request or an answer at a time: bytes of the network, the message, and its parts."""

_CHANNELS = 3
_DECODED = 2
"""Arrays of a decoding thread: the image as it is, and resized or of another layout."""


def memory_bound(settings: Settings, at_rest: float, size: Preprocessing, models: int) -> float:
    """Bytes that a server takes at most.

    at_rest: bytes that it has with its models and indexes loaded. size: input of its models.
    models: how many are loaded.
    """
    requests = settings.requests_bytes + LIST_PLACES * settings.max_message_bytes
    # Those larger than their kind are refused as bytes, those that are not are next to nothing.
    refused = (SMALL_PLACES + HEALTH_PLACES + REFLECTION_PLACES) * settings.max_message_bytes
    decoding = (
        threads_or_cores(settings.decode_threads)
        * settings.max_image_pixels
        * (_CHANNELS * _DECODED)
    )
    places = settings.max_queue + settings.max_queue // 8 + settings.max_items
    queues = models * places * size.height * size.width * _CHANNELS
    return at_rest + COPIES * (requests + settings.answers_bytes) + refused + decoding + queues

"""Transfer of tensors from main memory to the device, ahead of their use."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of main memory on a device.

    To a GPU it is copied asynchronously through page-locked memory: work that is queued afterwards
    finds it there.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def ahead_of(device: torch.device, items: Iterator[T]) -> Generator[T]:
    """The same items, made `one_ahead` for a GPU; on a CPU that would take its cores from work."""
    yield from one_ahead(items) if device.type == "cuda" else items


def one_ahead(items: Iterator[T]) -> Generator[T]:
    """The same items, each made in a thread while the one before it is in use.

    An error there is raised here, in its turn. The thread ends when this is closed or used up.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield cast(T, item)

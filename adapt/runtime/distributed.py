"""Several processes that do one run together, and their collectives.

`torchrun` starts the same program once for each GPU and tells each copy its rank. All of them read
the crops and take the same steps, each on its share of every batch (`adapt.training.sharding`);
the first one, rank 0, alone clusters, scores, writes and logs. docs/several-gpus.md says what
follows.

A process that ends closes its connections, so that the next collective of the others fails instead
of waiting for it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from adapt.errors import ConfigError, LostProcessError
from adapt.runtime.device import pick_device
from models.wording import plural

STEP_TIMEOUT = timedelta(minutes=10)
"""Timeout of a collective within a step or an extraction, where all processes do the same."""

COLLECTIVE_TIMEOUT = timedelta(days=1)
"""Timeout of the other processes while the first one clusters, scores or writes."""

State = tuple[Mapping[str, Tensor], Mapping[str, Any]]
"""Tensors by name, and what JSON holds."""


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run and the rank of this one. All must call the same collectives in order.

    rank: of this process, from 0. size: how many there are.
    """

    rank: int = 0
    size: int = 1
    _patient: dist.ProcessGroup | None = field(default=None, repr=False, compare=False)

    @property
    def is_main(self) -> bool:
        """Whether this process clusters and writes."""
        return self.rank == 0

    def refuse_uneven(self, images: int, ghost: int) -> None:
        """Raise ConfigError unless a batch can be dealt out evenly, batch-norm groups whole.

        images: of a batch. ghost: of a batch-norm group, 0 for the whole batch, whose statistics
        the processes then compute together.
        """
        shares = images // ghost if ghost else images
        if shares % self.size == 0:
            return
        what = plural(ghost or images, "image")
        if ghost:
            what = f"{plural(shares, 'batch-norm group')} of {what}"
        fits = ", ".join(str(n) for n in range(1, shares + 1) if shares % n == 0)
        raise ConfigError(
            f"a batch of {what} cannot be shared evenly by {self.size} processes: start as many as "
            f"divide it ({fits}), or change batch.identities, batch.instances or batch.ghost"
        )

    def any_rank(self, here: bool) -> bool:
        """Whether `here` is true in any process. Waits for all others, up to COLLECTIVE_TIMEOUT."""
        if self.size == 1:
            return here
        flag = torch.tensor(int(here))
        with _reaching_others():
            dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._patient)
        return bool(flag)

    def barrier(self) -> None:
        """Wait until all processes have reached this call, up to COLLECTIVE_TIMEOUT."""
        self.any_rank(False)

    def broadcast(self, state: State | None) -> State:
        """Give the first process's state, on the CPU, to all; the others pass None."""
        listing = b""
        if state is not None:
            tensors, notes = state
            kinds = [
                (name, str(t.dtype).removeprefix("torch."), tuple(t.shape))
                for name, t in tensors.items()
            ]
            listing = json.dumps({"tensors": kinds, "notes": notes}).encode()
        length = int(self._send(torch.tensor(len(listing))))
        text = torch.frombuffer(bytearray(listing or length), dtype=torch.uint8)
        told = json.loads(self._send(text).numpy().tobytes())
        received = {
            name: self._send(
                torch.empty(shape, dtype=getattr(torch, kind)) if state is None else state[0][name]
            )
            for name, kind, shape in told["tensors"]
        }
        return received, told["notes"]

    def gather(self, own: Tensor) -> Tensor:
        """(n, ...) of each process -> (size n, ...) in the order of ranks; without gradient.

        n and all else of the shape are the same everywhere.
        """
        own = own.contiguous()
        out = own.new_empty((self.size * len(own), *own.shape[1:]))
        with _reaching_others():
            dist.all_gather(list(torch.split(out, len(own))), own)
        return out

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum a contiguous tensor over the processes, in place; all get the same bits."""
        with _reaching_others():
            dist.all_reduce(tensor)
        return tensor

    def reduce(self, tensor: Tensor) -> Tensor:
        """Sum as `all_reduce`, for the first process alone; elsewhere the tensor is undefined."""
        with _reaching_others():
            dist.reduce(tensor, dst=0)
        return tensor

    def shutdown(self) -> None:
        """Close the connections to the other processes. No collective may follow."""
        if self.size > 1:
            dist.destroy_process_group()

    def _send(self, tensor: Tensor) -> Tensor:
        """Broadcast from the first process, as bytes: gloo does not support every dtype."""
        tensor = tensor.contiguous()
        if tensor.numel():
            with _reaching_others():
                dist.broadcast(tensor.view(-1).view(torch.uint8), src=0, group=self._patient)
        return tensor


SINGLE_PROCESS = ProcessGroup()
"""One process: all collectives return their input."""


def join(
    device: str, environment: Mapping[str, str] | None = None
) -> tuple[torch.device, ProcessGroup]:
    """Join the other processes that `torchrun` started, if it did.

    device: see `pick_device`; of several processes each takes the GPU of its number. The log of
    all but the first is silent but for errors. environment: that of this process unless given.
    Returns what this process computes on, and its group. Raises ConfigError.
    """
    told = os.environ if environment is None else environment
    size = _number(told, "WORLD_SIZE", 1)
    if size == 1:
        return pick_device(device), SINGLE_PROCESS
    rank, local = _number(told, "RANK"), _number(told, "LOCAL_RANK")
    if _number(told, "LOCAL_WORLD_SIZE") != size:
        raise ConfigError("a run shares the GPUs of one machine: use torchrun --standalone")
    picked = own_device(device, local, size)
    if picked.type == "cuda":
        torch.cuda.set_device(picked)
    if rank:
        logging.getLogger("resight").setLevel(logging.ERROR)
    with _reaching_others():
        dist.init_process_group("nccl" if picked.type == "cuda" else "gloo", timeout=STEP_TIMEOUT)
        patient = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
    return picked, ProcessGroup(rank, size, patient)


def own_device(name: str, number: int, processes: int, gpus: int | None = None) -> torch.device:
    """Device of one of several processes on a machine; number: from 0.

    gpus: number of GPUs; default: that of torch. Raises ConfigError.
    """
    count = torch.cuda.device_count() if gpus is None else gpus
    picked = pick_device(name, count)
    if picked.type == "cpu":
        return picked
    if picked.index is not None:
        raise ConfigError(
            f"--device {name} is one GPU for {processes} processes: give cuda, and each takes its "
            "own; CUDA_VISIBLE_DEVICES says which there are"
        )
    if processes > count:
        raise ConfigError(
            f"{processes} processes for {plural(count, 'GPU')}: start one for each "
            "GPU (--nproc-per-node)"
        )
    return torch.device("cuda", number)


def refuse_several(what: str, environment: Mapping[str, str] | None = None) -> None:
    """Raise ConfigError where `torchrun` started several processes, each of which would do it."""
    if _number(os.environ if environment is None else environment, "WORLD_SIZE", 1) > 1:
        raise ConfigError(f"{what} runs in one process: start it without torchrun")


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environment.get(name, "" if default is None else str(default))
    if not value.isdecimal():
        raise ConfigError(
            f"{name} = {value!r} in the environment, beside WORLD_SIZE: start several processes by "
            "torchrun, or unset WORLD_SIZE"
        )
    return int(value)


@contextmanager
def _reaching_others() -> Iterator[None]:
    """Raise LostProcessError where another process has ended, or does not answer in time."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            "another process of this run has ended or does not answer: read its log, correct the "
            "cause, and resume the run with --resume"
        ) from error

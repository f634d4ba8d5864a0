"""The decoded crops of a run: each set is decoded once, by one of its processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adapt.data.decoding.decode import CropAllocator, DecodedCrops
from adapt.data.decoding.mapped_file import MappedCrops, kept_crops
from adapt.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from adapt.types import CropSet


class RunCrops:
    """Crops for a run folder, which need not exist until they are kept."""

    def __init__(self, folder: Path, group: ProcessGroup = SINGLE_PROCESS) -> None:
        """group: the processes of the run; each has to read the same sets in the same order."""
        self._folder = folder
        self._group = group
        self._decoded: dict[str, MappedCrops] = {}

    def read(
        self,
        name: str,
        listing: CropSet,
        made_by: Mapping[str, Any],
        decode: Callable[[CropAllocator], DecodedCrops],
    ) -> DecodedCrops:
        """The crops of a listing, mapped from the run folder if they were kept there.

        Else the first process decodes them, and the others map its file.
        name: of the file in the run folder. made_by: see `kept_crops`. decode: makes the crops, by
        an allocator. Raises what `decode` raises; of several processes the others then raise
        LostProcessError.
        """
        where, data = str(self._folder / name), None
        if self._group.is_main:
            data = kept_crops(Path(where), listing, made_by)
            if data is None:
                data, where = self._decode(name, made_by, decode)
        if self._group.size > 1:
            _, notes = self._group.broadcast(
                ({}, {"where": where}) if self._group.is_main else None
            )
            where = notes["where"]
        if data is None:
            data = kept_crops(Path(where), listing, made_by)
        if data is None:  # a system where no process can open what another one has open
            data, _ = self._decode(name, made_by, decode)
        return data

    def keep(self) -> None:
        """Give what the first process decoded its name in the run folder, which is there now."""
        if self._group.is_main:
            for name, file in self._decoded.items():
                file.keep(self._folder / name)

    def _decode(
        self, name: str, made_by: Mapping[str, Any], decode: Callable[[CropAllocator], DecodedCrops]
    ) -> tuple[DecodedCrops, str]:
        file = self._decoded[name] = MappedCrops(self._folder)
        data = decode(file.allocate)
        return data, str(file.describe(data, made_by))

"""What follows a commit fails: a stored sighting is found, or the site says that it cannot."""

from __future__ import annotations

from typing import Any

import pytest

from service.errors import StoreBusyError
from service.gallery.index import VectorIndex
from tests.support.galleries import ONE, Open, by_hand, item, matches, vector


def no_memory(*_: Any) -> None:
    raise MemoryError


async def test_an_index_that_could_not_follow_is_built_anew(
    open_gallery: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        await gallery.enroll("lobby", ONE, [item("a", 1), item("b", 2)])
        with monkeypatch.context() as patched:
            patched.setattr(VectorIndex, "upsert", no_memory)
            (stored,) = await gallery.enroll("lobby", ONE, [item("c", 3)])
        assert stored.sighting.id == "c"
        (found,) = await gallery.search("lobby", ONE, [vector(3)], limit=10)
        assert matches(found) == by_hand({"a": 1, "b": 2, "c": 3}, 3)
        with monkeypatch.context() as patched:
            patched.setattr(VectorIndex, "delete", no_memory)
            await gallery.delete_sighting("lobby", "a")
        (found,) = await gallery.search("lobby", ONE, [vector(3)], limit=10)
        assert matches(found) == by_hand({"b": 2, "c": 3}, 3)


async def test_a_site_whose_index_cannot_be_built_says_so_until_it_can(
    open_gallery: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        await gallery.create_site("door")
        with monkeypatch.context() as patched:
            patched.setattr(VectorIndex, "upsert", no_memory)
            await gallery.enroll("lobby", ONE, [item("a", 1)])
            for _ in range(2):
                with pytest.raises(StoreBusyError, match="index of site lobby") as refused:
                    await gallery.search("lobby", ONE, [vector(1)], limit=10)
                assert refused.value.retry_after_s
            assert not (await gallery.site("lobby")).ready
            assert (await gallery.site("door")).ready
            await gallery.enroll("lobby", ONE, [item("b", 2)])  # its caller had embedded before
        (found,) = await gallery.search("lobby", ONE, [vector(1)], limit=10)
        assert matches(found) == by_hand({"a": 1, "b": 2}, 1)
        assert (await gallery.site("lobby")).ready


async def test_a_site_that_is_behind_can_be_deleted(
    open_gallery: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        with monkeypatch.context() as patched:
            patched.setattr(VectorIndex, "upsert", no_memory)
            await gallery.enroll("lobby", ONE, [item("a", 1)])
        await gallery.delete_site("lobby", force=True)
        await gallery.create_site("lobby")
        assert await gallery.search("lobby", ONE, [vector(1)], limit=10) == [[]]

"""Sites that get another model while they are used; a search never sees vectors of two models."""

from __future__ import annotations

import asyncio
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.bundle import Bundle
from models.registry import Registry, verdict_file
from service.app import bootstrap
from service.client import CallFailedError, ResightClient
from service.config import load_settings
from service.types import Enrolled, NewSighting
from tests.support.exif_files import STORED_BY, encode, stored_turned
from tests.support.running_server import Running
from tests.support.tiny_model import crop, embed_files, write_tiny_bundle

SHIFTS = {"tiny@1": 0.0, "tiny@2": 40.0, "tiny@3": -40.0}


@pytest.fixture
def registry(tmp_path: Path, other_bundle: Bundle) -> Registry:
    registry = Registry(tmp_path / "registry")
    registry.add(other_bundle.path)
    registry.add(write_tiny_bundle(tmp_path / "third", version="3", shift=-40.0).path)
    return registry


@pytest.fixture
async def serve(tiny_bundle: Bundle, registry: Registry, data_dir: Path) -> Any:
    running: list[Running] = []

    async def served(model: Path | None = None, **settings: Any) -> Running:
        server = await bootstrap(
            load_settings(
                data_dir=data_dir,
                model=str(model or tiny_bundle.path),
                registry=registry.root,
                listen="127.0.0.1:0",
                http="127.0.0.1:0",
                **settings,
            )
        )
        running.append(Running(server, await server.start()))
        return running[-1]

    yield served
    for one in running:
        await one.stop()


def people(*numbers: int) -> list[NewSighting]:
    return [NewSighting(image=crop(n), camera=f"c{n % 2}", id=f"s{n:04d}") for n in numbers]


async def check_search(server: Running, numbers: list[int], query: int) -> str:
    """A search gives what one model gives, in full; the model's reference."""
    answer = await server.ask(server.client.search, "lobby", crop(query), limit=len(numbers))
    files = [crop(n) for n in numbers]
    shift = SHIFTS[answer.model]
    scores = embed_files(files, shift) @ embed_files([crop(query)], shift)[0]
    expected = {f"s{n:04d}": score for n, score in zip(numbers, scores, strict=True)}
    assert {match.sighting.id for match in answer.matches} == set(expected)
    for match in answer.matches:
        assert match.score == pytest.approx(expected[match.sighting.id], abs=1e-5), answer.model
    return str(answer.model)


async def test_activate_and_roll_back(serve: Any) -> None:
    server = await serve()
    client = server.client
    await server.ask(client.create_site, "lobby")
    await server.ask(client.enroll, "lobby", people(*range(10)))
    assert await check_search(server, list(range(10)), 3) == "tiny@1"
    steps = await server.ask(client.activate_model, "lobby", "tiny@2")
    assert (steps[-1].embedded, steps[-1].site.model, steps[-1].site.ready) == (10, "tiny@2", True)
    assert await check_search(server, list(range(10)), 3) == "tiny@2"
    await server.ask(client.activate_model, "lobby", "tiny")  # the newest
    assert await check_search(server, list(range(10)), 3) == "tiny@3"
    await server.ask(client.enroll, "lobby", people(10))
    for expected in ("tiny@2", "tiny@1"):
        await server.ask(client.rollback_model, "lobby")
        assert await check_search(server, list(range(11)), 10) == expected
    with pytest.raises(CallFailedError) as error:
        await server.ask(client.rollback_model, "lobby")
    assert (error.value.code, error.value.reason) == ("FAILED_PRECONDITION", "NO_EARLIER_MODEL")


async def test_a_rollover_turns_crops_upright_that_an_older_model_saw_as_stored(
    serve: Any, registry: Registry, tmp_path: Path
) -> None:
    older = write_tiny_bundle(tmp_path / "older", name="older", decoder="exact-1")
    newer = write_tiny_bundle(tmp_path / "newer", name="newer")
    for bundle in (older, newer):
        registry.add(bundle.path)
    server = await serve(older.path)
    client = server.client
    await server.ask(client.create_site, "lobby")
    upright = crop(1, height=48, width=48)
    picture = Image.open(io.BytesIO(upright))
    stored = stored_turned(picture, 6, "PNG")
    await server.ask(client.enroll, "lobby", [NewSighting(image=stored, camera="c1", id="s1")])

    async def score(image: bytes) -> float:
        answer = await server.ask(client.search, "lobby", image, limit=1)
        return float(answer.matches[0].score)

    as_stored = encode(picture.transpose(STORED_BY[6]), "PNG")
    unlike = float((embed_files([as_stored]) @ embed_files([upright])[0])[0])
    assert unlike < 0.9
    assert await score(upright) == pytest.approx(unlike, abs=1e-5)
    assert await score(stored) == pytest.approx(1, abs=1e-5)
    await server.ask(client.activate_model, "lobby", "newer")
    assert await score(upright) == pytest.approx(1, abs=1e-5)
    assert await score(stored) == pytest.approx(1, abs=1e-5)
    assert await score(as_stored) == pytest.approx(unlike, abs=1e-5)
    await server.ask(client.rollback_model, "lobby")
    assert await score(upright) == pytest.approx(unlike, abs=1e-5)


VERDICTS = ("reject", "unjudged", "damaged", "promote", "hold", "")


@pytest.mark.slow
async def test_a_model_that_the_gate_rejected_is_activated_by_force_only(
    serve: Any, registry: Registry, tmp_path: Path
) -> None:
    server = await serve()
    client = server.client
    for number, verdict in enumerate(VERDICTS):
        site = f"lobby-{verdict or 'none'}"
        name = f"yard-{verdict or 'none'}"
        known = verdict not in ("damaged", "")
        made_by = f"sites/{name}/adaptations/j1" if known else ""
        report = f'{{"verdict": "{verdict}", "adaptation": "{made_by}"}}'.encode()
        shift = 50.0 + number  # the same weights would be the same model
        bundle = write_tiny_bundle(tmp_path / name, name=name, version="1", shift=shift)
        registry.add(bundle.path, verdict=report if verdict else None)
        await server.ask(client.create_site, site)
        await server.ask(client.enroll, site, people(*range(3)))
        force = verdict in ("reject", "unjudged", "damaged")
        if force:
            message = made_by or str(registry.root / name / "1.gate.json")
            for model in (f"{name}@1", name):
                with pytest.raises(CallFailedError, match=message) as error:
                    await server.ask(client.activate_model, site, model)
                refused = (error.value.code, error.value.reason)
                assert refused == ("FAILED_PRECONDITION", "MODEL_REJECTED")
            assert (await server.ask(client.site, site)).model == "tiny@1"
            loaded = [model.reference for model in await server.ask(client.models)]
            assert f"{name}@1" not in loaded
        steps = await server.ask(client.activate_model, site, f"{name}@1", force=force)
        last = steps[-1]
        assert (last.site.model, last.adaptation, last.verdict) == (f"{name}@1", made_by, verdict)


@pytest.mark.parametrize("report", [b'{"verdict": "reject", "adaptation": "a"}', b"{"])
async def test_a_rollback_asks_for_the_verdict_of_now(
    serve: Any, registry: Registry, report: bytes
) -> None:
    server = await serve()
    client = server.client
    await server.ask(client.create_site, "lobby")
    for model in ("tiny@2", "tiny@3"):
        await server.ask(client.activate_model, "lobby", model)
    verdict_file(registry.root / "tiny" / "2").write_bytes(report)
    with pytest.raises(CallFailedError, match="tiny@2") as error:
        await server.ask(client.rollback_model, "lobby")
    assert (error.value.code, error.value.reason) == ("FAILED_PRECONDITION", "MODEL_REJECTED")
    assert (await server.ask(client.site, "lobby")).model == "tiny@3"
    last = (await server.ask(client.rollback_model, "lobby", force=True))[-1]
    assert last.site.model == "tiny@2"
    assert last.verdict == ("damaged" if report == b"{" else "reject")
    # The server's own model is not in the registry, and has no verdict.
    last = (await server.ask(client.rollback_model, "lobby"))[-1]
    assert (last.site.model, last.verdict) == ("tiny@1", "")


async def test_a_verdict_belongs_to_the_name_that_is_asked_for(
    serve: Any, registry: Registry, tmp_path: Path
) -> None:
    """The same weights under another name may be loaded, and have no verdict."""
    for name, verdict in (("free", None), ("yard", b'{"verdict": "reject", "adaptation": "a"}')):
        bundle = write_tiny_bundle(tmp_path / name, name=name, version="1", shift=40.0)
        registry.add(bundle.path, verdict=verdict)
    server = await serve()
    client = server.client
    for site in ("lobby", "hall"):
        await server.ask(client.create_site, site)
    await server.ask(client.activate_model, "lobby", "free@1")
    with pytest.raises(CallFailedError, match="the gate rejected yard@1") as error:
        await server.ask(client.activate_model, "hall", "yard@1")
    assert error.value.reason == "MODEL_REJECTED"
    assert (await server.ask(client.site, "hall")).model == "tiny@1"


async def test_models_that_no_site_uses_are_released(serve: Any) -> None:
    server = await serve()
    client = server.client
    for site in ("lobby", "yard"):
        await server.ask(client.create_site, site)
    assert [model.reference for model in await server.ask(client.models)] == ["tiny@1"]
    await server.ask(client.activate_model, "lobby", "tiny@2")
    await server.ask(client.activate_model, "yard", "tiny@3")
    loaded = [model.reference for model in await server.ask(client.models)]
    assert loaded == ["tiny@1", "tiny@2", "tiny@3"]
    await server.ask(client.activate_model, "lobby", "tiny@3")
    loaded = [model.reference for model in await server.ask(client.models)]
    assert loaded == ["tiny@1", "tiny@3"]
    await server.ask(client.activate_model, "lobby", "tiny@2")
    assert (await server.ask(client.site, "lobby")).model == "tiny@2"


async def test_sites_keep_their_models_over_a_restart(
    serve: Any, registry: Registry, other_bundle: Bundle
) -> None:
    server = await serve()
    for site in ("lobby", "yard"):
        await server.ask(server.client.create_site, site)
    await server.ask(server.client.enroll, "lobby", people(*range(5)))
    await server.ask(server.client.activate_model, "lobby", "tiny@2")
    await server.stop()
    server = await serve()
    assert (await server.ask(server.client.site, "yard")).model == "tiny@1"
    assert await check_search(server, list(range(5)), 2) == "tiny@2"
    await server.ask(server.client.enroll, "lobby", people(5))
    assert await check_search(server, list(range(6)), 5) == "tiny@2"
    await server.stop()
    # Another bundle of that name is not that model.
    (registry.root / "tiny" / "2").rename(registry.root / "moved")
    server = await serve()
    site = await server.ask(server.client.site, "lobby")
    assert (site.model, site.ready) == ("tiny@2", False)
    # It is again as soon as the model is: nothing has to be embedded.
    registry.add(other_bundle.path)
    await server.ask(server.client.activate_model, "lobby", "tiny@2")
    assert await check_search(server, list(range(6)), 5) == "tiny@2"


async def test_what_cannot_be_activated(serve: Any, registry: Registry) -> None:
    server = await serve()
    await server.ask(server.client.create_site, "lobby")
    damaged = registry.root / "tiny" / "3" / "model.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    for site, model, expected in (
        ("lobby", "tiny@9", ("NOT_FOUND", "MODEL_NOT_FOUND")),
        ("lobby", "other", ("NOT_FOUND", "MODEL_NOT_FOUND")),
        ("lobby", "Not A Model", ("INVALID_ARGUMENT", "BAD_NAME")),
        ("lobby", "../tiny@2", ("INVALID_ARGUMENT", "BAD_NAME")),
        ("lobby", "tiny@3", ("FAILED_PRECONDITION", "MODEL_UNUSABLE")),
        ("nowhere", "tiny@2", ("NOT_FOUND", "SITE_NOT_FOUND")),
    ):
        with pytest.raises(CallFailedError) as error:
            await server.ask(server.client.activate_model, site, model)
        assert (error.value.code, error.value.reason) == expected, model
    assert (await server.ask(server.client.site, "lobby")).model == "tiny@1"


@pytest.mark.slow
async def test_searches_and_enrollments_during_rollovers(serve: Any) -> None:
    """Nothing is lost, and each answer is of one model, whatever happens when."""
    server = await serve(max_items=64)
    client = server.client
    await server.ask(client.create_site, "lobby")
    await server.ask(client.enroll, "lobby", people(*range(40)))
    known = {n: embed_all(n) for n in range(400)}
    stop = threading.Event()
    enrolled = list(range(40))
    faults: list[str] = []
    models: set[str] = set()

    def enroll() -> None:
        with ResightClient(server.ready.grpc_address, timeout_s=20) as own:
            number = 40
            while not stop.is_set() and number < 400:
                (result,) = own.enroll("lobby", people(number))
                if isinstance(result, Enrolled):
                    enrolled.append(number)
                else:
                    faults.append(str(result))
                number += 1

    def search() -> None:
        with ResightClient(server.ready.grpc_address, timeout_s=20) as own:
            while not stop.is_set():
                sure = len(enrolled)
                answer = own.search("lobby", crop(7), limit=1000)
                models.add(answer.model)
                found = {int(match.sighting.id[1:]): match.score for match in answer.matches}
                if not set(enrolled[:sure]) <= set(found):
                    faults.append(f"{answer.model} lacks sightings")
                query = known[7][answer.model]
                for number, score in found.items():
                    if abs(known[number][answer.model] @ query - score) > 1e-5:
                        faults.append(f"{number} is not of {answer.model}")

    threads = [threading.Thread(target=work) for work in (enroll, search, search)]
    for thread in threads:
        thread.start()
    for model in ("tiny@2", "tiny@3", "tiny@1", "tiny@2"):
        await server.ask(client.activate_model, "lobby", model)
    await server.ask(client.rollback_model, "lobby")
    stop.set()
    for thread in threads:
        await asyncio.to_thread(thread.join, 30)
        assert not thread.is_alive()
    assert faults == []
    assert len(models) > 1
    assert len(enrolled) > 41
    assert await check_search(server, sorted(enrolled), 7) == "tiny@1"


def embed_all(number: int) -> dict[str, Any]:
    """The vector of a crop by each model."""
    return {
        model: np.asarray(embed_files([crop(number)], shift)[0], float)
        for model, shift in SHIFTS.items()
    }

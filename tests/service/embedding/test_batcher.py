from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from service.embedding.batcher import BATCH_S, MIN_BATCH, Batcher, Load
from service.embedding.decode import CropDecoder
from service.embedding.return_times import MIN_RETRY_S
from service.errors import (
    BadImageError,
    CallError,
    EngineError,
    OverloadedError,
    ShuttingDownError,
)
from service.operations.metrics import Metrics
from service.types import Vector
from tests.support.fake_engine import FakeEngine
from tests.support.held_preprocessing import HeldPreprocessing
from tests.support.tiny_model import PREPROCESSING, crop, embed

MAX_BATCH = 4
MAX_QUEUE = 12


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def batcher(engine: FakeEngine, metrics: Metrics) -> AsyncIterator[Batcher]:
    decoder = CropDecoder(
        PREPROCESSING, max_bytes=10**6, max_pixels=10**6, threads=2, metrics=metrics
    )
    batcher = Batcher(engine, decoder, max_batch=MAX_BATCH, max_queue=MAX_QUEUE, metrics=metrics)
    yield batcher
    engine.gate.set()
    await batcher.close(5)


async def asked(
    batcher: Batcher, images: list[bytes], client: str = "one"
) -> list[Vector | CallError]:
    return await batcher.embed(images, client)


def expected(seeds: list[int]) -> NDArray[np.float32]:
    return embed(np.stack([PREPROCESSING.load(crop(seed)) for seed in seeds]))


def _value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def _all_that_is_ready() -> None:
    """Runs what waits for no thread and no time."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_each_caller_gets_its_own_vectors(batcher: Batcher) -> None:
    calls = [[1], [2, 3, 4], [5, 6, 7, 8, 9], [10]]
    answers = await asyncio.gather(
        *(asked(batcher, [crop(seed) for seed in seeds]) for seeds in calls)
    )
    for seeds, vectors in zip(calls, answers, strict=True):
        np.testing.assert_allclose(np.stack(vectors), expected(seeds), atol=1e-6)  # type: ignore[arg-type]


async def test_a_batch_takes_what_came_while_the_model_was_busy(
    batcher: Batcher, engine: FakeEngine
) -> None:
    engine.gate.clear()
    first = asyncio.create_task(asked(batcher, [crop(0)]))
    await engine.has_entered()
    others = [asyncio.create_task(asked(batcher, [crop(seed)])) for seed in (1, 2, 3)]
    await _until(lambda: batcher.waiting == 3)
    engine.gate.set()
    await asyncio.gather(first, *others)
    assert engine.batches == [1, 3]


async def test_no_batch_is_above_the_limit(batcher: Batcher, engine: FakeEngine) -> None:
    await asked(batcher, [crop(seed) for seed in range(11)])
    assert max(engine.batches) <= MAX_BATCH
    assert sum(engine.batches) == 11


async def test_a_bad_image_fails_alone(batcher: Batcher, metrics: Metrics) -> None:
    results = await asked(batcher, [crop(1), b"no image", crop(2)])
    assert isinstance(results[1], BadImageError)
    np.testing.assert_allclose(
        np.asarray([results[0], results[2]]),
        expected([1, 2]),
        atol=1e-6,
    )
    assert _value(metrics, "resight_images_total", outcome="bad") == 1
    assert _value(metrics, "resight_images_total", outcome="embedded") == 2


async def test_an_image_that_spoils_its_batch_fails_alone(
    batcher: Batcher, engine: FakeEngine, metrics: Metrics
) -> None:
    poison = PREPROCESSING.load(crop(2))

    def spoil(images: NDArray[np.uint8]) -> None:
        if any(np.array_equal(image, poison) for image in images):
            raise EngineError("poisoned")

    engine.spoil = spoil
    results = await asked(batcher, [crop(seed) for seed in (1, 2, 3)])
    assert isinstance(results[1], EngineError)
    np.testing.assert_allclose(
        np.asarray([results[0], results[2]]),
        expected([1, 3]),
        atol=1e-6,
    )
    assert _value(metrics, "resight_images_total", outcome="failed") == 1


async def test_nan_is_that_images_error(batcher: Batcher, engine: FakeEngine) -> None:
    engine.nan_for = PREPROCESSING.load(crop(2))
    results = await asked(batcher, [crop(1), crop(2)])
    assert isinstance(results[0], np.ndarray)
    assert isinstance(results[1], EngineError)
    assert "NaN" in str(results[1])


async def test_a_fault_of_the_engine_does_not_stop_the_batcher(
    batcher: Batcher, engine: FakeEngine
) -> None:
    def fault(images: NDArray[np.uint8]) -> None:
        raise ZeroDivisionError

    engine.spoil = fault
    (result,) = await asked(batcher, [crop(1)])
    assert isinstance(result, EngineError)
    engine.spoil = lambda images: None
    (result,) = await asked(batcher, [crop(1)])
    assert isinstance(result, np.ndarray)


async def test_where_the_queue_is_full_a_call_is_refused_at_once_and_whole(
    batcher: Batcher, engine: FakeEngine, metrics: Metrics
) -> None:
    engine.gate.clear()
    waiting = asyncio.create_task(asked(batcher, [crop(0)] * (MAX_QUEUE - 1)))
    await engine.has_entered()
    last = asyncio.create_task(asked(batcher, [crop(3)] * 2))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match=f"{MAX_QUEUE + 1} images wait") as refused:
        await asked(batcher, [crop(1), crop(2)])
    assert refused.value.retry_after_s is not None
    assert 0.05 <= refused.value.retry_after_s <= 10
    assert _value(metrics, "resight_calls_rejected_total", reason="queue") == 1
    engine.gate.set()
    assert len(await waiting) == MAX_QUEUE - 1
    assert len(await last) == 2
    assert len(await asked(batcher, [crop(4)] * MAX_QUEUE)) == MAX_QUEUE


async def test_a_caller_that_has_gone_is_not_embedded(
    batcher: Batcher, engine: FakeEngine, metrics: Metrics
) -> None:
    engine.gate.clear()
    first = asyncio.create_task(asked(batcher, [crop(0)]))
    await engine.has_entered()
    gone = asyncio.create_task(asked(batcher, [crop(1), crop(2)]))
    stays = asyncio.create_task(asked(batcher, [crop(3)]))
    await _until(lambda: batcher.waiting == 3)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    engine.gate.set()
    await asyncio.gather(first, stays)
    assert engine.batches == [1, 1]
    assert _value(metrics, "resight_images_total", outcome="gone") == 2
    assert _value(metrics, "resight_queue_depth") == 0


async def test_a_cancelled_call_keeps_its_places_until_its_threads_have_finished(
    engine: FakeEngine, metrics: Metrics
) -> None:
    held = HeldPreprocessing()
    decoder = CropDecoder(held, max_bytes=100, max_pixels=1, threads=2, metrics=metrics)
    batcher = Batcher(engine, decoder, max_batch=2, max_queue=8, metrics=metrics)
    gone = asyncio.create_task(asked(batcher, [b"x"] * 8))
    await _until(lambda: len(held.seen) == 2)
    gone.cancel()
    await _all_that_is_ready()
    assert not gone.done()
    assert _value(metrics, "resight_queue_depth") == 8
    with pytest.raises(OverloadedError):
        await asked(batcher, [b"y"])
    held.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert _value(metrics, "resight_queue_depth") == 0
    assert len(await asked(batcher, [b"y"])) == 1
    assert held.seen == [b"x", b"x", b"y"]
    await batcher.close(5)


async def test_only_a_full_batch_is_submitted_early(batcher: Batcher, engine: FakeEngine) -> None:
    engine.gate.clear()
    first = asyncio.create_task(asked(batcher, [crop(0)]))
    await engine.has_entered()
    few = asyncio.create_task(asked(batcher, [crop(seed) for seed in (1, 2)]))
    await _until(lambda: batcher.waiting == 2)
    many = asyncio.create_task(asked(batcher, [crop(seed) for seed in (3, 4, 5, 6, 7, 8)]))
    await _until(lambda: batcher.waiting == 4)
    engine.gate.set()
    await asyncio.gather(first, few, many)
    assert engine.batches == [1, 4, 4]


async def test_close_lets_admitted_calls_end_and_refuses_new_ones(
    engine: FakeEngine, metrics: Metrics
) -> None:
    decoder = CropDecoder(
        PREPROCESSING, max_bytes=10**6, max_pixels=10**6, threads=1, metrics=metrics
    )
    batcher = Batcher(engine, decoder, max_batch=2, max_queue=8, metrics=metrics)
    engine.gate.clear()
    admitted = asyncio.create_task(asked(batcher, [crop(seed) for seed in range(5)]))
    await engine.has_entered()
    closing = asyncio.create_task(batcher.close(10))
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDownError):
        await asked(batcher, [crop(9)])
    assert not closing.done()
    engine.gate.set()
    assert all(isinstance(vector, np.ndarray) for vector in await admitted)
    await closing
    assert _value(metrics, "resight_calls_rejected_total", reason="shutdown") == 1


async def test_close_gives_up_after_the_drain(engine: FakeEngine, metrics: Metrics) -> None:
    decoder = CropDecoder(
        PREPROCESSING, max_bytes=10**6, max_pixels=10**6, threads=1, metrics=metrics
    )
    batcher = Batcher(engine, decoder, max_batch=1, max_queue=8, metrics=metrics)
    engine.gate.clear()
    admitted = asyncio.create_task(asked(batcher, [crop(seed) for seed in range(5)]))
    await engine.has_entered()
    closing = asyncio.create_task(batcher.close(0.01))
    await _until(lambda: batcher.waiting == 0)
    engine.gate.set()
    await closing
    with pytest.raises(ShuttingDownError):
        await admitted


@pytest.mark.parametrize(("together", "seconds_per_image"), [(1, 0.05), (4, 0.0125)])
async def test_the_wait_that_is_advised_follows_the_speed_of_the_model(
    engine: FakeEngine, metrics: Metrics, together: int, seconds_per_image: float
) -> None:
    """A batch reads the clock when it begins and when it ends; each reading is 50 ms later."""
    readings = iter(range(10_000))
    decoder = CropDecoder(
        PREPROCESSING, max_bytes=10**6, max_pixels=10**6, threads=1, metrics=metrics
    )
    batcher = Batcher(
        engine,
        decoder,
        max_batch=together,
        max_queue=5,
        metrics=metrics,
        clock=lambda: next(readings) / 20,
    )
    for _ in range(30):
        await asked(batcher, [crop(1)] * together)
    engine.gate.clear()
    waiting = asyncio.create_task(asked(batcher, [crop(1)] * 5))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError) as refused:
        await asked(batcher, [crop(1)] * 16)
    advised = refused.value.retry_after_s
    quarter = max(5 / 4 * seconds_per_image, MIN_RETRY_S)
    assert advised == pytest.approx(quarter + 16 / 2 * seconds_per_image, rel=0.1)
    engine.gate.set()
    await waiting
    await batcher.close(5)


async def test_refused_calls_come_back_by_client_and_by_their_images(batcher: Batcher) -> None:
    for _ in range(30):
        await batcher.embed([crop(1)] * 4, "a")
    batcher._clock = lambda: 100.0
    batcher._seconds_per_image = 0.01
    batcher._queue.admit("busy", 800)

    def advised(client: str, images: int | None) -> float:
        with pytest.raises(OverloadedError) as refused:
            batcher.require_room(client, images)
        return refused.value.retry_after_s or 0.0

    quarter = 800 * 0.01 / 4
    waits = [advised("a", 20), advised("a", 20), advised("b", 20)]
    assert waits == pytest.approx([quarter + 0.1, quarter + 0.2, quarter + 0.1])
    batcher._queue.admit("few", 1)  # the only place besides the queue
    unread = advised("c", None)
    assert unread == pytest.approx(801 * 0.01 / 4 + 4 * 0.01 / 2, rel=1e-2), "as others were"


async def test_a_batch_that_cannot_be_run_fails_and_the_next_one_runs(
    batcher: Batcher, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory is short no thread may start: its callers would have waited for ever."""

    def submit(*_: object) -> None:
        monkeypatch.undo()
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(batcher._thread, "submit", submit)
    async with asyncio.timeout(10):
        (failed,) = await asked(batcher, [crop(1)])
        assert isinstance(failed, EngineError)
        (vector,) = await asked(batcher, [crop(1)])
    assert isinstance(vector, np.ndarray)
    assert "could not be run" in caplog.text


async def test_a_short_call_of_another_client_is_in_the_next_batch(
    batcher: Batcher, engine: FakeEngine
) -> None:
    owners = Owners(engine, q=1, r=2)
    engine.gate.clear()
    busy = asyncio.create_task(asked(batcher, [crop(1)] * MAX_QUEUE, "busy"))
    await engine.has_entered()
    await _until(lambda: batcher.waiting == MAX_QUEUE - 2 * MAX_BATCH)
    short = asyncio.create_task(asked(batcher, [crop(2)], "other"))  # the queue is full
    await _until(lambda: batcher.waiting == MAX_QUEUE - 2 * MAX_BATCH + 1)
    with pytest.raises(OverloadedError, match="its queue is full from 12 on"):
        await asked(batcher, [crop(3)], "busy")
    engine.gate.set()
    await asyncio.gather(busy, short)
    assert owners.batches == ["qqqq", "qqqq", "qqqr", "q"]


@pytest.mark.parametrize(
    ("seconds_per_image", "batches"),
    [
        (0.01, [12, 12]),
        (BATCH_S / 5.5, [6, 6, 6]),
        (2 * BATCH_S, [MIN_BATCH, MIN_BATCH, MIN_BATCH]),
    ],
)
async def test_batches_of_a_slow_model_are_short(
    engine: FakeEngine, metrics: Metrics, seconds_per_image: float, batches: list[int]
) -> None:
    now = 0.0

    def run(images: NDArray[np.uint8]) -> None:
        nonlocal now
        now += seconds_per_image * len(images)

    engine.spoil = run
    decoder = CropDecoder(
        PREPROCESSING, max_bytes=10**6, max_pixels=10**6, threads=1, metrics=metrics
    )
    batcher = Batcher(
        engine, decoder, max_batch=12, max_queue=200, metrics=metrics, clock=lambda: now
    )
    for _ in range(30):
        await asked(batcher, [crop(1)])
    engine.batches.clear()
    await asked(batcher, [crop(1)] * sum(batches))
    assert engine.batches == batches
    await batcher.close(5)


async def test_batches_grow_again_where_a_run_costs_the_same_for_any(
    engine: FakeEngine, metrics: Metrics
) -> None:
    now, seconds = 0.0, 2.0

    def run(images: NDArray[np.uint8]) -> None:
        nonlocal now
        now += seconds

    engine.spoil = run
    decoder = CropDecoder(
        PREPROCESSING, max_bytes=10**6, max_pixels=10**6, threads=1, metrics=metrics
    )
    batcher = Batcher(
        engine, decoder, max_batch=12, max_queue=400, metrics=metrics, clock=lambda: now
    )
    for _ in range(30):
        await asked(batcher, [crop(1)])
    seconds = 0.2
    await asked(batcher, [crop(1)] * 400)
    assert 12 in engine.batches
    await batcher.close(5)


class Owners:
    """Batches of the fake engine by the callers of their images, in letters: a caller sends one
    picture of its own again and again."""

    def __init__(self, engine: FakeEngine, **pictures: int) -> None:
        self.batches: list[str] = []
        self._known = {PREPROCESSING.load(crop(n)).tobytes(): name for name, n in pictures.items()}
        engine.spoil = lambda images: self.batches.append(
            "".join(sorted(self._known.get(image.tobytes(), ".") for image in images))
        )


async def test_a_full_queue_does_not_refuse_what_waits_for_its_turn(
    batcher: Batcher, engine: FakeEngine
) -> None:
    owners = Owners(engine, q=1, r=2)
    engine.gate.clear()
    callers = [asyncio.create_task(asked(batcher, [crop(1)] * MAX_QUEUE))]
    await engine.has_entered()
    rollover = asyncio.create_task(batcher.embed_in_turn([crop(2)] * 3))
    await _until(lambda: batcher.waiting == MAX_QUEUE - 2 * MAX_BATCH + 3)
    with pytest.raises(OverloadedError, match="its queue is full from 12 on"):
        await asked(batcher, [crop(1)])
    engine.gate.set()
    await asyncio.gather(rollover, *callers)
    assert len(await rollover) == 3
    assert "".join(owners.batches).count("r") == 3


async def test_the_line_takes_no_place_of_the_queue(batcher: Batcher, engine: FakeEngine) -> None:
    engine.gate.clear()
    rollover = asyncio.create_task(batcher.embed_in_turn([crop(2)] * (MAX_QUEUE - 1)))
    await engine.has_entered()
    caller = asyncio.create_task(asked(batcher, [crop(1)] * MAX_QUEUE))
    await _until(lambda: batcher.waiting > MAX_QUEUE)
    engine.gate.set()
    assert len(await caller) == MAX_QUEUE
    assert len(await rollover) == MAX_QUEUE - 1


@pytest.mark.parametrize(
    ("max_batch", "hurry", "expected"),
    [
        (4, False, "qqqq qqqq qqrr qqqr qqqr qqqr qqqr"),
        (4, True, "qqqq qqqq qqrr qqrr qqrr qqrr qqrr"),
        (1, False, "q q q r q q q r q q q r"),
        (1, True, "q q q r q r q r q r"),
    ],
)
async def test_the_line_gets_its_share_of_a_busy_model(
    engine: FakeEngine, metrics: Metrics, max_batch: int, hurry: bool, expected: str
) -> None:
    decoder = CropDecoder(
        PREPROCESSING, max_bytes=10**6, max_pixels=10**6, threads=2, metrics=metrics
    )
    batcher = Batcher(engine, decoder, max_batch=max_batch, max_queue=60, metrics=metrics)
    owners = Owners(engine, q=1, r=2)
    engine.gate.clear()
    callers = asyncio.create_task(asked(batcher, [crop(1)] * 60))
    await engine.has_entered()
    rollover = asyncio.create_task(batcher.embed_in_turn([crop(2)] * 24, hurry=hurry))
    await _until(lambda: batcher.waiting == 60 - 2 * max_batch + 24)
    engine.gate.set()
    await asyncio.gather(rollover, callers)
    assert owners.batches[: len(expected.split())] == expected.split()
    await batcher.close(5)


async def test_an_idle_model_is_the_lines(batcher: Batcher, engine: FakeEngine) -> None:
    await batcher.embed_in_turn([crop(2)] * MAX_BATCH * 2)
    assert engine.batches == [MAX_BATCH, MAX_BATCH]


async def test_calls_take_turns_and_one_in_a_hurry_goes_before_them(
    batcher: Batcher, engine: FakeEngine
) -> None:
    owners = Owners(engine, a=1, b=2, c=3, h=4)
    engine.gate.clear()
    first = asyncio.create_task(batcher.embed_in_turn([crop(1)] * 10))
    await engine.has_entered()
    others = [asyncio.create_task(batcher.embed_in_turn([crop(n)] * 4)) for n in (2, 3)]
    await _until(lambda: batcher.waiting == 2)
    hurried = asyncio.create_task(batcher.embed_in_turn([crop(4)] * 4, hurry=True))
    await _until(lambda: batcher.waiting == 6)
    engine.gate.set()
    await asyncio.gather(first, hurried, *others)
    assert owners.batches == ["aaaa", "aaaa", "hhhh", "aa", "bbbb", "cccc"]


async def test_a_call_that_waits_for_its_turn_can_leave(
    batcher: Batcher, engine: FakeEngine
) -> None:
    engine.gate.clear()
    first = asyncio.create_task(batcher.embed_in_turn([crop(1)]))
    await engine.has_entered()
    second = asyncio.create_task(batcher.embed_in_turn([crop(2)]))
    third = asyncio.create_task(batcher.embed_in_turn([crop(3)]))
    await asyncio.sleep(0)
    second.cancel()
    engine.gate.set()
    await asyncio.gather(first, third)
    assert sum(engine.batches) == 2


async def test_close_ends_what_waits_for_its_turn(batcher: Batcher, engine: FakeEngine) -> None:
    engine.gate.clear()
    first = asyncio.create_task(batcher.embed_in_turn([crop(1)]))
    await engine.has_entered()
    second = asyncio.create_task(batcher.embed_in_turn([crop(2)]))
    await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close(10))
    await asyncio.sleep(0)
    engine.gate.set()
    assert len(await first) == 1
    with pytest.raises(ShuttingDownError):
        await second
    await closing


class Slow(FakeEngine):
    """A batch takes an eighth of a second of a clock."""

    def __init__(self, seconds: list[float]) -> None:
        super().__init__()
        self._seconds = seconds

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._seconds[0] += 0.125
        return super().embed(images)


async def test_a_line_beside_busy_callers_of_another_model_rests_as_long_as_it_works(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, load, rests = [0.0], Load(), []

    def made(engine: FakeEngine) -> Batcher:
        decoder = CropDecoder(
            PREPROCESSING, max_bytes=10**6, max_pixels=10**6, threads=1, metrics=metrics
        )
        return Batcher(
            engine, decoder, max_batch=4, max_queue=9, metrics=metrics, load=load,
            clock=lambda: seconds[0],
        )  # fmt: skip

    def rest(self: Batcher, length: float) -> None:
        rests.append(length)
        monkeypatch.undo()
        self._rest(0.0)
        monkeypatch.setattr(Batcher, "_rest", rest)

    busy, quiet = FakeEngine(), Slow(seconds)
    callers, aside = made(busy), made(quiet)
    monkeypatch.setattr(Batcher, "_rest", rest)
    await aside.embed_in_turn([crop(1)] * 8)
    assert rests == [], "nobody else computes"
    busy.gate.clear()
    calling = asyncio.create_task(callers.embed([crop(1)], "one"))
    await busy.has_entered()
    await aside.embed_in_turn([crop(1)] * 8)
    assert rests == [0.125, 0.125]
    assert quiet.batches == [4, 4, 4, 4]
    await aside.embed_in_turn([crop(1)] * 8, hurry=True)
    await aside.embed([crop(1)], "one")
    assert rests == [0.125, 0.125], "not in a hurry, and not for a caller of its own"
    busy.gate.set()
    await calling
    await aside.embed_in_turn([crop(1)] * 8)
    assert rests == [0.125, 0.125]
    monkeypatch.undo()
    for batcher in (callers, aside):
        await batcher.close(5)


async def test_while_a_line_rests_it_runs_nothing(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, ends = asyncio.get_running_loop(), list[Callable[[], None]]()
    call_later = loop.call_later

    def later(
        delay: float, callback: Callable[..., None], *args: object, **named: object
    ) -> object:
        if callback.__qualname__.startswith("Batcher._rest."):
            ends.append(callback)
            return None
        return call_later(delay, callback, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "call_later", later)
    load, busy, quiet = Load(), FakeEngine(), FakeEngine()
    callers, aside = (
        Batcher(
            engine,
            CropDecoder(
                PREPROCESSING, max_bytes=10**6, max_pixels=10**6, threads=1, metrics=metrics
            ),
            max_batch=4,
            max_queue=9,
            metrics=metrics,
            load=load,
        )
        for engine in (busy, quiet)
    )
    busy.gate.clear()
    calling = asyncio.create_task(asked(callers, [crop(1)]))
    await busy.has_entered()
    line = asyncio.create_task(aside.embed_in_turn([crop(2)] * 8))
    await _until(lambda: len(ends) == 1)
    await _all_that_is_ready()
    assert (quiet.batches, aside.waiting) == ([4], 4)
    ends.pop()()
    await line
    assert quiet.batches == [4, 4]
    busy.gate.set()
    await calling
    for batcher in (callers, aside):
        await batcher.close(5)

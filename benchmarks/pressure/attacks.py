"""The attacks, each a function of an arena, and what each must leave whole."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import time
from contextlib import ExitStack, closing
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from benchmarks.pressure.bundles import OTHER, embedding, enrollment, replacement
from benchmarks.pressure.clients import (
    ACTIVATE,
    DELETE_SITE,
    EMBED,
    ENROLL,
    GET_SITE,
    REEMBED,
    SEARCH,
    TIMEOUT_S,
    Call,
    Step,
    burst,
    hammer,
    probe,
    roll_over,
    watch,
)
from benchmarks.pressure.processes import Worker
from benchmarks.pressure.server import Sampler
from benchmarks.pressure.trial import (
    AFTER,
    DESCRIPTORS,
    ERRORS,
    MB,
    PROBE_EVERY_S,
    PROBE_SITE,
    Arena,
    Attack,
    Found,
    longest_refusal,
)
from service.errors import ServiceError
from service.jobs.records import AdaptationSpec
from service.rpc.pb.resight.v1 import adaptation_pb2, gallery_pb2, site_pb2
from service.types import MAX_ATTRIBUTE_KEY, MAX_ATTRIBUTE_VALUE, MAX_ATTRIBUTES

MESSAGE_BYTES = 15_900_000
WIDEST = "\U0001d11e"
"""Four bytes of UTF-8: attributes are limited in characters."""

_SIGHTINGS = 100
_ATTACKERS = 4
_CROPS = 32
_FEW_CALLERS = (4, 8, 16)
_MANY_CALLERS = 300
_TURNS = 3
_WAIT_S = 1800.0


# --- answers --------------------------------------------------------------------------------------


def prepare_answers(arena: Arena) -> None:
    """100 sightings with the largest attributes."""
    images = arena.images(1)
    largest = {
        f"{n:0{MAX_ATTRIBUTE_KEY}d}": WIDEST * MAX_ATTRIBUTE_VALUE for n in range(MAX_ATTRIBUTES)
    }
    with arena.server.client() as client:
        client.create_site(arena.site)
    for first in range(0, _SIGHTINGS, _CROPS):
        items = [
            gallery_pb2.EnrollItem(
                sighting_id=f"s{n}",
                sighting=gallery_pb2.Sighting(camera="c", attributes=largest, image=images[0]),
            )
            for n in range(first, min(first + _CROPS, _SIGHTINGS))
        ]
        request = gallery_pb2.EnrollSightingsRequest(parent=f"sites/{arena.site}", items=items)
        with Worker(burst, arena.server.address, ENROLL, request.SerializeToString(), 1) as worker:
            (call,) = worker.begin().result(_WAIT_S)
        assert not call.reason, f"the attack could not be prepared: {call.reason}"


def _largest_search(arena: Arena, queries: int) -> bytes:
    names = [f"sites/{arena.site}/sightings/s{n % _SIGHTINGS}" for n in range(queries)]
    asked = [gallery_pb2.SearchQuery(sighting=name) for name in names]
    return gallery_pb2.SearchSightingsRequest(
        parent=f"sites/{arena.site}", queries=asked, limit=_SIGHTINGS - 1
    ).SerializeToString()


def _search(arena: Arena, queries: int) -> Call:
    request = _largest_search(arena, queries)
    with Worker(burst, arena.server.address, SEARCH, request, 1) as worker:
        (call,) = worker.begin().result(_WAIT_S)
    return call


def answers(arena: Arena) -> Found:
    """The search with the largest answer; where it is refused, the largest that is not."""
    found = Found()
    queries = arena.setting.size(_SIGHTINGS)
    call = _search(arena, queries)
    found.count([call])
    if call.reason == "BAD_LIMIT":
        call = _search(arena, 1)
        found.count([call])
    found.figures["answer, MB"] = call.size / MB
    found.figures["until the answer, s"] = call.seconds
    return found


def slow_readers(arena: Arena) -> Found:
    """60 such searches by clients that stop reading, and are gone in the end."""
    count = arena.setting.size(60, at_least=2)
    queries = arena.setting.size(_SIGHTINGS)
    if _refused_unread(arena, queries):
        queries = 1
    request = _largest_search(arena, queries)
    with Worker(burst, arena.server.address, SEARCH, request, count) as worker:
        worker.begin()
        time.sleep(2.0)
        worker.halt()
        time.sleep(arena.setting.seconds)
    return Found({"searches": count, "queries of each": queries})


def _refused_unread(arena: Arena, queries: int) -> bool:
    """Whether such a search is refused, by a client that waits a second for it."""
    request = _largest_search(arena, queries)
    with Worker(burst, arena.server.address, SEARCH, request, 1, 1.0) as worker:
        (call,) = worker.begin().result(_WAIT_S)
    return bool(call.reason == "BAD_LIMIT")


# --- what blocks ----------------------------------------------------------------------------------


def prepare_reader(arena: Arena) -> None:
    """A site with sightings to delete."""
    arena.fill(arena.site, _CROPS)


def outside_reader(arena: Arena) -> Found:
    """A read transaction from outside, as of a backup, and one deletion."""
    database = f"file:{arena.server.database}?mode=ro"
    with closing(sqlite3.connect(database, uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sightings").fetchone()
        began = time.monotonic()
        with arena.server.client() as client:
            client.delete_sighting(arena.site, next(client.sightings(arena.site)).id)
        took = time.monotonic() - began
        time.sleep(arena.setting.seconds)
        reader.execute("ROLLBACK")
    return Found({"deletion, s": took})


def prepare_watches(arena: Arena) -> None:
    """An adaptation that does not end: its process is stopped before it begins."""
    arena.fill(arena.site, _CROPS)
    with arena.server.client() as client:
        client.start_adaptation(arena.site, AdaptationSpec("mmt", "mmt_small"))
    deadline = time.monotonic() + TIMEOUT_S
    while not (children := arena.server.children()):
        assert time.monotonic() < deadline, "the server has not started the adaptation"
        time.sleep(0.01)
    for pid in children:
        os.kill(pid, signal.SIGSTOP)


def watches(arena: Arena) -> Found:
    """More watches of an adaptation than calls are allowed at a time."""
    with arena.server.client() as client:
        (adaptation,) = client.adaptations(arena.site)
    name = f"sites/{arena.site}/adaptations/{adaptation.id}"
    request = adaptation_pb2.WatchAdaptationRequest(name=name).SerializeToString()
    count = arena.setting.size(320, at_least=4)
    found = Found()
    with Worker(watch, arena.server.address, request, count) as worker:
        worker.begin()
        time.sleep(arena.setting.seconds)
        still, ended = worker.stop()
    found.count(ended)
    found.reasons["open"] = still
    found.figures["watches open"] = still
    with arena.server.client() as client:
        client.cancel_adaptation(arena.site, adaptation.id)
    for pid in arena.server.children():
        os.kill(pid, signal.SIGKILL)
    return found


# --- rollovers ------------------------------------------------------------------------------------


def _roll(arena: Arena, site: str, path: str, limit_s: float) -> tuple[list[Step], Call, float]:
    """Its steps, its end, and the longest time for which the site refused enrollment."""
    request: Any = site_pb2.ReembedSiteRequest(name=f"sites/{site}")
    if path == ACTIVATE:
        request = site_pb2.ActivateModelRequest(name=f"sites/{site}", model=f"models/{OTHER}")
    address = arena.server.address
    enrolls = (address, site, replacement(site, arena.images(1)), PROBE_EVERY_S)
    with (
        Worker(roll_over, address, path, request.SerializeToString(), limit_s, niceness=0) as roll,
        Worker(probe, *enrolls, niceness=0) as prober,
    ):
        prober.begin()
        steps, call = roll.begin().result(limit_s + TIMEOUT_S)
        _, enrolled = prober.stop()
    return steps, call, longest_refusal(enrolled, "SITE_SWITCHING")


def prepare_starving(arena: Arena) -> None:
    """A site with the other model."""
    arena.fill(arena.site, arena.setting.size(2048, at_least=4 * _CROPS), OTHER)


def starving(arena: Arena) -> Found:
    """A rollover to a model that 40 callers of 32 crops keep busy."""
    found = Found()
    limit_s = 6 * arena.setting.seconds
    request = embedding(arena.images())
    with Worker(hammer, arena.server.address, EMBED, request, 40, niceness=0) as callers:
        callers.begin()
        time.sleep(2.0)
        steps, end, refused = _roll(arena, arena.site, REEMBED, limit_s)
        load = callers.stop()
    found.count(load)
    found.reasons[f"rollover: {end.reason or 'done'}"] += 1
    found.figures |= {
        "rollovers that ended": float(not end.reason),
        "steps": len(steps),
        "rollover, s": end.seconds,
        REFUSED: refused,
    }
    return found


def prepare_models(arena: Arena) -> None:
    """Two small sites with the server's own model."""
    arena.fill(f"{arena.site}-a", 8)
    arena.fill(f"{arena.site}-b", 8)


def load_release(arena: Arena) -> Found:
    """600 rollovers between two loaded models, then 600 loads and releases of one."""
    first, second = f"{arena.site}-a", f"{arena.site}-b"
    count = arena.setting.size(600, at_least=2)
    with arena.server.client() as client:
        list(client.activate_model(second, OTHER))  # so that it stays loaded
        list(client.activate_model(first, OTHER))
        list(client.reembed_site(first))
        with Sampler(arena.server.pid) as sampler:
            began = time.monotonic()
            for _ in range(-(-count // 2)):
                list(client.activate_model(first, OTHER))
                list(client.reembed_site(first))
            between = time.monotonic()
            list(client.reembed_site(second))
            for _ in range(count):
                list(client.activate_model(first, OTHER))
                list(client.reembed_site(first))
            ended = time.monotonic()
    return Found(
        {
            "rollovers": 2.0 * -(-count // 2),
            "loads and releases": float(count),
            "memory after the rollovers, MB": sampler.between(began, between)[-1].resident / MB,
            "memory after the loads, MB": sampler.between(between, ended)[-1].resident / MB,
        }
    )


def prepare_large(arena: Arena) -> None:
    """A site of 200,000 to delete, one of 100,000 to roll over to a model in use."""
    arena.fill(f"{arena.site}-other", 8, OTHER)
    arena.fill(f"{arena.site}-deleted", arena.setting.size(200_000, at_least=2 * _CROPS))
    arena.fill(f"{arena.site}-rolled", arena.setting.size(100_000, at_least=2 * _CROPS))


def large_site(arena: Arena) -> Found:
    """The deletion of a large site, then the rollover of one."""
    request = site_pb2.DeleteSiteRequest(name=f"sites/{arena.site}-deleted", force=True)
    with Worker(burst, arena.server.address, DELETE_SITE, request.SerializeToString(), 1) as worker:
        (deleted,) = worker.begin().result(_WAIT_S)
    _, rolled, refused = _roll(arena, f"{arena.site}-rolled", ACTIVATE, _WAIT_S)
    found = Found()
    found.reasons[f"deletion: {deleted.reason or 'done'}"] += 1
    found.reasons[f"rollover: {rolled.reason or 'done'}"] += 1
    found.figures |= {
        "deletion, s": deleted.seconds,
        "rollover, s": rolled.seconds,
        REFUSED: refused,
    }
    return found


# --- what arrives ---------------------------------------------------------------------------------


def arrivals(arena: Arena) -> Found:
    """150 calls of 16 MB at once."""
    half = np.random.default_rng(arena.setting.seed).bytes(MESSAGE_BYTES // 2)
    request = enrollment(PROBE_SITE, [half, half])
    count = arena.setting.size(150, at_least=_ATTACKERS)
    found = Found()
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                Worker(burst, arena.server.address, ENROLL, request, -(-count // _ATTACKERS))
            )
            for _ in range(_ATTACKERS)
        ]
        for worker in workers:
            worker.begin()
        calls = [call for worker in workers for call in worker.result(_WAIT_S)]
    found.count(calls)
    found.figures["calls"] = len(calls)
    found.figures["slowest call, s"] = max(call.seconds for call in calls)
    return found


def descriptors(arena: Arena) -> Found:
    """More idle connections, to both ports, than the server may have descriptors."""
    opened = []
    for address, hello in ((arena.server.address, _HTTP2_HELLO), (arena.server.http, b"")):
        host, _, port = address.rpartition(":")
        for _ in range(300):
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex((host, int(port)))
            opened.append((connection, hello))
    time.sleep(1.0)
    for connection, hello in opened:
        try:
            connection.send(hello)
        except OSError:  # not accepted, or closed again: what the server should do
            continue
    time.sleep(arena.setting.seconds)
    found = Found()
    asked = site_pb2.GetSiteRequest(name=f"sites/{PROBE_SITE}").SerializeToString()
    with Worker(burst, arena.server.address, GET_SITE, asked, 1) as worker:
        (new,) = worker.begin().result(_WAIT_S)
    found.reasons[f"new client: {new.reason or 'answered'}"] += 1
    found.figures[NEW_CLIENT] = TIMEOUT_S if new.reason else new.seconds
    for connection, _ in opened:
        connection.close()
    return found


_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What a client of HTTP/2 begins with: the preface, and empty settings."""


def goodput(arena: Arena) -> Found:
    """300 callers of 32 crops, against the best of 4, 8 and 16 callers: medians of turns."""
    request = embedding(arena.images())
    found = Found()
    rates: dict[int, list[float]] = {callers: [] for callers in (*_FEW_CALLERS, _MANY_CALLERS)}
    refused: list[float] = []
    from_start: list[float] = []
    for callers in [*rates] * _TURNS:
        with Worker(hammer, arena.server.address, EMBED, request, callers, niceness=0) as worker:
            worker.begin()
            time.sleep(arena.setting.seconds / 2)  # until the queue is as full as it gets
            began = time.monotonic()
            time.sleep(arena.setting.seconds)
            ended = time.monotonic()
            calls = worker.stop()
        done = [c for c in calls if not c.reason and began < c.began + c.seconds <= ended]
        rates[callers].append(_CROPS * len(done) / (ended - began))
        if callers == _MANY_CALLERS:
            found.count(calls)
            refused += [c.seconds for c in calls if c.refused and began < c.began <= ended]
            from_start += [c.seconds for c in calls if c.refused]
    crowded = rates[_MANY_CALLERS]
    peak = max(median(rates[callers]) for callers in _FEW_CALLERS)
    found.figures |= {
        "peak, crops/s": peak,
        "300 callers, crops/s": median(crowded),
        "300 callers, slowest turn, crops/s": min(crowded),
        "300 callers, fastest turn, crops/s": max(crowded),
        GOODPUT: median(crowded) / peak,
        REFUSED_P99: _p99(refused),
        f"{REFUSED_P99}, with the callers' own start": _p99(from_start),
    }
    return found


def _p99(seconds: list[float]) -> float:
    return float(np.quantile(seconds, 0.99)) if seconds else 0.0


# --- all ------------------------------------------------------------------------------------------

REFUSED = "enrollment refused at the site, s"
NEW_CLIENT = "GetSite of a new client, s"
GOODPUT = "300 callers / peak"
REFUSED_P99 = "refusals p99, s"

_MB_MODELS = {AFTER: ("at most", 1.05), DESCRIPTORS: ("at most", 0.0)}

SINGLE = (
    Attack("answers", answers, prepare_answers),
    Attack("slow-readers", slow_readers, prepare_answers),
    Attack("outside-reader", outside_reader, prepare_reader),
    Attack("watches", watches, prepare_watches, settings={"adapt_inits": "/"}),
    Attack(
        "starving",
        starving,
        prepare_starving,
        targets={"rollovers that ended": ("at least", 1.0), REFUSED: ("at most", 2.0)},
    ),
    Attack("load-release", load_release, prepare_models, targets=_MB_MODELS),
    Attack("arrivals", arrivals),
    Attack("large-site", large_site, prepare_large, targets={REFUSED: ("at most", 2.0)}),
    Attack("descriptors", descriptors, descriptors=256, targets={NEW_CLIENT: ("at most", 1.0)}),
    Attack(
        "goodput",
        goodput,
        targets={GOODPUT: ("at least", 0.9), REFUSED_P99: ("at most", 0.1)},
    ),
)


def mixed(arena: Arena) -> Found:
    """All attacks in turn under load, for some minutes: memory and descriptors stay flat."""
    address, found = arena.server.address, Found()
    search = gallery_pb2.SearchSightingsRequest(
        parent=f"sites/{PROBE_SITE}", queries=[gallery_pb2.SearchQuery(image=arena.images(1)[0])]
    )
    loads = (
        (ENROLL, replacement(PROBE_SITE, arena.images(8)), 1),
        (EMBED, embedding(arena.images()), 2),
        (SEARCH, search.SerializeToString(), 2),
    )
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(hammer, address, *load)) for load in loads]
        sampler = stack.enter_context(Sampler(arena.server.pid))
        for worker in workers:
            worker.begin()
        starts = [time.monotonic()]
        deadline = starts[0] + 60 * arena.setting.minutes
        while time.monotonic() < deadline:
            for attack in SINGLE:
                own = Arena(arena.server, arena.setting, f"{attack.name}-{len(starts)}")
                attack.prepare(own)
                found.reasons.update(attack.run(own).reasons)
                _remove_sites(own)
            starts.append(time.monotonic())
        calls = [call for worker in workers for call in worker.stop()]
        lowest = [
            min(sample.resident for sample in sampler.between(begin, end)) / MB
            for begin, end in pairwise(starts)
        ]
    found.count(calls)
    found.figures = {
        "attacks": len(lowest) * len(SINGLE),
        "lowest memory in the first turn of all attacks, MB": lowest[0],
        "lowest memory in the second turn, MB": lowest[min(1, len(lowest) - 1)],
        "lowest memory in the last turn, MB": lowest[-1],
        "calls of the load": len(calls),
        f"of the load, {ERRORS}": sum(bool(c.reason) and not c.refused for c in calls),
    }
    return found


def _remove_sites(arena: Arena) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    with arena.server.client() as client:
        for site in [s.id for s in client.sites() if s.id.startswith(arena.site)]:
            while True:
                try:
                    client.delete_site(site, force=True)
                    break
                except ServiceError:  # its adaptation has not ended yet
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.5)


ATTACKS = (
    *SINGLE,
    Attack(
        "mixed",
        mixed,
        settings={"adapt_inits": "/"},
        targets={f"of the load, {ERRORS}": ("at most", 0.0), DESCRIPTORS: ("at most", 0.0)},
    ),
)

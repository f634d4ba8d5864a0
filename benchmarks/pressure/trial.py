"""One attack on one server: before, during, and some time after."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.pressure.bounds import memory_bound
from benchmarks.pressure.bundles import OTHER, OWN, SIZE, crops, enrollment, replacement
from benchmarks.pressure.clients import ENROLL, Call, hammer, probe
from benchmarks.pressure.processes import Worker
from benchmarks.pressure.server import AttackedServer, Sampler, cores, median_resident
from benchmarks.pressure.setting import Setting
from service.config import Settings

MB = 1e6
PROBE_SITE = "probe"
PROBE_EVERY_S = 0.05

_AFTER_S = 2.0
_WARM_CALLS = 16
_CROPS_PER_CALL = 32

AFTER = "memory after / before"
BOUND = "memory at the peak / bound of the settings"
SITE_P99 = "GetSite p99, s"
ENROLL_P99 = "enrollment p99, s"
ERRORS = "errors that are not refusals"
TRACEBACKS = "tracebacks in the log"
DESCRIPTORS = "descriptors more than before"


@dataclass(frozen=True)
class Arena:
    """Where an attack takes place. site: prefix of the names of its own sites."""

    server: AttackedServer
    setting: Setting
    site: str

    def images(self, count: int = _CROPS_PER_CALL) -> list[bytes]:
        """Crops."""
        return crops(count, self.setting.seed)

    def fill(self, site: str, sightings: int, model: str = OWN, callers: int = 4) -> None:
        """Make a site of so many sightings, or up to a call more, that has used one model only."""
        with self.server.client() as client:
            client.create_site(site)
            if model != OWN:
                list(client.activate_model(site, model))
        per_call = min(sightings, 4 * _CROPS_PER_CALL)
        calls = -(-sightings // per_call)
        request = enrollment(site, self.images(per_call))
        with Worker(hammer, self.server.address, ENROLL, request, callers, calls) as worker:
            worker.begin().result(timeout_s=3600)


@dataclass
class Found:
    """What an attack gave. figures: by name. reasons: how the attacker's own calls ended."""

    figures: dict[str, float] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)

    def count(self, calls: Sequence[Call]) -> None:
        """Add the ends of calls."""
        self.reasons.update(call.reason or "answered" for call in calls)


@dataclass(frozen=True)
class Attack:
    """An attack.

    prepare: makes its sites, before anything is measured. run: does it. settings: of the server,
    beside the usual. descriptors: the server's limit of open ones. targets: of its own figures, and
    those that replace the usual; a pair of "at most" or "at least" and a number.
    """

    name: str
    run: Callable[[Arena], Found]
    prepare: Callable[[Arena], None] = lambda _: None
    settings: Mapping[str, str] = field(default_factory=dict)
    descriptors: int = 0
    targets: Mapping[str, tuple[str, float]] = field(default_factory=dict)


def measure(attack: Attack, setting: Setting, folder: Path, log: Path) -> Found:
    """Attack a fresh server; figures of the attack and those that each attack has.

    folder: for its data, made and removed again. log: gets the server's log.
    """
    folder.mkdir()
    try:
        settings = {
            "registry": str(setting.folder / "registry"),
            "model": OWN,
            "adapt_stop_s": "1",
        }
        server = AttackedServer(
            setting.code,
            folder / "data",
            log,
            {**settings, **attack.settings},
            descriptors=attack.descriptors,
        )
        with server:
            arena = Arena(server, setting, attack.name)
            _warm_up(arena)
            attack.prepare(arena)
            return _attacked(attack, arena)
    finally:
        shutil.rmtree(folder)


def _warm_up(arena: Arena) -> None:
    """Ordinary work of each kind, so that what a server needs for it is there before."""
    address = arena.server.address
    with arena.server.client() as client:
        client.create_site(PROBE_SITE)
    request = enrollment(PROBE_SITE, arena.images())
    with Worker(hammer, address, ENROLL, request, 4, _WARM_CALLS) as worker:
        worker.begin().result(timeout_s=600)
    with arena.server.client() as client:
        client.embed(arena.images())
        client.search(PROBE_SITE, arena.images()[0], limit=10)


def _attacked(attack: Attack, arena: Arena) -> Found:
    server, settle_s = arena.server, arena.setting.settle_s
    asking = (server.address, PROBE_SITE, replacement(PROBE_SITE, arena.images(1)), PROBE_EVERY_S)
    with Sampler(server.pid) as sampler, Worker(probe, *asking, niceness=0) as prober:
        tracebacks = server.tracebacks()
        prober.begin()
        time.sleep(settle_s)  # what a server needs for a warm-up it gives back as late
        begin = time.monotonic()
        found = attack.run(arena)
        end = time.monotonic()
        time.sleep(settle_s)
        over = time.monotonic()
        got, enrolled = prober.stop()
    rest_s = min(_AFTER_S, settle_s)
    before = sampler.between(begin - rest_s, begin)
    during = sampler.between(begin, end)
    after = sampler.between(over - rest_s, over)
    at_rest = median_resident(before)
    peak = max(s.resident for s in sampler.between(begin, over))
    found.figures = {
        "memory before, MB": at_rest / MB,
        "memory at the peak, MB": peak / MB,
        "memory after, MB": median_resident(after) / MB,
        AFTER: median_resident(after) / at_rest,
        BOUND: peak / memory_bound(Settings.model_construct(), at_rest, SIZE, len((OWN, OTHER))),
        **_seen("GetSite", _during(got, begin, end)),
        **_seen("enrollment", _during(enrolled, begin, end)),
        "longest wait for an enrollment, s": longest_wait(_during(enrolled, begin, end)),
        ERRORS: sum(bool(call.reason) and not call.refused for call in [*got, *enrolled]),
        TRACEBACKS: server.tracebacks() - tracebacks,
        "descriptors at the peak": max(s.descriptors for s in during),
        DESCRIPTORS: float(
            np.median([s.descriptors for s in after]) - max(s.descriptors for s in before)
        ),
        "cores during": cores(during),
        "seconds of the attack": end - begin,
        **found.figures,
    }
    for what, calls in (("GetSite", got), ("enrollment", enrolled)):
        found.reasons.update(f"{what}: {call.reason}" for call in calls if call.reason)
    return found


def _during(calls: Sequence[Call], begin: float, end: float) -> list[Call]:
    found = [call for call in calls if call.began < end and call.began + call.seconds > begin]
    return found or list(calls[-1:])


def _seen(what: str, calls: Sequence[Call]) -> dict[str, float]:
    seconds = waits(until_answered(calls), PROBE_EVERY_S)
    return {
        f"{what} p50, s": float(np.quantile(seconds, 0.5)),
        f"{what} p99, s": float(np.quantile(seconds, 0.99)),
        f"{what} calls refused": float(np.mean([call.refused for call in calls])),
    }


def until_answered(calls: Sequence[Call]) -> list[Call]:
    """Calls of a client that tries again until it is answered: a refused call and those after it,
    up to the one that is answered, are one. The last ones may be unanswered.
    """
    made: list[Call] = []
    first: Call | None = None
    for call in sorted(calls, key=lambda call: call.began):
        first = first or call
        whole = replace(call, began=first.began, seconds=call.began + call.seconds - first.began)
        if not call.reason:
            made.append(whole)
            first = None
    return [*made, whole] if first else made


def waits(calls: Sequence[Call], every_s: float) -> list[float]:
    """Seconds that a caller at any moment waits.

    A call that takes long keeps the probe from calling. Those that it would have made meanwhile,
    each of them shorter by `every_s`, are counted as well.
    """
    found: list[float] = []
    for call in calls:
        found += np.arange(call.seconds, 0.0, -every_s).tolist() or [0.0]
    return found


def longest_wait(calls: Sequence[Call]) -> float:
    """The longest time until a caller that tries again is answered, in seconds."""
    return max(call.seconds for call in until_answered(calls))


def longest_refusal(calls: Sequence[Call], reason: str) -> float:
    """The longest time for which all calls were refused for a reason, in seconds.

    From the first of them to the beginning of the next call that was not; what it then took is not
    counted.
    """
    longest, since = 0.0, None
    for call in sorted(calls, key=lambda call: call.began):
        if since is not None:
            longest = max(longest, call.began - since)
        if call.reason != reason:
            since = None
        elif since is None:
            since = call.began
            longest = max(longest, call.seconds)
    return longest

"""The only wiring: from settings to a running server and back."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import uvloop

from models.bundle import Bundle
from models.errors import ModelError
from models.registry import ModelReference, Registry
from service.config import Settings, split_address, threads_or_cores, unknown_variables
from service.embedding.batcher import Batcher, Load
from service.embedding.decode import CropDecoder
from service.embedding.engine import Engine, OnnxEngine
from service.embedding.memory import keep_large_blocks_apart
from service.embedding.model_pool import ModelPool
from service.errors import CallError, InternalError, ModelLoadError, StoreUnusableError
from service.gallery.gallery import Gallery, GallerySettings
from service.gallery.live_sites import LiveSites
from service.gallery.site_models import SiteModels
from service.jobs.api import Adaptations
from service.jobs.process import Starter, start_python
from service.jobs.rows import JobRows
from service.jobs.runner import JobSetup
from service.jobs.supervisor import Supervisor
from service.operations.data_dir import DataDir
from service.operations.descriptors import raise_limit
from service.operations.http import Monitor
from service.operations.metrics import Metrics, new_metrics
from service.rollover.activation import Activator
from service.rollover.rollover import Rollovers
from service.rpc.server import RpcServer
from service.store.store import Store
from service.types import ModelInfo

log = logging.getLogger("resight")

_OTHER_READERS = 8
_MAX_READERS = 32

EngineLoader: TypeAlias = Callable[[Bundle, Settings], tuple[Engine, bool]]
"""Gives the engine of a bundle, and whether it fell back to the CPU."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What a started server reports. The addresses have the ports in use."""

    grpc_address: str
    http_address: str
    model: ModelInfo
    fallback: bool
    sites: int
    sightings: int


def open_bundle(settings: Settings) -> Bundle:
    """The bundle that `settings.model` names: a folder, or a model of the registry.

    Raises:
        ModelLoadError: no such bundle, or it is invalid; or only a name is given, and a site could
            use its newest version only by force.
    """
    path = Path(settings.model)
    try:
        if os.sep in settings.model or path.exists():
            return Bundle.open(path)
        registry = Registry(settings.registry)
        bundle = registry.resolve(settings.model)
        if ModelReference.parse(settings.model).version is None:
            _require_unblocked(registry, ModelReference.parse(bundle.reference))
        return bundle
    except ModelError as error:
        raise ModelLoadError(str(error)) from error


def _require_unblocked(registry: Registry, newest: ModelReference) -> None:
    """Raise `ModelLoadError` where the verdict on the newest version of a name blocks it.

    Nobody has chosen that version: it may be what an adaptation of this server registered.
    """
    record = registry.gate_record(newest)
    if record.blocks_activation:
        other = registry.newest_unblocked(newest.name) or "another model"
        raise ModelLoadError(
            f"{record.objection(str(newest))}; it is the newest version of {newest.name}: "
            f"start with {other}, or with {newest} itself to use it all the same"
        )


class Server:
    """A server, made by `bootstrap`."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        gallery: Gallery,
        pool: ModelPool,
        adaptations: Adaptations,
        rpc: RpcServer,
        cleanup: ExitStack,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._gallery = gallery
        self._pool = pool
        self._adaptations = adaptations
        self._rpc = rpc
        self._cleanup = cleanup
        self._serving = False

    async def start(self) -> Ready:
        """Listen on both ports; raises `PortError`."""
        monitor = Monitor.start(self._settings.http, self._metrics.registry, lambda: self._serving)
        self._cleanup.callback(monitor.close)
        grpc_address = await self._rpc.start()
        self._serving = True
        self._adaptations.begin()
        sites = await self._gallery.sites()
        return Ready(
            grpc_address=grpc_address,
            http_address=monitor.address,
            model=self._gallery.model,
            fallback=self._pool.own.fallback,
            sites=len(sites),
            sightings=sum(site.sightings for site in sites),
        )

    async def stop(self) -> None:
        """Refuse new calls, give running ones `drain_s`, close everything.

        Meanwhile a running adaptation has `adapt_stop_s` to save its state.
        """
        self._serving = False
        await asyncio.gather(self._adaptations.stop(), self._rpc.stop(self._settings.drain_s))
        await self._pool.close(drain_s=1.0)
        self._gallery.close()
        await asyncio.to_thread(self._cleanup.close)


async def bootstrap(
    settings: Settings,
    *,
    load_engine: EngineLoader | None = None,
    start_process: Starter = start_python,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Server:
    """Open the data folder, load the models, build the galleries; nothing listens yet.

    Args:
        settings: of the server.
        load_engine: gives the engine of a bundle; None: on ONNX Runtime.
        start_process: starts the processes of adaptations.
        clock: the time, aware.

    Raises:
        StartError: what is wrong, and what to do.
    """
    metrics = new_metrics()
    with ExitStack() as cleanup:
        # The model first: if it cannot be served, no new data folder is left behind.
        registry = Registry(settings.registry)
        pool = _load_pool(settings, registry, load_engine or _load_onnx, metrics)
        data_dir = DataDir.open(settings.data_dir)
        cleanup.callback(data_dir.close)
        store = Store.open(data_dir.database, metrics, readers=_readers(settings))
        cleanup.callback(store.close)
        _watch_files(data_dir.database, metrics)

        own = pool.own.info
        sites = LiveSites(store, metrics)
        gallery = Gallery(
            store,
            sites,
            own,
            _gallery_settings(settings),
            clock=clock,
            new_id=_new_id,
            metrics=metrics,
        )
        pool.keep_models_of(sites.models)
        with _naming(data_dir.database):
            await _load_galleries(gallery, store, pool)
        site_models = SiteModels(gallery, sites, pool)
        # Four batches: the model does not wait for the database after each one.
        batch = 4 * settings.max_batch
        rollovers = Rollovers(store, sites, batch=batch, clock=clock, metrics=metrics)
        activator = Activator(store, pool, rollovers)

        adaptations = _new_adaptations(
            settings, store, registry, site_models, start_process, clock, metrics
        )
        rpc = RpcServer(gallery, pool, site_models, activator, adaptations, settings, metrics)
        _warn_of_open_ports(settings)
        return Server(settings, metrics, gallery, pool, adaptations, rpc, cleanup.pop_all())


@contextmanager
def _naming(database: Path) -> Iterator[None]:
    """Within this block, an error of the database names its file."""
    try:
        yield
    except InternalError as error:
        raise StoreUnusableError(f"{database}: {error}") from error


def _new_adaptations(
    settings: Settings,
    store: Store,
    registry: Registry,
    site_models: SiteModels,
    start_process: Starter,
    clock: Callable[[], datetime],
    metrics: Metrics,
) -> Adaptations:
    rows, setup = JobRows(store), _job_setup(settings, site_models.own.reference)
    supervisor = Supervisor(
        rows,
        settings.data_dir / "adaptations",
        registry,
        setup,
        in_use=site_models.in_use,
        start=start_process,
        clock=clock,
        metrics=metrics,
    )
    return Adaptations(rows, supervisor, setup, clock=clock, new_id=_new_id)


def _new_id() -> str:
    return uuid.uuid4().hex


def _readers(settings: Settings) -> int:
    """Connections of the database: one for each search, some for all else that reads."""
    return min(threads_or_cores(settings.search_threads) + _OTHER_READERS, _MAX_READERS)


def _gallery_settings(settings: Settings) -> GallerySettings:
    return GallerySettings(
        keep_crops=settings.keep_crops,
        request_ttl=timedelta(seconds=settings.request_ttl_s),
        search_threads=threads_or_cores(settings.search_threads),
    )


def _load_pool(
    settings: Settings, registry: Registry, load: EngineLoader, metrics: Metrics
) -> ModelPool:
    machine = Load()
    return ModelPool(
        open_bundle(settings),
        registry,
        load_engine=lambda bundle: load(bundle, settings),
        new_batcher=lambda bundle, engine: _new_batcher(bundle, engine, settings, machine, metrics),
        metrics=metrics,
    )


async def _load_galleries(gallery: Gallery, store: Store, pool: ModelPool) -> None:
    """Load the models that sites use, and hold them until the sites answer with them."""
    async with AsyncExitStack() as held:
        others = await _load_models_of_sites(store, pool, held)
        await asyncio.to_thread(gallery.load, others)


async def _load_models_of_sites(
    store: Store, pool: ModelPool, held: AsyncExitStack
) -> list[ModelInfo]:
    """Load the models that sites use besides the server's own, as far as they can be loaded."""
    found: dict[str, ModelInfo] = {}
    for site in await asyncio.to_thread(store.sites):
        if site.model in found:
            continue
        try:
            model = pool.held(site.reference, site.model)
            found[site.model] = (await held.enter_async_context(model)).info
        except CallError as error:
            log.warning("the model of site %s could not be loaded: %s", site.id, error)
    return list(found.values())


def _new_batcher(
    bundle: Bundle, engine: Engine, settings: Settings, load: Load, metrics: Metrics
) -> Batcher:
    return Batcher(
        engine,
        CropDecoder(
            bundle.manifest.preprocessing,
            max_bytes=settings.max_image_bytes,
            max_pixels=settings.max_image_pixels,
            threads=threads_or_cores(settings.decode_threads),
            metrics=metrics,
        ),
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        load=load,
        metrics=metrics,
    )


def _job_setup(settings: Settings, own: str) -> JobSetup:
    return JobSetup(
        inits=settings.adapt_inits,
        sources=settings.adapt_sources,
        device=settings.adapt_device,
        hold_back=settings.adapt_hold_back,
        stop_s=settings.adapt_stop_s,
        own_model=own,
    )


async def serve(settings: Settings, announce: Callable[[Ready], None]) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; `announce` is called once the server is ready.

    Raises:
        StartError: the server cannot start.
    """
    if unknown := unknown_variables(os.environ):
        log.warning("not settings of the server, ignored: %s", ", ".join(unknown))
    raise_limit()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    ends = [signal.SIGTERM, signal.SIGINT]  # also where a shell starts it in the background
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        ends.append(signal.SIGHUP)
    for number in ends:
        loop.add_signal_handler(number, stopping.set)
    server = await bootstrap(settings)
    try:
        announce(await server.start())
        await stopping.wait()
        log.info("stopping: running calls have %g s", settings.drain_s)
    finally:
        await server.stop()
    log.info("stopped")


def run(settings: Settings, announce: Callable[[Ready], None]) -> None:
    """`serve` on an event loop of its own."""
    keep_large_blocks_apart()
    uvloop.run(serve(settings, announce))


def _load_onnx(bundle: Bundle, settings: Settings) -> tuple[Engine, bool]:
    engine = OnnxEngine.load(
        bundle, provider=settings.provider, threads=threads_or_cores(settings.engine_threads)
    )
    return engine, engine.fallback


def _watch_files(database: Path, metrics: Metrics) -> None:
    def size_of(path: Path) -> Callable[[], float]:
        return lambda: path.stat().st_size if path.exists() else 0

    metrics.store_bytes.labels("db").set_function(size_of(database))
    metrics.store_bytes.labels("wal").set_function(
        size_of(database.with_name(f"{database.name}-wal"))
    )


def _warn_of_open_ports(settings: Settings) -> None:
    for name in ("listen", "http"):
        host, _ = split_address(getattr(settings, name))
        try:
            local = ipaddress.ip_address(host).is_loopback
        except ValueError:
            local = host == "localhost"
        if not local:
            log.warning(
                "%s is open to the network, without encryption and without a password: put it "
                "behind a proxy or a firewall",
                getattr(settings, name),
            )

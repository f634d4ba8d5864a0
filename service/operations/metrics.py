"""The metrics of the server: base units, explicit buckets, closed label sets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5, 5, 10, 30)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The metrics of one server, on a registry of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._add_calls(registry)
        self._add_embedding(registry)
        self._add_sites(registry)

    def _add_calls(self, registry: CollectorRegistry) -> None:
        self.rpc_duration = Histogram(
            "resight_rpc_duration_seconds",
            "Time from receipt of a call to its answer.",
            ("method", "code"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.rpc_in_flight = Gauge(
            "resight_rpc_in_flight",
            "Calls that arrive, are being worked on, or whose answer is being sent.",
            registry=registry,
        )
        self.rejected = Counter(
            "resight_calls_rejected_total",
            "Calls refused; reason: queue (too many images wait), concurrency (too many calls), "
            "bytes (too many requests arrive, or too many answers are made or sent: a search has "
            "embedded its images by then), shutdown.",
            ("reason",),
            registry=registry,
        )
        self.stage_duration = Histogram(
            "resight_stage_duration_seconds",
            "Time of one stage: decode (images of a call), queue (an image, decoded, waits for the "
            "model), infer (a batch), search (queries of a call), commit (a transaction).",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )

    def _add_embedding(self, registry: CollectorRegistry) -> None:
        self.batch_size = Histogram(
            "resight_batch_size", "Images per run of the model.", buckets=_COUNTS, registry=registry
        )
        self.queue_depth = Gauge(
            "resight_queue_depth", "Images admitted and not yet answered.", registry=registry
        )
        self.images = Counter(
            "resight_images_total",
            "Images by outcome: embedded, bad (cannot be used), failed (the model failed), gone "
            "(the caller left before the model ran).",
            ("outcome",),
            registry=registry,
        )
        self.bad_images = Counter(
            "resight_bad_images_total",
            "Images that cannot be used, by problem.",
            ("problem",),
            registry=registry,
        )
        self.model_info = Gauge(
            "resight_model_info",
            "1 for each loaded model.",
            ("model", "version", "provider"),
            registry=registry,
        )
        self.provider_fallback = Gauge(
            "resight_provider_fallback",
            "1 if the runtime has CUDA, but the model runs on the CPU: only with provider auto, as "
            "with cuda the server does not start then.",
            registry=registry,
        )

    def _add_sites(self, registry: CollectorRegistry) -> None:
        self.gallery_sightings = Gauge(
            "resight_gallery_sightings",
            "Sightings that are searched.",
            ("site",),
            registry=registry,
        )
        self.adaptations = Gauge(
            "resight_adaptations",
            "Adaptations that are not over, by state: pending, running.",
            ("state",),
            registry=registry,
        )
        self.adaptations_ended = Counter(
            "resight_adaptations_ended_total",
            "Adaptations that are over, by outcome: succeeded, failed, cancelled.",
            ("outcome",),
            registry=registry,
        )
        self.rollovers = Counter(
            "resight_site_switches_total",
            "Rollovers of a site to another model, by outcome: done, failed (or ended early).",
            ("outcome",),
            registry=registry,
        )
        self.commit_size = Histogram(
            "resight_commit_size", "Writes per transaction.", buckets=_COUNTS, registry=registry
        )
        self.store_bytes = Gauge(
            "resight_store_bytes",
            "Size of the database files: db (itself), wal (write-ahead log).",
            ("file",),
            registry=registry,
        )
        self.store_writable = Gauge(
            "resight_store_writable",
            "0 from a write that the database refused (a full disk, short memory, files that are "
            "gone, ...) until one is stored; else 1.",
            registry=registry,
        )
        self.store_deleted = Gauge(
            "resight_store_deleted_seconds",
            "Seconds since the oldest deletion whose data may still be in a file: db (database), "
            "wal (write-ahead log); 0: none.",
            ("file",),
            registry=registry,
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage; see `resight_stage_duration_seconds` for the names."""
        started = perf_counter()
        try:
            yield
        finally:
            self.stage_duration.labels(name).observe(perf_counter() - started)


def new_metrics() -> Metrics:
    """Metrics on a fresh registry."""
    return Metrics(CollectorRegistry())

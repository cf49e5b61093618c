"""What Prometheus reads: requests, their times and stages, bytes, places and the process."""

from __future__ import annotations

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

from glc.runtime.codec import Codec
from glc.service.work import WorkPool

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)


class Metrics:
    """Counters of one service, in a registry of its own; used from the event loop alone."""

    def __init__(self, codec: Codec, pool: WorkPool) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = self._counter("glc_requests", "Requests that were answered", "operation", "status")
        self._received = self._counter("glc_received_bytes", "Bytes of the bodies that were read", "operation")
        self._sent = self._counter("glc_sent_bytes", "Bytes of the bodies of answers", "operation")
        self._pixels = self._counter("glc_pixels", "Pixels that were coded", "operation")
        self._seconds = self._histogram("glc_request_seconds", "Time from the head of a request to its answer")
        self._stages = self._histogram("glc_stage_seconds", "Time of one stage of an image", "stage")
        taken = Gauge("glc_places_taken", "Requests that wait or are coded", registry=self._registry)
        taken.set_function(lambda: pool.taken)
        running = Gauge("glc_workers_running", "Threads that work", registry=self._registry)
        running.set_function(lambda: pool.running)
        about = Info("glc_service", "What serves", registry=self._registry)
        model_id = codec.bundle.manifest.model_id[:8]
        about.info({"version": version("glc-deploy"), "model": model_id, "engine": codec.engine})

    def answered(self, operation: str, status: int, sent_bytes: int, duration_s: float) -> None:
        """Count a request.

        Args:
            operation: path of an endpoint, or one word for all others, so that strangers make no new series.
            status: HTTP status.
            sent_bytes: of the body.
            duration_s: from its head to its answer.
        """
        self._requests.labels(operation, str(status)).inc()
        self._sent.labels(operation).inc(sent_bytes)
        self._seconds.labels(operation).observe(duration_s)

    def received(self, operation: str, body_bytes: int) -> None:
        """Count a body."""
        self._received.labels(operation).inc(body_bytes)

    def coded(self, operation: str, pixels: int, stages_ms: dict[str, float]) -> None:
        """Count an image."""
        self._pixels.labels(operation).inc(pixels)
        for stage, duration_ms in stages_ms.items():
            self._stages.labels(operation, stage).observe(duration_ms / 1e3)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self._registry)

    def _histogram(self, name: str, help_text: str, *labels: str) -> Histogram:
        return Histogram(name, help_text, ("operation", *labels), buckets=_SECONDS, registry=self._registry)

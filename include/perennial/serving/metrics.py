"""What Prometheus gets to see. Each service has a registry of its own, so that a process may hold several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from perennial.domain.traffic import Role
from perennial.serving.prediction_log import LogStats

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX: Final = "perennial_serving"
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
_WHO: Final = ("model", "version", "role")


class Metrics:
    """All of the service's metrics."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._told: dict[str, list[tuple[str, str, str, str]]] = {}

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{_PREFIX}_{name}", text, labels, registry=self._registry)

        self.requests = counter("requests", "Requests answered, by the model that answered.", *_WHO, "status")
        self.errors = counter("errors", "Requests that a model version could not score, by why.", *_WHO, "kind")
        self.latency = Histogram(
            f"{_PREFIX}_latency_seconds",
            "From the request to its prediction, or its failure, by model version.",
            _WHO,
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.batch_rows = Histogram(
            f"{_PREFIX}_batch_rows", "Rows scored together.", ("model",), buckets=_ROWS, registry=self._registry
        )
        self.model_info = Gauge(
            f"{_PREFIX}_model_info", "1 for what is loaded.", (*_WHO, "digest"), registry=self._registry
        )
        self.swaps = counter("swaps", "Times that another version became the served champion.", "model")
        self.load_failures = counter("load_failures", "Times that a version could not be loaded.", "model", "version")
        self.look_failures = counter(
            "look_failures", "Times that the registry or the store could not be read.", "model", "what"
        )
        self.in_flight = Gauge(f"{_PREFIX}_in_flight", "Requests that are being answered.", registry=self._registry)
        self._queue_rows = Gauge(
            f"{_PREFIX}_queue_rows", "Rows that wait for the champion.", ("model",), registry=self._registry
        )
        self.shadows_dropped = counter("shadows_dropped", "Copies for a shadow that there was no room for.", "model")

    def watch_queue(self, model: str, rows: Callable[[], int]) -> None:
        """Ask for a model's waiting rows when the metrics are read."""
        self._queue_rows.labels(model).set_function(rows)

    def tell_info(self, model: str, loaded: Sequence[tuple[str, Role, str]]) -> None:
        """What is loaded of a model: version, role and digest of each."""
        for labels in self._told.get(model, ()):
            self.model_info.remove(*labels)
        self._told[model] = [(model, version, str(role), digest) for version, role, digest in loaded]
        for labels in self._told[model]:
            self.model_info.labels(*labels).set(1)

    def watch_log(self, stats: Callable[[], LogStats]) -> None:
        """Ask the prediction log how it is going when the metrics are read."""
        self._registry.register(_LogCollector(stats))

    def of(self, model: str, version: str, role: Role) -> VersionMetrics:
        """Those of one version in one role, looked up once instead of at each request."""
        who = (model, version, str(role))
        return VersionMetrics(
            latency=self.latency.labels(*who),
            failed=lambda kind: self.errors.labels(*who, kind).inc(),
        )

    def exposition(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)


@dataclass(frozen=True, slots=True)
class VersionMetrics:
    """Of one version in one role."""

    latency: Histogram
    failed: Callable[[str], None]
    """Told the kind of error."""


class _LogCollector(Collector):
    """The prediction log's counters, which the log keeps itself."""

    def __init__(self, stats: Callable[[], LogStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """As Prometheus asks for them."""
        stats, prefix = self._stats(), f"{_PREFIX}_log"
        dropped = CounterMetricFamily(f"{prefix}_dropped_rows", "Rows that there was no room for.", labels=["where"])
        for where, rows in stats.dropped.items():
            dropped.add_metric([where], rows)
        yield dropped
        yield CounterMetricFamily(f"{prefix}_rows", "Rows taken into the prediction log.", stats.accepted)
        yield CounterMetricFamily(
            f"{prefix}_upload_failures", "Times that the store did not take a file.", stats.upload_failures
        )
        yield GaugeMetricFamily(f"{prefix}_pending_rows", "Rows in memory.", stats.pending)
        yield GaugeMetricFamily(f"{prefix}_waiting_bytes", "On the disk, to be uploaded.", stats.waiting_bytes)

"""What a running server shows: numbers for Prometheus, and a log that a repeated failure cannot fill."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
STAGES = ("read", "transform", "reserve", "queue", "model", "reply", "fill", "total")

_LOG_SECONDS = 1.0
_LINES_REMEMBERED = 256


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, store: Callable[[], Mapping[str, int]] | None = None):
        """Counts nothing yet; `store` gives the store's own numbers when asked."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "vlascope_requests",
            "Messages answered, by request and outcome",
            ["request", "outcome"],
            registry=self.registry,
        )
        self.stages = Histogram(
            "vlascope_stage_seconds",
            "Seconds that an inference spent",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "vlascope_batch_size", "Observations in a batch", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self.registry
        )
        self.clients = Gauge("vlascope_clients", "Connections that are open", registry=self.registry)
        self.in_flight = Gauge("vlascope_requests_in_flight", "Messages being answered", registry=self.registry)
        self.ready = Gauge("vlascope_ready", "1 once the policy is compiled", registry=self.registry)
        for stage in STAGES:
            self.stages.labels(stage)
        if store is not None:
            self.registry.register(_Store(store))

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


class _Store(Collector):
    def __init__(self, status: Callable[[], Mapping[str, int]]):
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status = self._status()
        for key, name, help_text in (
            ("committed", "vlascope_frames_committed", "Frames on disk"),
            ("dropped", "vlascope_frames_dropped", "Frames that found the queue full"),
            ("bytes", "vlascope_bytes_written", "Bytes of captured tensors on disk"),
        ):
            yield CounterMetricFamily(name, help_text, value=status[key])
        for key, name, help_text in (
            ("pending", "vlascope_frames_pending", "Frames on their way to disk"),
            ("queue_bytes", "vlascope_queue_bytes", "Bytes of the frames on their way"),
            ("queue_limit", "vlascope_queue_limit_bytes", "Bytes that they may take"),
            ("episodes_open", "vlascope_episodes_open", "Episodes that are being written"),
        ):
            yield GaugeMetricFamily(name, help_text, value=status[key])


class OncePerSecond(logging.Filter):
    """Lets a warning or an error pass once a second, with the number of those that were left out since the last one.

    A full disk must not become full of its own log.

    Records are alike if their logger and their text before arguments are, and the kind of their exception.
    """

    def __init__(self):
        super().__init__()
        self._passed: dict[tuple, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it. Logging holds the handler's lock meanwhile or not: a lost count is no harm."""
        if record.levelno < logging.WARNING:
            return True
        kind = record.exc_info[0] if record.exc_info else None
        key = (record.name, record.levelno, str(record.msg), kind)
        since, left_out = self._passed.get(key, (-_LOG_SECONDS, 0))
        now = time.monotonic()
        if now - since < _LOG_SECONDS:
            self._passed[key] = (since, left_out + 1)
            return False
        if len(self._passed) >= _LINES_REMEMBERED:
            self._passed.clear()
        self._passed[key] = (now, 0)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} more like it)", ()
        return True

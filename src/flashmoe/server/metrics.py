"""What Prometheus may ask. Knows counts and seconds, not requests' contents."""

from collections.abc import Iterator

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flashmoe.engine.scheduler import Scheduler

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Clock:
    """Times one answer: when it was asked, and when each choice's last token came."""

    def __init__(self, metrics: "Metrics", asked: float) -> None:
        self._metrics, self._asked, self._last = metrics, asked, dict[int, float]()

    def token(self, choice: int, now: float) -> None:
        if choice in self._last:
            self._metrics.between_tokens.observe(now - self._last[choice])
        else:
            self._metrics.first_token.observe(now - self._asked)
        self._last[choice] = now


class Metrics:
    """The figures of one server, in a registry of its own."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "flashmoe_requests", "Requests by path and status.", ["path", "status"], registry=self.registry
        )
        self.first_token = prometheus.Histogram(
            "flashmoe_first_token_seconds", "From the question to its first token.", registry=self.registry,
            buckets=_SECONDS,
        )  # fmt: skip
        self.between_tokens = prometheus.Histogram(
            "flashmoe_inter_token_seconds", "Between two tokens of an answer.", registry=self.registry,
            buckets=_SECONDS,
        )  # fmt: skip
        self.prompt_tokens = prometheus.Counter("flashmoe_prompt_tokens", "Of prompts.", registry=self.registry)
        self.cached_tokens = prometheus.Counter(
            "flashmoe_cached_prompt_tokens", "Of prompts, from saved states.", registry=self.registry
        )
        self.tokens = prometheus.Counter("flashmoe_generated_tokens", "Of answers.", registry=self.registry)
        self.registry.register(_Load(scheduler))

    def clock(self, asked: float) -> Clock:
        return Clock(self, asked)

    def count(self, prompt: int, cached: int, generated: int) -> None:
        """The tokens of one answer."""
        self.prompt_tokens.inc(prompt)
        self.cached_tokens.inc(cached)
        self.tokens.inc(generated)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return prometheus.generate_latest(self.registry)


class _Load(Collector):
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def collect(self) -> Iterator[Metric]:
        load, plan = self._scheduler.stats, self._scheduler.engine.plan
        store = load.store
        uses = store.hits + store.misses
        for name, text, value in (
            ("requests_waiting", "Requests in the queue.", load.waiting),
            ("requests_running", "Requests that are answered.", load.running),
            ("expert_hit_ratio", "Share of the experts needed that were in memory.", store.hits / uses if uses else 0),
            ("cache_bytes", "Memory for experts.", plan.slots * plan.slot_bytes),
            ("session_bytes", "Memory that saved states hold.", load.saved_bytes),
            ("session_disk_bytes", "Saved states on disk.", load.saved_disk_bytes),
        ):
            yield GaugeMetricFamily(f"flashmoe_{name}", text, value)
        for name, text, count in (
            ("expert_hits", "Experts needed that were in memory.", store.hits),
            ("expert_misses", "Experts needed that were not.", store.misses),
            ("read_bytes", "Read from disk.", store.bytes_read),
            ("read_seconds", "Reading, all threads together.", store.read_seconds),
            ("stall_seconds", "Waiting for reads.", store.stall_seconds),
        ):
            yield CounterMetricFamily(f"flashmoe_{name}", text, count)

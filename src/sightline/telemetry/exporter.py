"""Numbers for Prometheus: served while a long step runs, pushed when a step begins and ends.

Two variables of the environment say where, and without them nothing is imported or opened:
`SIGHTLINE_METRICS_PORT` (a port to serve `/metrics` on; 0 takes a free one) and
`SIGHTLINE_PUSHGATEWAY_URL`. Whatever fails here is told once and fails nothing else.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sightline import __version__
from sightline.telemetry.metrics import (
    BUILD_INFO,
    METRICS,
    PUSHES_DROPPED,
    STEP_SECONDS,
    STEP_STARTED_AT,
    STEP_SUCCESS_AT,
    STORAGE_RETRIES,
    Metric,
)
from sightline.telemetry.progress import print_line

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PORT_VARIABLE = "SIGHTLINE_METRICS_PORT"
PUSHGATEWAY_VARIABLE = "SIGHTLINE_PUSHGATEWAY_URL"
PUSH_SECONDS = 2.0


class Exporter:
    """The metrics of this process; setting one costs microseconds, and nothing where none ask."""

    def __init__(self, retries: Callable[[], Mapping[str, int]] = dict) -> None:
        """Begin with nothing to tell.

        Args:
            retries: Returns how often requests were tried again, by kind of failure.
        """
        self._retries = retries
        self._served: _Instruments | None = None
        self.port: int | None = None
        """Where `/metrics` is served, if it is."""

    @contextmanager
    def serving(self, step: str) -> Iterator[None]:
        """Serve `/metrics` for as long as the block runs, where the environment names a port.

        A step's counters are there from the beginning, at 0: Prometheus sees no increase in a
        series whose first value is 1.
        """
        wanted = os.environ.get(PORT_VARIABLE, "")
        if not wanted:
            yield
            return
        instruments = _Instruments(self._retries)
        for metric in METRICS:
            if metric.kind == "counter" and metric.labels == ("step",):
                instruments.of(metric, (step,))
        try:
            from prometheus_client import start_http_server

            server, thread = start_http_server(int(wanted), registry=instruments.registry)
        except (OSError, ValueError, OverflowError) as error:
            _warn(f"metrics are not served on port {wanted!r} ({error}); going on without")
            yield
            return
        self._served, self.port = instruments, server.server_port
        try:
            yield
        finally:
            self._served = self.port = None
            server.shutdown()
            server.server_close()
            thread.join()

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Set a gauge."""
        if self._served is not None:
            self._served.of(metric, labels).set(value)

    def add(self, metric: Metric, amount: float, *labels: str) -> None:
        """Raise a counter."""
        if self._served is not None:
            self._served.of(metric, labels).inc(amount)

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Put a value into a histogram."""
        if self._served is not None:
            self._served.of(metric, labels).observe(value)


class _Instruments:
    """prometheus_client's objects for the lines of the table, in a registry of their own."""

    def __init__(self, retries: Callable[[], Mapping[str, int]]) -> None:
        from prometheus_client import (
            CollectorRegistry,
            Counter,
            Gauge,
            Histogram,
            disable_created_metrics,
        )

        # A second series for each counter, which nobody asked for; the function has no types.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry: CollectorRegistry = CollectorRegistry()
        makers: dict[str, Any] = {"gauge": Gauge, "counter": Counter}
        self._by_name: dict[str, Any] = {}
        for metric in METRICS:
            if metric in (STORAGE_RETRIES, PUSHES_DROPPED):
                continue
            more: dict[str, Any] = {"registry": self.registry}
            if metric.kind == "histogram":
                makers["histogram"] = functools.partial(Histogram, buckets=metric.buckets)
            self._by_name[metric.name] = makers[metric.kind](
                metric.name, metric.help, metric.labels, **more
            )
        self.registry.register(_Counts(retries))
        self.of(BUILD_INFO, (__version__,)).set(1)

    def of(self, metric: Metric, labels: tuple[str, ...]) -> Any:
        instrument = self._by_name[metric.name]
        return instrument.labels(*labels) if labels else instrument


class _Counts:
    """Asked when somebody scrapes for what others count, who know no Prometheus."""

    def __init__(self, retries: Callable[[], Mapping[str, int]]) -> None:
        self._retries = retries

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily

        def family(metric: Metric) -> Any:
            name = metric.name.removesuffix("_total")
            return CounterMetricFamily(name, metric.help, labels=metric.labels)

        retries = family(STORAGE_RETRIES)
        for kind, count in sorted(self._retries().items()):
            retries.add_metric([kind], count)
        yield retries
        dropped = family(PUSHES_DROPPED)
        dropped.add_metric([], len(_DROPPED))
        yield dropped


_DROPPED: list[str] = []
"""The steps of which the Pushgateway did not take something; appending is safe in any thread."""


def push(step: str, values: Mapping[Metric, float]) -> threading.Thread | None:
    """Tell a Pushgateway, if there is one, how a step goes; in a thread of its own.

    Args:
        step: The step's name; its numbers replace those of its last run.
        values: The numbers.

    Returns:
        The thread, for whoever wants to wait for it; it ends within a few seconds.
    """
    url = os.environ.get(PUSHGATEWAY_VARIABLE, "")
    if not url:
        return None

    def send() -> None:
        from prometheus_client import CollectorRegistry, Gauge, pushadd_to_gateway

        registry = CollectorRegistry()
        for metric, value in values.items():
            Gauge(metric.name, metric.help, registry=registry).set(value)
        try:
            pushadd_to_gateway(
                url, "sightline", registry, grouping_key={"step": step}, timeout=PUSH_SECONDS
            )
        except Exception as error:  # whatever it is, the step's work is not concerned
            if not _DROPPED:
                _warn(f"the Pushgateway {url} did not take how {step} goes ({error})")
            _DROPPED.append(step)

    thread = threading.Thread(target=send, name="push-metrics", daemon=True)
    thread.start()
    return thread


@contextmanager
def outcome_pushed(step: str) -> Iterator[None]:
    """Push that a step begins, and how it ended, if it ended well; waits 2 s at most for the end.

    Of the workers that torchrun started rank 0 tells that it began, for it may be a restart, and
    counts what was dropped where that is served. How the step ended is told by who started them.
    """
    began = time.monotonic()
    is_worker = "TORCHELASTIC_RUN_ID" in os.environ
    if not is_worker or os.environ.get("RANK") == "0":
        push(step, {STEP_STARTED_AT: time.time()})
    yield
    if is_worker:
        return
    seconds = time.monotonic() - began
    thread = push(step, {STEP_SUCCESS_AT: time.time(), STEP_SECONDS: seconds})
    if thread is not None:
        thread.join(2 * PUSH_SECONDS)


def _warn(text: str) -> None:
    print_line(f"sightline: {text}", sys.stderr)

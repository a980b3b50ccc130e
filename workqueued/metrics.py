"""Metrics: the scoreboard as Prometheus reads it.

Runs in: monitor, in the endpoint's threads. Nothing is kept here: each scrape reads the scoreboard.

Names and labels are an interface, as those of the log are: docs/monitoring.md lists them, and a test compares. What is
unknown is left out, never a 0.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from workqueued import timings
from workqueued.scoreboard import Cell, Kind, Row, Scoreboard, State
from workqueued.status import Alert, Condition, QueueStatus, Status
from workqueued.survey import Kernel, read, steady
from workqueued.timings import BOUNDS, Histogram, Timing

_PREFIX = "workqueued_"
#: Gauges of a queue: name, what it is, and its value; None: unknown.
_GAUGES: tuple[tuple[str, str, Callable[[QueueStatus], float | None]], ...] = (
    ("queue_messages_ready", "Messages that wait in the queue.", lambda it: it.ready),
    ("queue_messages_unacked", "Messages given out and not acknowledged, on all hosts.", lambda it: it.unacked),
    ("queue_consumers", "Consumers of the queue, on all hosts.", lambda it: it.consumers),
    ("queue_messages_dead", "Messages in its dead queue.", lambda it: it.dead),
    ("queue_messages_in_per_second", "Messages that came in between two samples.", lambda it: it.flow.in_rate),
    ("queue_messages_out_per_second", "Messages that went out between two samples.", lambda it: it.flow.out_rate),
    ("queue_eta_seconds", "When it will be empty if all goes on like this.", lambda it: it.eta_s),
    ("queue_oldest_seconds", "How long the oldest message in work here has been so.", lambda it: it.oldest_s or 0),
    ("queue_messages_in_work", "Messages in work on this host.", lambda it: it.in_work),
    ("queue_sample_age_seconds", "How old the figures from the broker are.", lambda it: it.age_s),
    ("queue_workers_wanted", "Workers that the configuration asks for.", lambda it: it.wanted),
    ("queue_workers_serving", "Workers at work, or fit for it.", lambda it: it.serving),
    ("queue_workers_uncounted", "Workers that the broker does not count among the consumers.", lambda it: it.uncounted),
    ("queue_paused", "1: nobody is to serve it.", lambda it: it.paused is not None),
    ("queue_refused", "1: the broker refuses it.", lambda it: it.refused),
)
#: Counters of a queue: name, what it counts, the label, and the values by label.
_COUNTERS: tuple[tuple[str, str, str, Callable[[QueueStatus], dict[str, int]]], ...] = (
    (
        "settled",
        "Deliveries by how they ended.",
        "outcome",
        lambda it: {
            "done": it.done,
            "retried": it.retried,
            "dead": it.dead_lettered,
            "handed_back": it.handed_back,
            "lost": it.lost,
        },
    ),
    ("worker_deaths", "Workers that nobody told to end, by what ended them.", "cause", lambda it: dict(it.died)),
)
_HISTOGRAMS = (
    ("wait_seconds", "From when a message could be handled to when a worker took it.", Timing.WAIT),
    ("run_seconds", "From then until its handler had ended.", Timing.RUN),
)


class BoardCollector(Collector):
    """Reads a scoreboard at each scrape."""

    def __init__(self, board: Scoreboard, kernel: Kernel) -> None:
        self._board = board
        self._kernel = kernel

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry is not to read the board before somebody asks."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All metrics, of one moment."""
        status, histograms = steady(self._board, self._look)
        yield from _of_the_whole(status)
        for name, what, value in _GAUGES:
            family = GaugeMetricFamily(_PREFIX + name, what, labels=["queue"])
            for queue in status.queues:
                found = value(queue)
                if found is not None:
                    family.add_metric([queue.name], float(found))
            yield family
        for name, what, label, values in _COUNTERS:
            counter = CounterMetricFamily(_PREFIX + name, what, labels=["queue", label])
            for queue in status.queues:
                for word, count in values(queue).items():
                    counter.add_metric([queue.name, word], count)
            yield counter
        yield from _of_workers(status)
        yield _alerts(status)
        for (name, what, _), by_queue in zip(_HISTOGRAMS, histograms, strict=True):
            yield _histogram(_PREFIX + name, what, by_queue)

    def _look(self) -> tuple[Status, list[dict[str, Histogram]]]:
        status = read(self._board, time.monotonic_ns(), self._kernel)
        rows = {queue.name: list[Row]() for queue in status.queues}
        for row in self._board.rows(Kind.QUEUE, Kind.WORKER):
            name = row.name or "?"
            queue = name if row.words[Cell.KIND] == Kind.QUEUE else name.rpartition("/")[0]
            if queue in rows:
                rows[queue].append(row)
        return status, [
            {queue: timings.read(mine, timing) for queue, mine in rows.items()} for _, _, timing in _HISTOGRAMS
        ]


def registry(board: Scoreboard, kernel: Kernel) -> CollectorRegistry:
    """A registry of these metrics and no others."""
    made = CollectorRegistry()
    made.register(BoardCollector(board, kernel))
    return made


def _of_the_whole(status: Status) -> Iterator[Metric]:
    info = {"version": status.version or "", "config": status.config or "", "config_sha256": status.config_hash or ""}
    yield InfoMetricFamily("workqueued", "Version and configuration in force.", value=info)
    state = GaugeMetricFamily(_PREFIX + "state", "1 for the state of the service.", labels=["state"])
    for condition in Condition:
        state.add_metric([condition.value], condition is status.condition)
    yield state
    yield _gauge("ready", "1: it does what the configuration asks for, as /readyz has it.", status.ready)
    if status.broker_answers is not None:
        yield _gauge("broker_up", "1: the broker answered the monitor's last question.", status.broker_answers)
    if status.since is not None:
        yield _gauge("start_time_seconds", "When the master started, seconds since the epoch.", status.since)
    if status.delayed is not None:
        yield _gauge("delayed_messages", "Messages that wait in the delay levels of the vhost.", status.delayed)
    yield _gauge("config_generation", "How often the configuration was read.", status.generation or 0)
    reloads = CounterMetricFamily(_PREFIX + "reloads", "Reloads of the configuration.", labels=["result"])
    reloads.add_metric(["applied"], max(0, (status.generation or 1) - 1))
    reloads.add_metric(["rejected"], status.reloads_rejected)
    yield reloads
    deaths = "Monitors that nobody told to end."
    yield CounterMetricFamily(_PREFIX + "monitor_deaths", deaths, value=status.monitor_deaths)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, what, value=float(value))


def _of_workers(status: Status) -> Iterator[Metric]:
    states = GaugeMetricFamily(_PREFIX + "queue_workers", "Worker processes by state.", labels=["queue", "state"])
    memory = GaugeMetricFamily(
        _PREFIX + "queue_resident_memory_bytes", "Resident memory of its workers together.", labels=["queue"]
    )
    found = Counter((worker.queue, worker.state) for worker in status.workers)
    words = [*(state.word for state in State), "dead"]
    resident: Counter[str] = Counter()
    for worker in status.workers:
        resident[worker.queue] += worker.rss_bytes or 0
    for queue in status.queues:
        for word in words:
            states.add_metric([queue.name, word], found[queue.name, word])
        memory.add_metric([queue.name], resident[queue.name])
    yield states
    yield memory


def _alerts(status: Status) -> Metric:
    family = GaugeMetricFamily(_PREFIX + "alert_active", "1: the alert is active.", labels=["queue", "alert"])
    for queue in status.queues:
        for alert in Alert:
            family.add_metric([queue.name, alert.word], alert.word in queue.alerts)
    return family


def _histogram(name: str, what: str, by_queue: dict[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, what, labels=["queue"])
    bounds = [*map(str, BOUNDS), "+Inf"]
    for queue, histogram in by_queue.items():
        family.add_metric([queue], list(zip(bounds, histogram.counts, strict=True)), histogram.sum_s)
    return family

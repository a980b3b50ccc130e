"""The teller: what one sample of a queue means, for the log and the scoreboard.

Runs in: monitor.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workqueued.alerts import Event, Sample, Watch
from workqueued.amqp.depth import Depth
from workqueued.flow import Flow, Meter, Whole, eta
from workqueued.logs import log
from workqueued.monitor_settings import Alerts
from workqueued.queue_settings import Queue
from workqueued.scoreboard import LARGEST, Cell, QueueCell, Row, State
from workqueued.status import Alert

#: States in which a worker is a consumer.
_CONSUMING = (State.IDLE, State.BUSY, State.SETTLING)
#: How long the broker has not counted a worker when that is told, seconds; and in more than one sample.
_UNCOUNTED_FOR = 5.0
#: Why there is no answer before the first question.
NOT_ASKED = "not asked yet"


@dataclass(slots=True)
class Samples:
    """The last answers of the broker: written by the asking thread, read by the loop, one whole value at a time.

    Attributes:
        taken_at: monotonic seconds; None: there was none yet.
        trouble: why there is no newer one; None: it is new.
        delayed: messages in the delay levels of the vhost.
    """

    depths: Mapping[str, Depth] = field(default_factory=dict)
    taken_at: float | None = None
    trouble: str | None = NOT_ASKED
    delayed: int | None = None


class Teller:
    """Tells of one queue.

    Args:
        queue: its name.
        settings: its section; `alerts`: when to ring the bell.
        row: its row, for the monitor's words.
    """

    def __init__(self, queue: str, settings: Queue, alerts: Alerts, row: Row) -> None:
        self._queue = queue
        self._settings = settings
        self._row = row
        self._meter = Meter()
        self._watch = Watch(alerts, row.words[QueueCell.ALERTS])
        self._uncounted_since: float | None = None

    def tell(self, samples: Samples, whole: Whole | None, crew: Sequence[Row], sure: frozenset[int]) -> None:
        """Log the depth and what has become of it, and write it down.

        Args:
            samples: the broker's last answers.
            whole: the management API's; None: it is not asked, or does not answer.
            crew: the rows of the workers of this queue.
            sure: pids of the workers that consumed all the time while the broker was asked.
        """
        depth = samples.depths.get(self._queue)
        work = {"in_flight": sum(row.state in (State.BUSY, State.SETTLING) for row in crew), "workers": len(crew)}
        if samples.trouble is not None or depth is None:
            self._tell_unknown(samples, depth, work)
            return
        at = samples.taken_at or time.monotonic()
        measured = self._meter.measure(at, depth.ready, self._settled(crew))
        flow = measured if whole is None or whole.flow == Flow() else whole.flow
        unacked = whole.unacked if whole is not None else None
        facts: dict[str, Any] = {"queue": self._queue, "ready": depth.ready, "unacked": unacked, **work}
        facts |= {"consumers": depth.consumers, "dead": depth.dead, "delayed_total": samples.delayed}
        facts |= {"in_rate": _rounded(flow.in_rate), "out_rate": _rounded(flow.out_rate)}
        facts |= {"eta_s": _rounded(eta(depth.ready, flow)), "oldest_wait_ms": _oldest_ms(crew)}
        facts["source"] = "passive" if unacked is None else "passive, management"
        if depth.ready is None:
            facts["reason"] = "the broker has no such queue"
        log.info("queue.depth", **facts)
        uncounted = self._uncounted(at, depth.consumers, sum(row.words[Cell.PID] in sure for row in crew))
        self._write(at, depth, unacked, flow, uncounted)
        self._ring(Sample(at, depth.ready, depth.consumers, depth.dead, flow, not self._settings.active_workers))

    def _tell_unknown(self, samples: Samples, depth: Depth | None, work: dict[str, int]) -> None:
        age = None if samples.taken_at is None else round(time.monotonic() - samples.taken_at, 1)
        last = depth and depth.ready
        facts = {"queue": self._queue, "ready": None, "unacked": None, **work, "reason": samples.trouble}
        log.warning("queue.depth", **facts, last_ready=last, age_s=age)
        self._ring(Sample(time.monotonic(), None, None, None, Flow()))

    def _settled(self, crew: Sequence[Row]) -> int:
        """What this host settled of a queue so far: by workers that are gone, and by those that live."""
        past = sum(self._row.words[it] for it in (QueueCell.PAST_DONE, QueueCell.PAST_RETRIED, QueueCell.PAST_DEAD))
        return past + sum(row.words[it] for row in crew for it in (Cell.DONE, Cell.RETRIED, Cell.DEAD))

    def _uncounted(self, at: float, consumers: int | None, ours: int) -> int:
        """How many of our consumers the broker has not counted for a while.

        Of a queue with a single active consumer it counts one; such a queue is not one that we declare.
        """
        if consumers is None or (self._settings.declare != "plain" and consumers):
            missing = 0
        else:
            missing = max(0, ours - consumers)
        if not missing:
            self._uncounted_since = None
            return 0
        if self._uncounted_since is None:
            self._uncounted_since = at
        return missing if at - self._uncounted_since >= _UNCOUNTED_FOR else 0

    def _write(self, at: float, depth: Depth, unacked: int | None, flow: Flow, uncounted: int) -> None:
        """Into the scoreboard; counts are stored plus one."""
        words = self._row.words
        counts = {
            QueueCell.READY: depth.ready,
            QueueCell.UNACKED: unacked,
            QueueCell.CONSUMERS: depth.consumers,
            QueueCell.DEAD: depth.dead,
            QueueCell.IN_RATE: _in_thousandths(flow.in_rate),
            QueueCell.OUT_RATE: _in_thousandths(flow.out_rate),
        }
        for cell, count in counts.items():
            words[cell] = 0 if count is None else min(count + 1, LARGEST)
        words[QueueCell.UNCOUNTED] = uncounted
        words[QueueCell.SAMPLED] = int(at * 1e9)

    def _ring(self, sample: Sample) -> None:
        for event in self._watch.take(sample):
            _tell_alert(self._queue, event)
        self._row.words[QueueCell.ALERTS] = self._watch.active


def _tell_alert(queue: str, event: Event) -> None:
    match event.alert, event.raised:
        case Alert.BACKLOG_HIGH, True:
            log.warning("queue.backlog_high", queue=queue, **event.facts)
        case Alert.BACKLOG_HIGH, False:
            log.info("queue.backlog_cleared", queue=queue, **event.facts)
        case Alert.UNCONSUMED, True:
            log.warning("queue.unconsumed", queue=queue, **event.facts)
        case Alert.UNCONSUMED, False:
            log.info("queue.consumed", queue=queue, **event.facts)
        case Alert.DEAD_GROWING, True:
            log.warning("queue.dead_growing", queue=queue, **event.facts)
        case _:
            log.info("queue.dead_settled", queue=queue, **event.facts)


def consuming(rows: Sequence[Row]) -> frozenset[int]:
    """The pids of the workers among them that consume."""
    return frozenset(row.words[Cell.PID] for row in rows if row.state in _CONSUMING)


def _oldest_ms(crew: Sequence[Row]) -> int | None:
    """How long the message in work here that waited longest had waited, as its worker wrote down; None: none is."""
    waits = [row.words[Cell.WAITED] - 1 for row in crew if row.words[Cell.TASK_STARTED] and row.words[Cell.WAITED]]
    return max(waits, default=None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _in_thousandths(rate: float | None) -> int | None:
    return None if rate is None else round(rate * 1000)

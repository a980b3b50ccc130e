"""The monitor: watches the depth of every queue.

Runs in: monitor, one process per daemon.

`queue.depth` is logged on the dot for every queue, busy or idle, broker or no broker. The broker may take a minute to
answer, or for ever; so a thread asks and this loop tells: what was answered in time, or the last known figure with its
age and the reason why there is no newer one.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workqueued.amqp.depth import Depth, DepthReader
from workqueued.config import Config
from workqueued.errors import WorkqueuedError
from workqueued.flow import Flow, Meter
from workqueued.logs import identify, log
from workqueued.scoreboard import LARGEST, Cell, Kind, QueueCell, Row, Scoreboard, State
from workqueued.signals import Inbox, send

#: How long a line waits for the answer to the question that was just asked, seconds.
_PATIENCE = 1.0
#: Longest time without a sign of life, seconds: an interval may be an hour.
_LONGEST_NAP = 5.0


@dataclass(frozen=True, slots=True)
class Post:
    """Where the monitor stands: what it is given at the fork."""

    config: Config
    generation: int
    row: Row
    queue_rows: Mapping[str, Row]
    board: Scoreboard
    lifeline: int


@dataclass(slots=True)
class Sample:
    """The last known depths: written by the asking thread, read by the telling loop, one whole value at a time."""

    depths: Mapping[str, Depth] = field(default_factory=dict)
    taken_at: float | None = None
    trouble: str | None = "not asked yet"


def run(post: Post) -> int:
    """Log depths until told to stop; returns the exit code: 0, or 75 when orphaned."""
    inbox = Inbox()
    inbox.install()
    identify("monitor", slot="monitor", generation=post.generation)
    asker = _Asker(post)
    asker.start()
    post.row.words[Cell.STATE] = State.IDLE
    post.row.words[Cell.PROVEN] = 1
    send(os.getppid(), signal.SIGUSR2)
    return _tell(post, asker, inbox)


def _tell(post: Post, asker: "_Asker", inbox: Inbox) -> int:
    poll = select.poll()
    poll.register(inbox, select.POLLIN)
    poll.register(post.lifeline, select.POLLIN | select.POLLHUP)
    meters = {queue: Meter() for queue in post.config.queues}
    interval = post.config.monitor.interval
    patience = min(_PATIENCE, interval / 2)
    due = time.monotonic() + min(_PATIENCE, interval)
    code = _wait(poll, inbox, post, due)  # the workers declare the queues meanwhile
    while code is None:
        # The question goes out first, so that the answer is fresh when the line is due.
        asker.ask(within=patience)
        for queue in post.config.queues:
            _log_depth(queue, post, asker.sample, meters[queue])
        due += interval
        if due < time.monotonic():  # suspended, or starved: no burst of lines to catch up
            due = time.monotonic() + interval
        code = _wait(poll, inbox, post, due)
    log.info("monitor.stopped")
    return code


def _wait(poll: Any, inbox: Inbox, post: Post, until: float) -> int | None:
    """Wait until the next line is due; an exit code when it is time to go."""
    while (left := until - time.monotonic()) > 0:
        post.row.words[Cell.TICK] = time.monotonic_ns()
        for descriptor, _ in poll.poll(min(left, _LONGEST_NAP) * 1000):
            if descriptor == post.lifeline:
                return os.EX_TEMPFAIL
            if {signal.SIGTERM, signal.SIGQUIT} & set(inbox.take()):
                return os.EX_OK
    return None


def _log_depth(queue: str, post: Post, sample: Sample, meter: Meter) -> None:
    now = time.monotonic()
    depth = sample.depths.get(queue)
    mine = [row for row in post.board.rows(Kind.WORKER) if (row.name or "").rpartition("/")[0] == queue]
    in_flight = sum(row.state in (State.BUSY, State.SETTLING) for row in mine)
    facts: dict[str, Any] = {"queue": queue}
    if sample.trouble is None and depth is not None:
        facts |= {"ready": depth.ready, "unacked": None, "in_flight": in_flight}
        facts |= {"consumers": depth.consumers, "dead": depth.dead, "workers": len(mine), "source": "passive"}
        if depth.ready is None:
            facts["reason"] = "the broker has no such queue"
        log.info("queue.depth", **facts)
        row, at = post.queue_rows[queue], sample.taken_at or now
        _write_row(row, depth, meter.measure(at, depth.ready, _settled(row, mine)), at)
        return
    age = None if sample.taken_at is None else round(now - sample.taken_at, 1)
    log.warning(
        "queue.depth",
        **facts,
        ready=None,
        unacked=None,
        in_flight=in_flight,
        workers=len(mine),
        reason=sample.trouble,
        last_ready=depth and depth.ready,
        age_s=age,
    )


def _settled(row: Row, workers: Iterable[Row]) -> int:
    """What this host settled of a queue so far: by workers that are gone, and by those that live."""
    past = sum(row.words[cell] for cell in (QueueCell.PAST_DONE, QueueCell.PAST_RETRIED, QueueCell.PAST_DEAD))
    return past + sum(worker.words[cell] for worker in workers for cell in (Cell.DONE, Cell.RETRIED, Cell.DEAD))


def _write_row(row: Row, depth: Depth, flow: Flow, at: float) -> None:
    """Into the scoreboard, for the master and for `wq-status`; counts are stored plus one."""
    counts = {
        QueueCell.READY: depth.ready,
        QueueCell.CONSUMERS: depth.consumers,
        QueueCell.DEAD: depth.dead,
        QueueCell.IN_RATE: _in_thousandths(flow.in_rate),
        QueueCell.OUT_RATE: _in_thousandths(flow.out_rate),
    }
    for cell, count in counts.items():
        row.words[cell] = 0 if count is None else min(count + 1, LARGEST)
    row.words[QueueCell.SAMPLED] = int(at * 1e9)


def _in_thousandths(rate: float | None) -> int | None:
    return None if rate is None else round(rate * 1000)


class _Asker(threading.Thread):
    """Asks the broker whenever `ask` is called, in a thread, since it may hang."""

    def __init__(self, post: Post, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(name="asker", daemon=True)
        self.sample = Sample()
        self._queues = list(post.config.queues)
        self._reader = DepthReader(post.config.broker, "workqueued monitor")
        self._idle = post.config.broker.rhythm / 3
        self._clock = clock
        self._question = threading.Event()
        self._answer = threading.Event()

    def ask(self, within: float) -> None:
        """Ask, and wait a little for the answer; `sample` then holds it, or says why there is none."""
        self._answer.clear()
        self._question.set()
        if not self._answer.wait(within) and self.sample.trouble is None:
            last = self.sample
            self.sample = Sample(last.depths, last.taken_at, "the broker has not answered yet")

    def run(self) -> None:
        """Answer questions for ever; the thread is a daemon."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            if not self._question.wait(self._idle):
                self._reader.service()
                continue
            self._question.clear()
            try:
                self.sample = Sample(self._reader.read(self._queues), self._clock(), None)
            except Exception as error:  # noqa: BLE001 - a thread that ended would never answer again
                if not isinstance(error, WorkqueuedError):
                    self._reader.close()
                self.sample = Sample(self.sample.depths, self.sample.taken_at, str(error))
            self._answer.set()

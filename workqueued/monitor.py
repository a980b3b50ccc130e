"""The monitor: watches every queue, tells the log and the scoreboard, and serves what it knows over HTTP.

Runs in: monitor, one process per daemon.

`queue.depth` is logged on the dot for every queue, busy or idle, broker or no broker. The broker may take a minute to
answer, or for ever; so a thread asks and this loop tells: what was answered in time, or the last known figure with its
age and the reason why there is no newer one. The management API and the endpoint have threads of their own as well.
"""

import dataclasses
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workqueued.amqp.depth import DepthReader
from workqueued.config import Config
from workqueued.errors import WorkqueuedError
from workqueued.facts import facts
from workqueued.flow import Whole
from workqueued.logs import identify, log
from workqueued.paths import changed
from workqueued.proc import is_dead, resident_or_none
from workqueued.scoreboard import Cell, Head, Kind, Row, Scoreboard, State
from workqueued.signals import Inbox, leave_to_main_thread, send
from workqueued.status import MASTER_PATIENCE, Status
from workqueued.survey import Kernel, read, steady
from workqueued.teller import NOT_ASKED, Samples, Teller, consuming
from workqueued.urls import Address

#: How long a line waits for the answer to the question that was just asked, seconds.
_PATIENCE = 1.0
#: Longest time without a sign of life, seconds: an interval may be an hour.
_LONGEST_NAP = 5.0
#: A loop that is silent for so long hangs, seconds: it naps, then waits for an answer.
_LONGEST_SILENCE = 30.0


@dataclass(frozen=True, slots=True)
class Post:
    """Where the monitor stands: what it is given at the fork."""

    config: Config
    generation: int
    row: Row
    queue_rows: Mapping[str, Row]
    board: Scoreboard
    lifeline: int


def run(post: Post) -> int:
    """Log depths and serve them until told to stop; returns the exit code: 0, or 75 when orphaned."""
    inbox = Inbox()
    inbox.install()
    identify("monitor", slot="monitor", generation=post.generation)
    asker = _Asker(post)
    asker.start()
    post.row.words[Cell.PROVEN] = 1  # its state stays `starting` until the broker was asked
    send(os.getppid(), signal.SIGUSR2)
    if post.config.monitor.listen is not None:
        _open_endpoint(post, post.config.monitor.listen)
    return _loop(post, asker, inbox)


def _loop(post: Post, asker: "_Asker", inbox: Inbox) -> int:
    poll = select.poll()
    poll.register(inbox, select.POLLIN)
    poll.register(post.lifeline, select.POLLIN | select.POLLHUP)
    alerts, rows = post.config.monitor.alerts, post.queue_rows
    tellers = {name: Teller(name, queue, alerts, rows[name]) for name, queue in post.config.queues.items()}
    answers = _ask_management(post)
    interval = post.config.monitor.interval
    patience = min(_PATIENCE, interval / 2)
    due = time.monotonic() + min(_PATIENCE, interval)
    code = _wait(poll, inbox, post, due)  # the workers declare the queues meanwhile
    while code is None:
        # The question goes out first, so that the answer is fresh when the line is due.
        before = consuming([*post.board.rows(Kind.WORKER)])
        asker.ask(within=patience)
        _tell(post, asker.samples, tellers, answers(), before)
        due += interval
        if due < time.monotonic():  # suspended, or starved: no burst of lines to catch up
            due = time.monotonic() + interval
        code = _wait(poll, inbox, post, due)
    log.info("monitor.stopped")
    return code


def _tell(
    post: Post,
    samples: Samples,
    tellers: Mapping[str, Teller],
    answers: Mapping[str, Whole],
    before: frozenset[int],
) -> None:
    workers = [*post.board.rows(Kind.WORKER)]
    sure = before & consuming(workers)
    crews: dict[str, list[Row]] = {}
    for row in workers:
        crews.setdefault((row.name or "").rpartition("/")[0], []).append(row)
    answered = samples.trouble is None
    post.row.words[Cell.STATE] = State.IDLE if answered else State.CONNECTING
    post.row.words[Cell.DELAYED] = 0 if not answered or samples.delayed is None else samples.delayed + 1
    for queue, teller in tellers.items():
        teller.tell(samples, answers.get(queue), crews.get(queue, []), sure)


def _ask_management(post: Post) -> Callable[[], Mapping[str, Whole]]:
    """Begin to ask the management API, if there is one; returns what gives its last answers."""
    url = post.config.broker.management_url
    if url is None:
        return dict
    from workqueued.management import Clerk, ManagementReader  # noqa: PLC0415 - most have none, and it costs memory

    clerk = Clerk(ManagementReader(post.config.broker, url).read, post.config.queues, post.config.monitor.interval)
    clerk.start()
    return lambda: clerk.answers


def _open_endpoint(post: Post, address: Address) -> None:
    # Imported here, so that master and workers do not pay for them.
    from workqueued import endpoint, metrics  # noqa: PLC0415

    master = os.getppid()
    kernel = Kernel(lambda pid: pid == master == os.getppid(), is_dead, resident_or_none)

    def look() -> Status:
        return steady(post.board, lambda: read(post.board, time.monotonic_ns(), kernel))

    def tell(status: Status) -> Mapping[str, Any]:
        return facts(status, time.time(), changed=changed(post.config.file, status.config_hash))

    pages = endpoint.Pages(look, tell, lambda: _ailments(post), metrics.registry(post.board, kernel))
    endpoint.serve(pages, address)


def _ailments(post: Post) -> list[str]:
    """Why the monitor or its master is not alive; for /healthz."""
    now = time.monotonic_ns()
    silent, master = (now - post.row.words[Cell.TICK]) / 1e9, (now - post.board[Head.TICK]) / 1e9
    found = []
    if silent > _LONGEST_SILENCE:
        found.append(f"the monitor has shown no sign of life for {silent:.0f} s")
    if master > MASTER_PATIENCE:
        found.append(f"the master has shown no sign of life for {master:.0f} s")
    return found


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


class _Asker(threading.Thread):
    """Asks the broker whenever `ask` is called, in a thread, since it may hang."""

    def __init__(self, post: Post, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(name="asker", daemon=True)
        self.samples = Samples()
        self._queues = list(post.config.queues)
        self._reader = DepthReader(post.config.broker, "workqueued monitor")
        self._idle = post.config.broker.rhythm / 3
        self._clock = clock
        self._question = threading.Event()
        self._answer = threading.Event()

    def ask(self, within: float) -> None:
        """Ask, and wait a little for the answer; `samples` then holds it, or says why there is none."""
        self._answer.clear()
        self._question.set()
        if not self._answer.wait(within) and self.samples.trouble in (None, NOT_ASKED):
            self.samples = dataclasses.replace(self.samples, trouble="the broker has not answered yet")

    def run(self) -> None:
        """Answer questions for ever; the thread is a daemon."""
        leave_to_main_thread()
        while True:
            if not self._question.wait(self._idle):
                self._reader.service()
                continue
            self._question.clear()
            answered = self._try(self._read_depths)
            self._answer.set()  # the levels may be slow without a quorum, and are of less interest
            if answered:
                self._try(self._read_levels)

    def _try(self, read: Callable[[], None]) -> bool:
        try:
            read()
        except Exception as error:  # noqa: BLE001 - a thread that ended would never answer again
            if not isinstance(error, WorkqueuedError):
                self._reader.close()
            self.samples = dataclasses.replace(self.samples, trouble=str(error))
            return False
        return True

    def _read_depths(self) -> None:
        depths = self._reader.read(self._queues)
        self.samples = Samples(depths, self._clock(), None, self.samples.delayed)

    def _read_levels(self) -> None:
        delayed = self._reader.delayed()
        self.samples = dataclasses.replace(self.samples, delayed=delayed)  # as they are now: `ask` may have been here

"""Status: how the service is, as plain values, and the judgement over it.

Runs in: `wq-status`, monitor. Pure; `survey` makes the values from a scoreboard.
The values are named tuples, as making dataclasses costs a command more than all that it does.
"""

import enum
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from workqueued.flow import Flow
from workqueued.scoreboard import Head, Scoreboard, State

#: A sample that is older than so many intervals of the monitor is late.
_LATE = 3
#: … but not before so many seconds, as the broker may take its time to answer.
_LATE_AT_LEAST = 3.0
#: The master's loop turns at least every 30 s.
MASTER_PATIENCE = 90.0
#: Why nobody serves a queue that its configuration pauses.
PAUSED_BY_CONFIGURATION = "by the configuration"


class Condition(enum.Enum):
    """How the whole service is, the better ones first."""

    RUNNING = "running"
    #: All or some queues are served by nobody, as somebody wanted it or because their command cannot be run.
    PAUSED = "paused"
    #: Something is not as it is meant to be; the reasons say what.
    DEGRADED = "degraded"
    #: It was told to stop.
    DRAINING = "draining"
    #: There is no master.
    DOWN = "down"

    @property
    def exit_code(self) -> int:
        """That of `wq-status`."""
        return {Condition.RUNNING: 0, Condition.DOWN: 2}.get(self, 1)


class Alert(enum.IntFlag):
    """What may be active; stored as bits in the scoreboard, named in log, metrics and status."""

    BACKLOG_HIGH = 1
    UNCONSUMED = 2
    DEAD_GROWING = 4

    @property
    def word(self) -> str:
        """Its name in lower case, as in the event."""
        return (self.name or "").lower()


class QueueStatus(NamedTuple):
    """A queue; None is always unknown.

    Attributes:
        wanted: workers that the configuration asks for; None: it has no such queue any more.
        serving: slots that have a worker at work, or fit for it.
        in_work: messages in work on this host.
        paused: None, or why nobody serves it.
        uncounted: workers that consume as far as they know, and not as far as the broker knows.
        alerts: those that are active.
        done, retried, dead_lettered, handed_back, lost: ended so on this host since the master's start.
        died: its workers that nobody told to end, by cause, since the master's start.
        age_s: of the sample that ready, consumers, dead and the rates are from.
    """

    name: str
    wanted: int | None
    serving: int
    in_work: int
    paused: str | None
    refused: bool
    ready: int | None
    unacked: int | None
    consumers: int | None
    dead: int | None
    flow: Flow
    eta_s: float | None
    oldest_s: float | None
    uncounted: int
    alerts: tuple[str, ...]
    done: int
    retried: int
    dead_lettered: int
    handed_back: int
    lost: int
    died: Mapping[str, int]
    age_s: float | None

    @property
    def state(self) -> str:
        """How it is, in a word."""
        if self.wanted is None:
            return "removed"
        if self.refused:
            return "refused"
        if self.paused:
            return "paused"
        return "degraded" if self.serving < self.wanted or self.uncounted else "running"


class WorkerStatus(NamedTuple):
    """A worker, or the monitor; `busy_s` is the age of the message in hand since it was taken."""

    slot: str
    queue: str
    state: str
    pid: int
    alive: bool
    ready: bool
    generation: int
    uptime_s: float
    tick_s: float
    message_id: str | None
    busy_s: float | None
    done: int
    retried: int
    dead: int
    handed_back: int
    lost: int
    rss_bytes: int | None

    @property
    def serving(self) -> bool:
        """Whether it is at work or fit for it: it lives, has been ready, and has not lost its connection."""
        return self.alive and self.ready and self.state != State.CONNECTING.word


class DeathStatus(NamedTuple):
    """One of the last deaths; `at` is in seconds since the epoch."""

    at: float
    slot: str
    pid: int
    cause: str
    message_id: str | None


class Status(NamedTuple):
    """Everything. `since` is in seconds since the epoch; `reasons` say why it is not simply running.

    Attributes:
        late_s: a sample that is older tells nothing any more.
        delayed: messages that wait in the delay levels of the vhost.
        broker_answers: whether the monitor's last question to the broker was answered; None: it has asked none.
        reloads_rejected, monitor_deaths: since the master's start.
    """

    condition: Condition
    reasons: tuple[str, ...]
    since: float | None = None
    uptime_s: float | None = None
    version: str | None = None
    config: str | None = None
    config_hash: str | None = None
    generation: int | None = None
    master: int | None = None
    monitor: WorkerStatus | None = None
    queues: tuple[QueueStatus, ...] = ()
    workers: tuple[WorkerStatus, ...] = ()
    deaths: tuple[DeathStatus, ...] = ()
    late_s: float = _LATE_AT_LEAST
    delayed: int | None = None
    broker_answers: bool | None = None
    reloads_rejected: int = 0
    monitor_deaths: int = 0

    @property
    def ready(self) -> bool:
        """Whether it does what the configuration asks for: a queue that is paused there is no fault."""
        if self.condition is Condition.PAUSED:
            return all(queue.paused in (None, PAUSED_BY_CONFIGURATION) for queue in self.queues)
        return self.condition is Condition.RUNNING


def down(reason: str) -> Status:
    """The status of what has no scoreboard."""
    return Status(Condition.DOWN, (reason,))


def judge(board: Scoreboard, *, lives: bool, complaints: list[str], queues: list[QueueStatus]) -> Condition:
    """How the whole is, in one word."""
    if not lives:
        return Condition.DOWN
    if board[Head.DRAINING]:
        return Condition.DRAINING
    if complaints:
        return Condition.DEGRADED
    return Condition.PAUSED if any(queue.paused for queue in queues) else Condition.RUNNING


def epitaph(board: Scoreboard, master: int) -> str:
    """Why there is no master."""
    if board[Head.DRAINING]:
        return f"the master (pid {master}) has stopped, as it was told"
    return f"the master (pid {master}) is gone, and nobody told it to stop"


# --- what is wrong ---------------------------------------------------------------------------------------------------


def complaints(
    board: Scoreboard,
    now: int,
    queues: Iterable[QueueStatus],
    crews: Mapping[str, list[WorkerStatus]],
    monitor: WorkerStatus | None,
) -> list[str]:
    """What is not as it is meant to be."""
    found = []
    silent = (now - board[Head.TICK]) / 1e9
    if silent > MASTER_PATIENCE:
        found.append(f"the master has shown no sign of life for {silent:.0f} s")
    if monitor is None or not monitor.alive:
        found.append("there is no monitor")
    patience = board[Head.PATIENCE] / 2e9
    uptime = (now - board[Head.STARTED]) / 1e9
    for queue in queues:
        mine = crews.get(queue.name, [])
        found += _complaints_of_queue(queue, mine, late(board), uptime)
        for worker in mine:
            idle = worker.alive and worker.ready and worker.state != State.BUSY.word
            if idle and worker.tick_s > patience:
                found.append(f"{worker.slot} has shown no sign of life for {worker.tick_s:.0f} s")
    return found


def _complaints_of_queue(
    queue: QueueStatus, workers: list[WorkerStatus], late: float, uptime: float
) -> Iterable[str]:
    if queue.refused:
        yield f"{queue.name}: the broker refuses it"
    elif queue.wanted and not queue.paused and queue.serving < queue.wanted:
        yield f"{queue.name}: {queue.serving} of {_count(queue.wanted, 'worker')}{_missing(queue, workers)}"
    if queue.wanted is None:
        return
    if queue.age_s is None:
        if uptime > late:
            yield f"{queue.name}: the monitor has no sample"
    elif queue.age_s > late:
        yield f"{queue.name}: the monitor's sample is {queue.age_s:.0f} s old"
    elif queue.uncounted:
        yield f"{queue.name}: the broker does not count {_count(queue.uncounted, 'worker')} among its consumers"


def late(board: Scoreboard) -> float:
    """A sample that is older than so many seconds is late."""
    return max(_LATE * board[Head.INTERVAL] / 1e9, _LATE_AT_LEAST)


def _missing(queue: QueueStatus, workers: list[WorkerStatus]) -> str:
    there = {worker.slot for worker in workers if worker.serving}
    slots = (f"{queue.name}/{number}" for number in range(queue.wanted or 0))
    first = next((slot for slot in slots if slot not in there), None)
    if first is None:
        return ""
    row = next((worker for worker in workers if worker.slot == first and worker.alive), None)
    return f" ({first} is {'absent, dead or waiting to be started again' if row is None else row.state})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"

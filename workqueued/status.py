"""Status: what the scoreboard says, as plain values, and the judgement over it.

Runs in: `wq-status`. Pure but for reading the board: clocks and the kernel's word on processes come in as arguments.
The values are named tuples, as making dataclasses costs a command more than all that it does.
"""

import enum
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from workqueued.flow import Flow, eta
from workqueued.scoreboard import Cell, DeathCell, Head, Kind, Pause, QueueCell, Row, Scoreboard, State

#: A sample that is older than so many intervals of the monitor is late.
_LATE = 3
#: … but not before so many seconds, as the broker may take its time to answer.
_LATE_AT_LEAST = 3.0
#: The master's loop turns at least every 30 s.
_MASTER_PATIENCE = 90.0


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


class QueueStatus(NamedTuple):
    """A queue; None is always unknown.

    Attributes:
        wanted: workers that the configuration asks for; None: it has no such queue any more.
        serving: slots that have a worker at work, or fit for it.
        in_work: messages in work on this host.
        paused: None, or why nobody serves it.
        done, retried, dead_lettered: settled on this host since the master's start.
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
    delayed: int | None
    flow: Flow
    eta_s: float | None
    oldest_s: float | None
    done: int
    retried: int
    dead_lettered: int
    age_s: float | None


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


class Kernel(NamedTuple):
    """What is asked of the kernel.

    Attributes:
        master_lives: whether this pid is that of the run directory's master.
        dead: whether a process is gone.
        resident: bytes of its resident memory; None: unknown.
    """

    master_lives: Callable[[int], bool]
    dead: Callable[[int], bool]
    resident: Callable[[int], int | None]


def down(reason: str) -> Status:
    """The status of what has no scoreboard."""
    return Status(Condition.DOWN, (reason,))


def read(board: Scoreboard, now: int, kernel: Kernel) -> Status:
    """What a board says at the moment `now`, monotonic ns."""
    workers = [_worker(row, now, kernel) for row in board.rows(Kind.WORKER)]
    workers = sorted((one for one in workers if one.pid), key=_by_slot)
    monitors = [_worker(row, now, kernel) for row in board.rows(Kind.MONITOR)]
    monitor = max((one for one in monitors if one.pid), key=lambda one: one.generation, default=None)
    crews: dict[str, list[WorkerStatus]] = {}
    for worker in workers:
        crews.setdefault(worker.queue, []).append(worker)
    queues = [_queue(row, now, crews) for row in board.rows(Kind.QUEUE)]
    # One that was taken out of the configuration is of interest until its workers are gone.
    shown = [one for one in queues if one.wanted is not None or one.name in crews]
    master = board[Head.MASTER_PID]
    lives = kernel.master_lives(master)
    reasons = [_epitaph(board, master)]
    if lives:
        # In a drain all of it goes, as it is meant to.
        reasons = [] if board[Head.DRAINING] else _complaints(board, now, shown, crews, monitor)
    paused = [f"{one.name}: paused, {one.paused}" for one in shown if one.paused and lives]
    deaths = [_death(row) for row in board.rows(Kind.DEATH) if row.words[DeathCell.AT]]
    return Status(
        condition=_judge(board, lives=lives, complaints=reasons, queues=shown),
        reasons=tuple(reasons + paused),
        since=board[Head.EPOCH] / 1e9,
        uptime_s=max(0.0, (now - board[Head.STARTED]) / 1e9),
        version=board.head.message_id,
        config=board.head.name,
        config_hash=board.head.note or None,
        generation=board[Head.GENERATION],
        master=master,
        monitor=monitor,
        queues=tuple(sorted(shown, key=lambda one: one.name)),
        workers=tuple(workers),
        deaths=tuple(sorted(deaths, key=lambda one: -one.at)),
        late_s=_late(board),
    )


def _judge(board: Scoreboard, *, lives: bool, complaints: list[str], queues: list[QueueStatus]) -> Condition:
    if not lives:
        return Condition.DOWN
    if board[Head.DRAINING]:
        return Condition.DRAINING
    if complaints:
        return Condition.DEGRADED
    return Condition.PAUSED if any(queue.paused for queue in queues) else Condition.RUNNING


def _epitaph(board: Scoreboard, master: int) -> str:
    if board[Head.DRAINING]:
        return f"the master (pid {master}) has stopped, as it was told"
    return f"the master (pid {master}) is gone, and nobody told it to stop"


# --- what is wrong ---------------------------------------------------------------------------------------------------


def _complaints(
    board: Scoreboard,
    now: int,
    queues: Iterable[QueueStatus],
    crews: Mapping[str, list[WorkerStatus]],
    monitor: WorkerStatus | None,
) -> list[str]:
    found = []
    silent = (now - board[Head.TICK]) / 1e9
    if silent > _MASTER_PATIENCE:
        found.append(f"the master has shown no sign of life for {silent:.0f} s")
    if monitor is None or not monitor.alive:
        found.append("there is no monitor")
    patience = board[Head.PATIENCE] / 2e9
    uptime = (now - board[Head.STARTED]) / 1e9
    for queue in queues:
        mine = crews.get(queue.name, [])
        found += _complaints_of_queue(queue, mine, _late(board), uptime)
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


def _late(board: Scoreboard) -> float:
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


# --- rows ------------------------------------------------------------------------------------------------------------


def _worker(row: Row, now: int, kernel: Kernel) -> WorkerStatus:
    words = row.words
    pid, taken, slot = words[Cell.PID], words[Cell.TASK_STARTED], row.name or "?"
    alive = bool(pid) and not kernel.dead(pid)
    return WorkerStatus(
        slot=slot,
        queue=slot.rpartition("/")[0],
        state=row.state.word if alive else "dead",
        pid=pid,
        alive=alive,
        ready=bool(words[Cell.PROVEN]),
        generation=words[Cell.GENERATION],
        uptime_s=_since(words[Cell.STARTED], now),
        tick_s=_since(words[Cell.TICK], now),
        message_id=(row.message_id or None) if taken else None,
        busy_s=_since(taken, now) if taken else None,
        done=words[Cell.DONE],
        retried=words[Cell.RETRIED],
        dead=words[Cell.DEAD],
        rss_bytes=kernel.resident(pid) if alive else None,
    )


def _queue(row: Row, now: int, crews: Mapping[str, list[WorkerStatus]]) -> QueueStatus:
    words, name = row.words, row.name or "?"
    mine = crews.get(name, [])
    ready = _known(words[QueueCell.READY])
    flow = Flow(_rate(words[QueueCell.IN_RATE]), _rate(words[QueueCell.OUT_RATE]))
    ages = [worker.busy_s for worker in mine if worker.alive and worker.busy_s is not None]
    return QueueStatus(
        name=name,
        wanted=_known(words[QueueCell.WANTED]),
        serving=len({worker.slot for worker in mine if worker.serving}),
        in_work=len(ages),
        paused=_pause(words[QueueCell.PAUSED]),
        refused=bool(words[QueueCell.REFUSED]),
        ready=ready,
        unacked=_known(words[QueueCell.UNACKED]),
        consumers=_known(words[QueueCell.CONSUMERS]),
        dead=_known(words[QueueCell.DEAD]),
        delayed=_known(words[QueueCell.DELAYED]),
        flow=flow,
        eta_s=eta(ready, flow),
        oldest_s=max(ages, default=None),
        done=words[QueueCell.PAST_DONE] + sum(worker.done for worker in mine),
        retried=words[QueueCell.PAST_RETRIED] + sum(worker.retried for worker in mine),
        dead_lettered=words[QueueCell.PAST_DEAD] + sum(worker.dead for worker in mine),
        age_s=_since(words[QueueCell.SAMPLED], now) if words[QueueCell.SAMPLED] else None,
    )


def _death(row: Row) -> DeathStatus:
    words = row.words
    return DeathStatus(
        words[DeathCell.AT] / 1e9, row.name or "?", words[DeathCell.PID], row.note or "?", row.message_id or None
    )


def _pause(value: int) -> str | None:
    words: dict[int, str] = {Pause.CONFIGURED: "by the configuration", Pause.UNUSABLE: "its command cannot be run"}
    return words.get(value)


def _known(stored: int) -> int | None:
    return stored - 1 if stored else None


def _rate(stored: int) -> float | None:
    return (stored - 1) / 1000 if stored else None


def _since(moment: int, now: int) -> float:
    return max(0.0, (now - moment) / 1e9)


def _by_slot(worker: WorkerStatus) -> tuple[str, int, int]:
    number = worker.slot.rpartition("/")[2]
    return worker.queue, int(number) if number.isdecimal() else 0, worker.generation

"""Survey: reads the scoreboard into a status.

Runs in: `wq-status`, monitor. Pure but for reading the board: clocks and the kernel's word on processes come in as
arguments.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from workqueued.flow import Flow, eta
from workqueued.scoreboard import Cell, DeathCell, Head, Kind, Pause, QueueCell, Row, Scoreboard, State
from workqueued.status import (
    PAUSED_BY_CONFIGURATION,
    Alert,
    DeathStatus,
    QueueStatus,
    Status,
    WorkerStatus,
    complaints,
    epitaph,
    judge,
    late,
)

T = TypeVar("T")

#: So often a look is repeated that the master has disturbed.
_LOOKS = 5
#: What the monitor's state tells of the broker: while it starts, it has not asked.
_BROKER_ANSWERS = {State.IDLE.word: True, State.CONNECTING.word: False}
_CAUSES = {
    "signal": QueueCell.DIED_OF_SIGNAL,
    "exit": QueueCell.DIED_OF_EXIT,
    "time_limit": QueueCell.DIED_OF_LIMIT,
    "out_of_memory": QueueCell.DIED_OF_MEMORY,
}


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


def steady(board: Scoreboard, take: Callable[[], T]) -> T:
    """What `take` makes of the board while the master moves no counts between rows: else they would be told twice."""
    for _ in range(_LOOKS):
        before = board[Head.MOVES]
        taken = take()
        if before % 2 == 0 and board[Head.MOVES] == before:
            break
    return taken


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
    reasons = [epitaph(board, master)]
    if lives:
        # In a drain all of it goes, as it is meant to.
        reasons = [] if board[Head.DRAINING] else complaints(board, now, shown, crews, monitor)
    paused = [f"{one.name}: paused, {one.paused}" for one in shown if one.paused and lives]
    deaths = [_death(row) for row in board.rows(Kind.DEATH) if row.words[DeathCell.AT]]
    return Status(
        condition=judge(board, lives=lives, complaints=reasons, queues=shown),
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
        late_s=late(board),
        delayed=_known(max((row.words[Cell.DELAYED] for row in board.rows(Kind.MONITOR)), default=0)),
        broker_answers=_BROKER_ANSWERS.get(monitor.state) if monitor else None,
        reloads_rejected=board[Head.RELOADS_REJECTED],
        monitor_deaths=board[Head.MONITOR_DEATHS],
    )


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
        handed_back=words[Cell.HANDED_BACK],
        lost=words[Cell.LOST],
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
        flow=flow,
        eta_s=eta(ready, flow),
        oldest_s=max(ages, default=None),
        uncounted=words[QueueCell.UNCOUNTED],
        alerts=tuple(alert.word for alert in Alert if words[QueueCell.ALERTS] & alert),
        done=words[QueueCell.PAST_DONE] + sum(worker.done for worker in mine),
        retried=words[QueueCell.PAST_RETRIED] + sum(worker.retried for worker in mine),
        dead_lettered=words[QueueCell.PAST_DEAD] + sum(worker.dead for worker in mine),
        handed_back=words[QueueCell.PAST_HANDED_BACK] + sum(worker.handed_back for worker in mine),
        lost=words[QueueCell.PAST_LOST] + sum(worker.lost for worker in mine),
        died={cause: words[cell] for cause, cell in _CAUSES.items()},
        age_s=_since(words[QueueCell.SAMPLED], now) if words[QueueCell.SAMPLED] else None,
    )


def _death(row: Row) -> DeathStatus:
    words = row.words
    return DeathStatus(
        words[DeathCell.AT] / 1e9, row.name or "?", words[DeathCell.PID], row.note or "?", row.message_id or None
    )


def _pause(value: int) -> str | None:
    words: dict[int, str] = {Pause.CONFIGURED: PAUSED_BY_CONFIGURATION, Pause.UNUSABLE: "its command cannot be run"}
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

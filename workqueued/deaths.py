"""Deaths in words: from how a process ended to what an operator is told, and what counts against its message.

Runs in: master.
"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from workqueued.child import Death
from workqueued.evidence import Evidence
from workqueued.logs import Reminder, log
from workqueued.queue_settings import Queue
from workqueued.scoreboard import Cell, DeathCell, Kind, QueueCell, Row, Scoreboard, State
from workqueued.signals import name_of
from workqueued.slots import Child, CrashLoop

#: Signals that the processor or the C library ends a process with.
_OF_BUGS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT}
_CGROUPS = Path("/sys/fs/cgroup")
#: So many deaths are remembered for `wq-status`.
_KEPT = 8


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known about an end beside its status.

    Attributes:
        hard_limit: the master killed it over its task.
        memory_limited: its queue has `limits.memory`.
        oom_killed: whether the kernel's OOM killer was at work in our cgroup; None: nobody can tell.
        busy: a handler was running.
    """

    hard_limit: bool = False
    memory_limited: bool = False
    oom_killed: bool | None = None
    busy: bool = False


def explain(code: int | None, number: int | None, known: Circumstances) -> dict[str, object]:
    """The facts for the log: `cause`, `signal` or `code`, and `likely` where there is a guess."""
    if number is None:
        facts: dict[str, object] = {"cause": "exited", "code": code}
        if known.busy:
            facts["likely"] = f"the handler ended the process, as os._exit({code}) does"
        return facts
    if known.hard_limit:
        return {"cause": "hard time limit", "signal": name_of(number)}
    facts = {"cause": "killed", "signal": name_of(number)}
    likely = _guess(number, known)
    if likely is not None:
        facts["likely"] = likely
    return facts


def _guess(number: int, known: Circumstances) -> str | None:
    if number == signal.SIGKILL:
        if known.oom_killed is None:
            return "kill -9, or out of memory"
        return "out of memory: the kernel's OOM killer" if known.oom_killed else "kill -9"
    if number in _OF_BUGS:
        return "a bug in C code, or limits.memory" if known.memory_limited else "a bug in C code"
    return None


def in_short(code: int | None, number: int | None, known: Circumstances) -> str:
    """The cause in a few words, for the dead letter and `wq-status`."""
    if known.hard_limit:
        return "the hard time limit"
    if number is None:
        return f"exit code {code}"
    if number == signal.SIGKILL and known.oom_killed:
        return "SIGKILL (out of memory)"
    return name_of(number)


def counter_of(number: int | None, known: Circumstances) -> QueueCell:
    """Where a death is counted."""
    if known.hard_limit:
        return QueueCell.DIED_OF_LIMIT
    if number is None:
        return QueueCell.DIED_OF_EXIT
    return QueueCell.DIED_OF_MEMORY if known.oom_killed else QueueCell.DIED_OF_SIGNAL


class LastDeaths:
    """The last deaths, in rows of the scoreboard, the oldest of which is overwritten. Master only."""

    def __init__(self, board: Scoreboard, former: Scoreboard | None = None) -> None:
        """Take the rows at once, as later the board may be full; and go on from those of a master that is gone.

        Raises:
            ScoreboardError: no row is left.
        """
        self._rows = [board.claim(Kind.DEATH, "") for _ in range(_KEPT)]
        for old in [] if former is None else former.rows(Kind.DEATH):
            self._write(old.words[DeathCell.AT], old.name, old.words[DeathCell.PID], old.note, old.message_id)

    def add(self, slot: str, pid: int, cause: str, message_id: str | None) -> None:
        """Note a death of this moment."""
        self._write(time.time_ns(), slot, pid, cause, message_id)

    def _write(self, at: int, slot: str | None, pid: int, cause: str | None, message_id: str | None) -> None:
        row = min(self._rows, key=lambda row: row.words[DeathCell.AT])
        row.words[DeathCell.AT] = 0  # nobody takes it for a death while it is written
        row.name, row.note, row.message_id = slot or "", cause or "", message_id or ""
        row.words[DeathCell.PID] = pid
        row.words[DeathCell.AT] = at


class Coroner:
    """Examines dead children: says how each ended, and records the message that it had in its handler's hands."""

    def __init__(self, evidence: Evidence, last: LastDeaths) -> None:
        self._evidence = evidence
        self._last = last
        self._oom = OomCounter()
        self._loops: dict[str, Reminder] = {}

    def examine(self, death: Death, row: Row, child: Child, queue: Queue | None) -> QueueCell:
        """Log the death of a child that nobody told to end; returns where it counts.

        `queue` is None for the monitor.
        """
        words = row.words
        started = words[Cell.TASK_STARTED]
        known = Circumstances(
            hard_limit=child.over_limit,
            memory_limited=queue is not None and queue.limits.memory is not None,
            oom_killed=self._oom.rose() if death.signal == signal.SIGKILL else None,
            busy=words[Cell.STATE] == State.BUSY and bool(started),
        )
        lived = round(time.monotonic() - child.spawned_at, 1)
        facts: dict[str, object] = {"slot": child.slot, "pid_died": death.pid, "lived_s": lived}
        facts |= explain(death.code, death.signal, known)
        if started:
            facts["message_id"] = row.message_id
            facts["running_s"] = round((time.monotonic_ns() - started) / 1e9, 1)
        cause = in_short(death.code, death.signal, known)
        if known.busy:
            facts["crashes"] = self._evidence.record(child.queue, row, cause)
        self._last.add(child.slot, death.pid, cause, row.message_id if started else None)
        log.error("worker.died" if child.queue else "monitor.died", **facts)
        return counter_of(death.signal, known)

    def warn(self, queue: str, loop: CrashLoop | None) -> None:
        """Say once a minute that the workers of a queue die again and again."""
        reminder = self._loops.setdefault(queue, Reminder())
        if loop is None:
            reminder.end()
        elif reminder.due(loop.likely.partition(":")[0]):
            log.error(
                "queue.crash_looping",
                queue=queue,
                deaths=loop.deaths,
                within_s=loop.seconds,
                messages=loop.messages,
                likely=loop.likely,
            )


class OomCounter:
    """How many processes of our cgroup the kernel's OOM killer has ended.

    memory.events of cgroup v2, memory.oom_control of v1 (docs.kernel.org, "Control Group v2" and "Memory Resource
    Controller"); both have a line `oom_kill N`.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or find_counter()
        self._last = self._read()

    def rose(self) -> bool | None:
        """Whether it rose since the last question; None when there is no such counter."""
        before, self._last = self._last, self._read()
        return None if before is None or self._last is None else self._last > before

    def _read(self) -> int | None:
        if self._file is None:
            return None
        try:
            lines = self._file.read_text().splitlines()
            return int(next(line.split()[1] for line in lines if line.startswith("oom_kill ")))
        except (OSError, StopIteration, ValueError, IndexError):
            return None


def find_counter(membership: Path = Path("/proc/self/cgroup"), root: Path = _CGROUPS) -> Path | None:
    """The file that counts for our own cgroup; in a container its path may be relative to what is mounted here."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            found += [root / path.lstrip("/") / "memory.events", root / "memory.events"]
        elif "memory" in controllers.split(","):
            folder = root / "memory"
            found += [folder / path.lstrip("/") / "memory.oom_control", folder / "memory.oom_control"]
    return next((file for file in found if os.access(file, os.R_OK)), None)

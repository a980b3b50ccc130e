"""The herald: tells systemd how the service is, and when it is up or has changed over to a new configuration.

Runs in: master.
"""

import os
import time
from collections.abc import Callable

from workqueued.durations import span
from workqueued.logs import log
from workqueued.notify import Notifier
from workqueued.pool import Pool
from workqueued.scoreboard import Scoreboard, State
from workqueued.status import Condition, Status
from workqueued.survey import Kernel, read

#: systemd hears that we are up once all children are ready, and after so many seconds in any case: a broker or a
#: handler that takes its time must not become a restart loop.
_READY_AFTER = 30.0
#: systemd shows one line, and a terminal cuts it.
_LONGEST = 200


class Herald:
    """See the module's text.

    Args:
        board: what is told is read from it.
        lives: whether a child has not been reaped.
    """

    def __init__(self, board: Scoreboard, lives: Callable[[int], bool]) -> None:
        self._board = board
        self._lives = lives
        self._notifier = Notifier(os.environ)
        #: Since when not everything is as the configuration in force asks for; the start is the first change.
        self._changing_since: float | None = time.monotonic()

    def changes(self) -> None:
        """A new configuration is in force."""
        self._changing_since = time.monotonic()
        self._notifier.hasten()

    def turn(self, pool: Pool, now: float) -> None:
        """The master's loop turned."""
        since = self._changing_since
        if since is not None and pool.stopping_since is None:
            self._follow(pool, since, now)
        if self._notifier.due(now):
            kernel = Kernel(lambda _: True, lambda pid: not self._lives(pid), lambda _: None)
            status = read(self._board, time.monotonic_ns(), kernel)
            soon = self._changing_since is not None or status.condition is Condition.DEGRADED
            self._notifier.turned(now, headline(status), soon=soon)

    def _follow(self, pool: Pool, since: float, now: float) -> None:
        complete = is_complete(pool, now)
        if complete or now > since + _READY_AFTER:
            self._notifier.ready()
        if complete:
            self._changing_since = None
            self._notifier.hasten()
            if pool.generation > 1:
                log.info("reload.finished", generation=pool.generation, duration_s=round(now - since, 3))

    def next_deadline(self, deadline: float | None) -> float | None:
        """The earlier of a moment and of when the next turn is due for systemd; None: never."""
        due = self._notifier.next_deadline()
        return deadline if due is None else due if deadline is None else min(deadline, due)

    def rest(self) -> None:
        """The master ends, as it was told."""
        self._notifier.rest("stopped, as it was told")


def is_complete(pool: Pool, now: float) -> bool:
    """Whether everybody who is wanted is there and ready, and nobody else, where a queue may be served at all."""
    refused = pool.refused(now)
    for slot in reversed(pool.slots.values()):  # a reload comes there last
        current = slot.current
        if slot.name not in pool.wanted:
            if current is not None:
                return False
        elif slot.queue not in refused and not pool.fates[slot.queue].paused:
            there = current is not None and current.ready and current.generation == pool.generation
            if not there or slot.successor is not None:
                return False
    return True


def headline(status: Status) -> str:
    """Such as "8/8 consuming, 5 busy, oldest 4m12s, ready 130", with what is wrong at the end."""
    wanted = sum(queue.wanted or 0 for queue in status.queues if not queue.paused)
    consuming = sum(queue.serving for queue in status.queues)
    busy = [worker.busy_s for worker in status.workers if worker.alive and worker.busy_s is not None]
    parts = [f"{consuming}/{wanted} consuming"]
    connecting = sum(worker.state == State.CONNECTING.word for worker in status.workers)
    if connecting:
        parts.append(f"{connecting} connecting")
    if busy:
        parts += [f"{len(busy)} busy", f"oldest {span(max(busy))}"]
    depths = [queue.ready for queue in status.queues]
    if depths and None not in depths:
        parts.append(f"ready {sum(depth or 0 for depth in depths)}")
    line = ", ".join(parts)
    if status.condition is Condition.DRAINING:
        line = f"draining: {line}"
    elif status.reasons:
        line = f"{status.condition.value}: {line}; {status.reasons[0]}"
        if len(status.reasons) > 1:
            line += f" (and {len(status.reasons) - 1} more)"
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"

"""Evidence: which messages took workers of this host down with them.

Runs in: master (records), workers (look up what is redelivered to them).

That the broker gives a message out again proves nothing: lost connections, broker restarts, hand-backs and ack timeouts
look the same, and the broker's counts differ by version. Proof is what the master found in a dead worker's row. The
table lies in the scoreboard, and a new master takes over what its predecessor's tells; what is counted goes on in the
message's own header.
"""

import enum
import hashlib
import time
from collections.abc import Callable

from workqueued.outcome import Proof
from workqueued.proc import is_dead
from workqueued.scoreboard import Cell, Kind, Row, Scoreboard, State

#: Messages that are remembered; the oldest is forgotten. A message is redelivered within milliseconds, or seconds.
_MOST = 200
#: Counts go no further.
_LARGEST_COUNT = 1_000_000
#: How often a worker looks whether the master has buried a worker that seems to be dead, and every how many seconds: by
#: the clock, a machine that stood still meanwhile would have given the master no time at all.
_LOOKS, _LOOK_EVERY = 600, 0.005


class CrashCell(enum.IntEnum):
    """Words of a crash row, whose name is the message's key and whose note is the last cause. AT is monotonic ns."""

    KIND = 0
    COUNT = 1
    AT = 2
    #: How often the whole service ended with it in hand, which proves nothing.
    LOST = 3


class Evidence:
    """The table. Only the master records.

    Args:
        board: where it lies.
        clock: monotonic seconds.
        pause: waits so many seconds.
        dead: whether a process is gone, or a zombie that nobody has reaped.
    """

    def __init__(
        self,
        board: Scoreboard,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        dead: Callable[[int], bool] | None = None,
    ) -> None:
        self._board = board
        self._clock = clock
        self._pause = pause
        self._dead = dead or is_dead

    def record(self, queue: str, worker: Row, cause: str) -> int:
        """A worker died with a message in its handler's hands; returns how many workers that took down by now.

        Args:
            queue: the worker's.
            worker: its row, which tells of the message, and of the crashes that its header told of.
            cause: how it ended.

        Raises:
            ScoreboardError: no row is left.
        """
        row = self._entry(_key(queue, worker.message_id or "", worker.words[Cell.LIFE]))
        row.note = cause
        # Two workers may have taken it at the same count: the second before this entry was there.
        row.words[CrashCell.COUNT] = _one_more(row.words[CrashCell.COUNT], worker.words[Cell.CRASHES])
        return row.words[CrashCell.COUNT]

    def inherit(self, former: Scoreboard) -> None:
        """Go on from the table of a master that is gone, and note what its workers had in hand when all of them ended.

        That proves nothing: somebody may have killed the service, or the one message among them that used up the memory
        took the others along.

        Raises:
            ScoreboardError: no row is left.
        """
        for old in former.rows(Kind.CRASH):
            row = self._entry(old.name or "")
            row.note = old.note or ""
            for cell in (CrashCell.COUNT, CrashCell.AT, CrashCell.LOST):
                row.words[cell] = old.words[cell]
        for old in former.rows(Kind.WORKER):
            words = old.words
            busy = words[Cell.STATE] == State.BUSY and words[Cell.TASK_STARTED]
            if busy and old.message_id and self._dead(words[Cell.PID]):
                queue = (old.name or "").rpartition("/")[0]
                row = self._entry(_key(queue, old.message_id, words[Cell.LIFE]))
                row.words[CrashCell.LOST] = _one_more(row.words[CrashCell.LOST], words[Cell.REDELIVERIES])

    def look(self, queue: str, identity: str, life: int) -> Proof | None:
        """What is known of a message that was redelivered; see `Delivery` for `identity` and `life`.

        The broker notices a worker's death before the master does, so a worker that still seems to hold the message
        and is dead is waited for: the master records, then clears its row.
        """
        self._await_burial(queue, identity)
        row = self._find(_key(queue, identity, life))
        if row is None:
            return None
        return Proof(row.words[CrashCell.COUNT], row.note or "", row.words[CrashCell.LOST])

    def _await_burial(self, queue: str, identity: str) -> None:
        left = _LOOKS
        for row in self._board.rows(Kind.WORKER):
            while _holds(row, queue, identity) and self._dead(row.words[Cell.PID]) and left:
                self._pause(_LOOK_EVERY)
                left -= 1

    def _entry(self, key: str) -> Row:
        """The row of a message, made if there is none; the oldest one is forgotten for it."""
        row = self._find(key)
        if row is None:
            rows = list(self._board.rows(Kind.CRASH))
            if len(rows) >= _MOST:
                min(rows, key=lambda row: row.words[CrashCell.AT]).clear()
            row = self._board.claim(Kind.CRASH, key)
        row.words[CrashCell.AT] = int(self._clock() * 1e9)
        return row

    def _find(self, key: str) -> Row | None:
        return next((row for row in self._board.rows(Kind.CRASH) if row.name == key), None)


def _key(queue: str, identity: str, life: int) -> str:
    return hashlib.blake2b(f"{life}\0{queue}\0{identity}".encode("utf-8", "replace"), digest_size=16).hexdigest()


def _holds(row: Row, queue: str, identity: str) -> bool:
    words = row.words
    return (
        words[Cell.KIND] == Kind.WORKER
        and words[Cell.STATE] == State.BUSY
        and row.message_id == identity
        and (row.name or "").rpartition("/")[0] == queue
    )


def _one_more(*counts: int) -> int:
    """One more than the largest; a damaged row may hold anything up to the largest word."""
    return min(max(counts), _LARGEST_COUNT) + 1

"""Bulletin: what the master tells on the scoreboard for whoever asks: of itself, its configuration and the queues.

Runs in: master.

The monitor's samples stand in the same rows of the queues; each writes its own words (see `scoreboard.QueueCell`).
"""

import time
from pathlib import Path

from workqueued import timings
from workqueued.config import Config
from workqueued.paths import short_hash
from workqueued.pool import Pool
from workqueued.scoreboard import LARGEST, Cell, Head, Kind, Pause, QueueCell, Row, Scoreboard

_PAST = {
    Cell.DONE: QueueCell.PAST_DONE,
    Cell.RETRIED: QueueCell.PAST_RETRIED,
    Cell.DEAD: QueueCell.PAST_DEAD,
    Cell.HANDED_BACK: QueueCell.PAST_HANDED_BACK,
    Cell.LOST: QueueCell.PAST_LOST,
}


class Bulletin:
    """The master's part of the board.

    Attributes:
        rows: of every queue that there was since the start, by name.
    """

    def __init__(self, board: Scoreboard, version: str) -> None:
        self._board = board
        self._version = version
        self.rows: dict[str, Row] = {}

    def lay_out(self, config: Config) -> None:
        """Make rows for the queues that have none.

        Raises:
            ScoreboardError: all rows are taken.
        """
        for queue in config.queues:
            if queue not in self.rows:
                self.rows[queue] = self._board.claim(Kind.QUEUE, queue)

    def announce(self, config: Config, pool: Pool) -> None:
        """Tell which configuration is in force, and what it asks for; at the start and after a reload."""
        board = self._board
        board.head.name, board.head.message_id = str(config.file), self._version
        board.head.note = _hash(config.file)
        board[Head.GENERATION] = pool.generation
        board[Head.INTERVAL] = int(config.monitor.interval * 1e9)
        board[Head.PATIENCE] = int(pool.patience * 1e9)
        for name, row in self.rows.items():
            queue = config.queues.get(name)
            row.words[QueueCell.WANTED] = 0 if queue is None else queue.active_workers + 1

    def turn(self, pool: Pool) -> None:
        """Tell how things are, at each turn of the master's loop."""
        self._board[Head.TICK] = time.monotonic_ns()
        self._board[Head.DRAINING] = int(pool.stopping_since is not None)
        unusable, refused = pool.paused(), pool.refused(time.monotonic())
        for name, row in self.rows.items():
            queue = pool.config.queues.get(name)
            pause = Pause.NONE
            if queue is not None:
                pause = Pause.CONFIGURED if queue.paused else Pause.UNUSABLE if name in unusable else Pause.NONE
            row.words[QueueCell.PAUSED] = pause
            row.words[QueueCell.REFUSED] = int(queue is not None and name in refused)

    def retire(self, queue: str, child: Row) -> None:
        """Free the row of a child that is gone; what a worker has counted is kept. No reader sees it twice or not."""
        row = self.rows.get(queue)
        self._add(Head.MOVES)
        if row is not None:
            for cell, past in _PAST.items():
                row.words[past] = min(row.words[past] + child.words[cell], LARGEST)
            timings.add(child, row)
        child.clear()
        self._add(Head.MOVES)

    def count_death(self, queue: str, cause: QueueCell) -> None:
        """A child died although nobody told it to; the queue is empty for the monitor."""
        row = self.rows.get(queue)
        if row is not None:
            row.words[cause] = (row.words[cause] + 1) & LARGEST
        else:
            self._add(Head.MONITOR_DEATHS)

    def count_rejected_reload(self) -> None:
        """A reload was asked for and the configuration is wrong."""
        self._add(Head.RELOADS_REJECTED)

    def _add(self, count: Head) -> None:
        self._board[count] = (self._board[count] + 1) & LARGEST  # a damaged one must not end the master


def _hash(file: Path) -> str:
    try:
        return short_hash(file.read_bytes())
    except OSError:
        return ""

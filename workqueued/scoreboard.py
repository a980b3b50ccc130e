"""The scoreboard: what every child is doing, in memory that all can read and one writes.

Runs in: master (creates it, clears rows), children (each its own row), monitor (also its part of the queue rows),
commands (read).

A file-backed mmap in the run directory. Every number is one aligned 8-byte word, because longer stores were seen torn;
texts carry a sequence count and a checksum. A new master makes a new file and renames it into place, and never
truncates one that old children may still map. The page outlives the process that wrote it, so the master can read what
a killed worker had in hand.
"""

import contextlib
import enum
import mmap
import os
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from workqueued.errors import WorkqueuedError

#: File name inside the run directory.
FILE_NAME = "scoreboard"
#: "WQBOARD" and the version of the layout.
_MAGIC = int.from_bytes(b"WQBOARD\x04", "big")
_WORD = 8
#: The largest number that a word holds; a damaged row may have it anywhere.
LARGEST = 2**64 - 1
_ROW_WORDS = 176
_ROW_BYTES = _ROW_WORDS * _WORD
#: Rows: two for each of at most 1000 workers (a rolling reload), one per queue, two for the monitor, some for evidence
#: and for the last deaths.
CAPACITY = 3328
#: A text area: sequence count, checksum and length in one word, then the bytes.
_TEXT_WORDS = 34
_TEXT_BYTES = (_TEXT_WORDS - 2) * _WORD
_NAME_AT = 32
_MESSAGE_AT = _NAME_AT + _TEXT_WORDS
_NOTE_AT = _MESSAGE_AT + _TEXT_WORDS
#: Words of `timings`, in the rows of workers and queues: from here to the end of the row.
TIMINGS_AT = _NOTE_AT + _TEXT_WORDS
TIMINGS_WORDS = _ROW_WORDS - TIMINGS_AT


class Head(enum.IntEnum):
    """Words of the head, the first row's place. EPOCH is wall-clock nanoseconds, the other times are monotonic ones.

    Its texts are the path of the configuration (as its name), our version (as its message) and the hash of the
    configuration (as its note).
    """

    MAGIC = 0
    EPOCH = 1
    MASTER_PID = 2
    GENERATION = 3
    ROWS_USED = 4
    DRAINING = 5
    STARTED = 6
    #: The last turn of the master's loop.
    TICK = 7
    #: The interval of the monitor, ns.
    INTERVAL = 8
    #: How long a child may show no sign of life outside of a task before the master kills it, ns.
    PATIENCE = 9
    #: Reloads that were asked for and refused; those that were not are told by GENERATION.
    RELOADS_REJECTED = 10
    #: Monitors that died although nobody told them to.
    MONITOR_DEATHS = 11
    #: Odd while the master moves what a worker has counted into the row of its queue.
    MOVES = 12


class Kind(enum.IntEnum):
    """What a row describes."""

    FREE = 0
    WORKER = 1
    MONITOR = 2
    QUEUE = 3
    #: A message that took workers down with it (see `evidence`).
    CRASH = 4
    #: One of the last deaths (see `deaths`).
    DEATH = 5


class State(enum.IntEnum):
    """What a child is doing; the names in lower case are the words in log and status."""

    STARTING = 0
    CONNECTING = 1
    #: Handler imported, queue declared or broker away; waiting for the master's word to consume.
    READY = 2
    IDLE = 3
    BUSY = 4
    SETTLING = 5
    DRAINING = 6

    @property
    def word(self) -> str:
        """The state as a word."""
        return self.name.lower()


class Cell(enum.IntEnum):
    """Words of a child's row. Times are CLOCK_MONOTONIC nanoseconds, which all processes of a host share."""

    KIND = 0
    PID = 1
    STATE = 2
    GENERATION = 3
    STARTED = 4
    TICK = 5
    TASK_STARTED = 6
    DONE = 7
    DEAD = 8
    LOST = 9
    HANDED_BACK = 10
    DELIVERED = 11
    #: 1 once the child has been ready; it stays 1.
    PROVEN = 12
    RETRIED = 13
    #: When the master is to kill the worker over its task; 0: never.
    DEADLINE = 14
    #: The process group of the command that runs; 1: one is being started.
    COMMAND = 15
    #: 1: it leaves by itself, between two messages, to be replaced.
    RECYCLED = 16
    #: 1: the command cannot be run; the note says why.
    UNUSABLE = 17
    #: The crashes that the message in hand was known to have caused when it was taken.
    CRASHES = 18
    #: … and how often it was known to have been given out again.
    REDELIVERIES = 19
    #: Tells the lives of a message apart (see `Delivery.life`).
    LIFE = 20
    #: Of the monitor: what waits in the delay levels of the whole vhost, plus one; 0: unknown.
    DELAYED = 21
    #: How long the message that was taken last had waited, ms, plus one; 0: nobody knows.
    WAITED = 22


class QueueCell(enum.IntEnum):
    """Words of a queue's row, which two write: the monitor up to ALERTS, the master the rest.

    A sample's count is stored plus one, so that 0 means unknown. SAMPLED is monotonic ns; rates are messages in 1000
    seconds. PAST_… are of workers that are gone; with what the rows of the living tell they are all since the master's
    start.
    """

    KIND = 0
    READY = 1
    CONSUMERS = 2
    DEAD = 3
    SAMPLED = 4
    #: Given out and not acknowledged, on all hosts; a passive declare does not tell.
    UNACKED = 5
    #: What came in and what went out: of the whole queue where the broker tells, else on this host (see `flow`).
    IN_RATE = 6
    OUT_RATE = 7
    #: How many of our workers consume, and have not been counted by the broker for a while.
    UNCOUNTED = 8
    #: A bit for each alert that is active (see `alerts`).
    ALERTS = 9
    #: The workers that the configuration asks for, plus one; 0: it has no such queue any more.
    WANTED = 16
    #: A `Pause`.
    PAUSED = 17
    #: 1: the broker refuses it; it is tried again each minute.
    REFUSED = 18
    PAST_DONE = 19
    PAST_RETRIED = 20
    PAST_DEAD = 21
    PAST_HANDED_BACK = 22
    PAST_LOST = 23
    #: Workers that died although nobody told them to, by what ended them.
    DIED_OF_SIGNAL = 24
    DIED_OF_EXIT = 25
    DIED_OF_LIMIT = 26
    DIED_OF_MEMORY = 27


class Pause(enum.IntEnum):
    """Why nobody serves a queue."""

    NONE = 0
    #: `paused: true` in the configuration.
    CONFIGURED = 1
    #: Its command cannot be run.
    UNUSABLE = 2


class DeathCell(enum.IntEnum):
    """Words of a death's row: name the slot, message what it had in hand, note the cause. AT is wall-clock ns, or 0."""

    KIND = 0
    AT = 1
    PID = 2


class ScoreboardError(WorkqueuedError):
    """The scoreboard cannot be made or read."""

    exit_code = os.EX_IOERR


class Row:
    """One row: words by index, and three texts. Only one process may write to it."""

    __slots__ = ("_text", "index", "words")

    def __init__(self, board: memoryview, index: int) -> None:
        start = index * _ROW_BYTES
        self.index = index
        self._text = board[start : start + _ROW_BYTES]
        self.words = self._text.cast("Q")

    def clear(self) -> None:
        """Make the row free; only after its child was reaped."""
        for word in range(_ROW_WORDS):
            self.words[word] = 0

    def add(self, cell: Cell, count: int = 1) -> None:
        """Count something."""
        self.words[cell] += count

    @property
    def state(self) -> State:
        """The child's state."""
        value = self.words[Cell.STATE]
        return State(value) if value < len(State) else State.STARTING

    @property
    def name(self) -> str | None:
        """The slot's or the queue's name; None while it is being written or when it is damaged."""
        return self._read_text(_NAME_AT)

    @name.setter
    def name(self, value: str) -> None:
        self._write_text(_NAME_AT, value)

    @property
    def message_id(self) -> str | None:
        """The identity of the message in hand; empty without one, None when it cannot be read."""
        return self._read_text(_MESSAGE_AT)

    @message_id.setter
    def message_id(self, value: str) -> None:
        self._write_text(_MESSAGE_AT, value)

    @property
    def note(self) -> str | None:
        """What there is to say about it; None when it cannot be read."""
        return self._read_text(_NOTE_AT)

    @note.setter
    def note(self, value: str) -> None:
        self._write_text(_NOTE_AT, value)

    def _write_text(self, at: int, value: str) -> None:
        data = value.encode("utf-8", "replace")[:_TEXT_BYTES]
        sequence = self.words[at]
        self.words[at] = (sequence + 1) | 1  # odd: being written
        start = (at + 2) * _WORD
        self._text[start : start + len(data)] = data
        self.words[at + 1] = zlib.crc32(data) << 32 | len(data)
        self.words[at] = (sequence | 1) + 1

    def _read_text(self, at: int) -> str | None:
        for _ in range(3):
            before = self.words[at]
            check, length = divmod(self.words[at + 1], 1 << 32)
            if before % 2 == 0 and length <= _TEXT_BYTES:
                start = (at + 2) * _WORD
                data = bytes(self._text[start : start + length])
                if self.words[at] == before and (zlib.crc32(data) == check or before == 0):
                    return data.decode("utf-8", "replace")
        return None

    def release(self) -> None:
        """Let go of the memory."""
        self.words.release()
        self._text.release()


class Scoreboard:
    """The whole board: a head and `CAPACITY` rows."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._view = memoryview(memory)
        self._head = Row(self._view, 0)
        self._rows: dict[int, Row] = {}

    @classmethod
    def create(cls, directory: Path) -> "Scoreboard":
        """Make a new board and rename it into place.

        Raises:
            ScoreboardError: the file system does not let us.
        """
        path = directory / FILE_NAME
        fresh = directory / f"{FILE_NAME}.{os.getpid()}"
        size = (CAPACITY + 1) * _ROW_BYTES
        try:
            descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
            try:
                os.fchmod(descriptor, 0o640)  # whatever the umask: our group is to see the status
                # Allocated now (4.7 MB): on a disk that is full later, a store into a hole would be SIGBUS.
                os.posix_fallocate(descriptor, 0, size)
                memory = mmap.mmap(descriptor, size)
            finally:
                os.close(descriptor)
            board = cls(memory)
            board[Head.EPOCH] = time.time_ns()
            board[Head.STARTED] = board[Head.TICK] = time.monotonic_ns()
            board[Head.MASTER_PID] = os.getpid()
            board[Head.ROWS_USED] = 1
            board[Head.MAGIC] = _MAGIC
            fresh.rename(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise ScoreboardError(f"{path}: cannot make it: {error.strerror}") from error
        return board

    @classmethod
    def open(cls, directory: Path) -> "Scoreboard":
        """Map an existing board for reading.

        Raises:
            ScoreboardError: there is none, or it is no board, or one of another version.
        """
        path = directory / FILE_NAME
        try:
            with path.open("rb") as file:
                memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ScoreboardError(f"{path}: cannot read it: {error}") from error
        magic = int.from_bytes(memory[:_WORD], sys.byteorder)
        if magic != _MAGIC and magic >> 8 == _MAGIC >> 8:
            raise ScoreboardError(
                f"{path}: is of another version; ask with the command of the workqueued that runs, or restart that one"
            )
        if magic != _MAGIC or len(memory) != (CAPACITY + 1) * _ROW_BYTES:
            raise ScoreboardError(f"{path}: is no scoreboard")
        return cls(memory)

    def __getitem__(self, word: Head) -> int:
        return self._head.words[word]

    def __setitem__(self, word: Head, value: int) -> None:
        self._head.words[word] = value

    @property
    def head(self) -> Row:
        """The head as a row, for its texts."""
        return self._head

    def row(self, index: int) -> Row:
        """The row at an index from 1."""
        if index not in self._rows:
            self._rows[index] = Row(self._view, index)
        return self._rows[index]

    def claim(self, kind: Kind, name: str) -> Row:
        """A free row, made somebody's. Master only.

        Raises:
            ScoreboardError: all rows are taken.
        """
        used = max(self[Head.ROWS_USED], 1)
        kinds = self._view.cast("Q")[Cell.KIND : used * _ROW_WORDS : _ROW_WORDS].tolist()  # all at once, in C
        index = kinds.index(Kind.FREE, 1) if Kind.FREE in kinds[1:] else used
        if index > CAPACITY:
            raise ScoreboardError("the scoreboard is full")
        row = self.row(index)
        row.clear()
        row.name = name
        row.words[Cell.KIND] = kind
        self[Head.ROWS_USED] = max(used, index + 1)
        return row

    def rows(self, *kinds: Kind) -> Iterator[Row]:
        """The rows in use, of some kinds."""
        for index in range(1, min(self[Head.ROWS_USED], CAPACITY + 1)):
            row = self.row(index)
            if row.words[Cell.KIND] in kinds:
                yield row

    def queue_row(self, queue: str) -> Row | None:
        """The row of a queue, if it has one."""
        return next((row for row in self.rows(Kind.QUEUE) if row.name == queue), None)

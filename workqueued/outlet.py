"""The outlet: where log records leave this process, and what becomes of them when nobody takes them.

Runs in: every process of the daemon.

When the reader is slow we wait for it a moment, then drop records and count them; supervisord closes the pipe when the
master dies, and a worker must finish its task all the same.
"""

import mmap
import os
import select
import stat
import weakref
from collections.abc import Callable
from typing import Protocol

#: How long a record waits for a slow reader, ms; after one such wait, records are dropped until it reads again.
_PATIENCE_MS = 200
#: Not 0 once any process tore a line: memory shared over forks, so that to look costs no system call.
_torn = mmap.mmap(-1, 1)


class Sink(Protocol):
    """What takes records, such as `LineSink` or `journal.JournalSink`."""

    def fileno(self) -> int:
        """The descriptor to poll for room."""

    def write(self, record: str | bytes) -> bool:
        """Write one record whole; False: it could not be written. Never raises."""

    def flush(self) -> None:
        """Wait a moment until the reader has dealt with what was written, if its reader needs that. Never raises."""


class Outlet:
    """Gives whole records to a sink, or drops and counts them; never raises. This is structlog's idea of a logger."""

    def __init__(self, sink: Sink, notice: Callable[[int], str | bytes]) -> None:
        """Take a sink, and what makes the record that tells how many were dropped."""
        self._sink = sink
        self._notice = notice
        self._poll = select.poll()
        self._poll.register(sink.fileno(), select.POLLOUT)
        self._choked = False
        self._pid = os.getpid()
        self.dropped = 0

    def msg(self, record: str | bytes) -> None:
        """Write one record."""
        pid = os.getpid()
        if pid != self._pid:  # what the master dropped before the fork is the master's to report
            self._pid, self.dropped = pid, 0
        if self.dropped and self._room(0) and self._sink.write(self._notice(self.dropped)):
            self.dropped = 0
        patience = 0 if self._choked else _PATIENCE_MS
        self._choked = bool(self.dropped) or not self._room(patience) or not self._sink.write(record)
        self.dropped += self._choked

    log = debug = info = warn = warning = error = critical = fatal = failure = msg

    def _room(self, milliseconds: int) -> bool:
        """Whether a write would go through at once (up to PIPE_BUF bytes of it, in a pipe)."""
        try:
            events = self._poll.poll(milliseconds)
        except OSError:
            return False
        return bool(events) and bool(events[0][1] & select.POLLOUT)


class LineSink:
    """Writes lines to a descriptor, each with one write(2)."""

    def __init__(self, descriptor: int, *, blocks: bool = False) -> None:
        """Take a descriptor, and with `blocks` as it is: a line beyond PIPE_BUF may else be written in part."""
        private = None if blocks else _open_anew(descriptor)
        if private is not None:
            descriptor = private
            weakref.finalize(self, os.close, private)
        self._descriptor = descriptor
        if _is_torn(descriptor):  # by those before us
            _torn[0] = 1

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def write(self, record: str | bytes) -> bool:
        """Write one line; it gets its newline here."""
        data = (record if isinstance(record, bytes) else record.encode("utf-8", "backslashreplace")) + b"\n"
        if _torn[0] and _is_torn(self._descriptor):
            data = b"\n" + data
        try:
            whole = os.write(self._descriptor, data) == len(data)
        except OSError:  # reader gone, disk full
            return False
        if not whole:  # a disk that gets full takes a part; the next line there may be another process's
            _torn[0] = 1
        return whole

    def flush(self) -> None:
        """Nothing: what is in a pipe or a file stays there."""


def _is_torn(descriptor: int) -> bool:
    """Whether this is a file that ends in the middle of a line, as its disk was full."""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        with open(f"/proc/self/fd/{descriptor}", "rb") as file:  # noqa: PTH123 - as below, and ours is for writing only
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False


def _open_anew(descriptor: int) -> int | None:
    """A non-blocking descriptor of our own for a pipe; None for anything else.

    Between our look and our write another process may take the room, and we would wait for as long as nobody reads: of
    eight busy workers three were seen to stand. O_NONBLOCK on the pipe as we got it would also be its other users', so
    we open it anew, which the kernel allows for a pipe that our own user made; else there is that small risk.
    """
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        pass
    return None

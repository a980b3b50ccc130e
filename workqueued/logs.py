"""The log: one JSON object a line on stdout, or words on a terminal. The catalogue is docs/events.md.

Runs in: every process of the daemon.

Logging must never raise and never hold up a task. A line is one write(2) of at most PIPE_BUF bytes, since longer ones
from several processes interleave in a pipe. When the reader is slow we wait for it a moment, then drop lines and count
them; supervisord closes the pipe when the master dies, and a worker must finish its task all the same.
"""

import json
import os
import select
import socket
import stat
import sys
import time
import weakref
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TextIO

import structlog

#: pipe(7): writes of up to this many bytes are atomic.
_PIPE_BUF = select.PIPE_BUF
#: How long a line waits for a slow reader, ms; after one such wait, lines are dropped until it reads again.
_PATIENCE_MS = 200
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_LONGEST_VALUE = 2600
#: On a terminal these are noise.
_NOT_SHOWN = ("host", "role")
#: Larger numbers are written as text: not every reader of JSON has them, and int refuses to print 4300 digits.
_LARGEST_NUMBER = 2**63


class _Log:
    """The logger that all of workqueued uses.

    Not structlog's global one: a handler's module may configure that for itself, and facts bound by contextvars would
    not reach our other threads.
    """

    def __init__(self) -> None:
        self._logger: Any = None

    def set(self, logger: Any) -> None:
        """From now on, log with this structlog logger."""
        self._logger = logger

    def bind(self, **facts: Any) -> Any:
        """A structlog logger with further facts."""
        if self._logger is None:
            configure("info", "json")
        return self._logger.bind(**facts)

    def debug(self, event: str, **facts: Any) -> None:
        """Log at this level, as the three below."""
        self.bind().debug(event, **facts)

    def info(self, event: str, **facts: Any) -> None:
        """See debug."""
        self.bind().info(event, **facts)

    def warning(self, event: str, **facts: Any) -> None:
        """See debug."""
        self.bind().warning(event, **facts)

    def error(self, event: str, **facts: Any) -> None:
        """See debug."""
        self.bind().error(event, **facts)


log = _Log()
_identity: dict[str, Any] = {}


class LineWriter:
    """Writes whole lines to a descriptor, or drops them; never raises."""

    def __init__(self, descriptor: int, *, blocks: bool = False) -> None:
        """Take a descriptor, and with `blocks` as it is: a line beyond PIPE_BUF may else be written in part."""
        private = None if blocks else _open_anew(descriptor)
        if private is not None:
            descriptor = private
            weakref.finalize(self, os.close, private)
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._choked = False
        self._pid = os.getpid()
        self.dropped = 0

    def msg(self, line: str) -> None:
        """Write one line."""
        pid = os.getpid()
        if pid != self._pid:  # what the master dropped before the fork is the master's to report
            self._pid, self.dropped = pid, 0
        if self.dropped and self._room(0):
            notice = {"event": "log.dropped", "level": "warning", "time": _now(), "pid": pid, "lines": self.dropped}
            if self._write(("\n" if _is_torn(self._descriptor) else "") + json.dumps(notice)):
                self.dropped = 0
        patience = 0 if self._choked else _PATIENCE_MS
        self._choked = bool(self.dropped) or not self._room(patience) or not self._write(line)
        self.dropped += self._choked

    log = debug = info = warn = warning = error = critical = fatal = failure = msg

    def _room(self, milliseconds: int) -> bool:
        """Whether a write of up to PIPE_BUF bytes would go through at once."""
        try:
            events = self._poll.poll(milliseconds)
        except OSError:
            return False
        return bool(events) and bool(events[0][1] & select.POLLOUT)

    def _write(self, line: str) -> bool:
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        # A console line may be longer (a traceback): it is for eyes, not for machines.
        try:
            return os.write(self._descriptor, data) == len(data)  # a disk that gets full takes a part of it
        except OSError:  # reader gone, disk full
            return False


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


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Set up the log of this process.

    Args:
        level: debug, info, warning or error.
        form: json, console, or auto (console when the stream is a terminal).
        stream: where to write; stdout if None.
    """
    stream = stream or sys.stdout
    console = form == "console" or (form == "auto" and stream.isatty())
    render: Callable[..., str] = _console(stream.isatty()) if console else _render_json
    writer = LineWriter(stream.fileno(), blocks=console)
    log.set(
        structlog.wrap_logger(
            writer,
            processors=[structlog.processors.format_exc_info, _stamp, render],
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
            context_class=dict,
        ).bind(**_identity)
    )


def identify(role: str, **facts: Any) -> None:
    """Say once who this process is: role, pid, host, and what else is given; every later line carries it."""
    _identity.clear()
    _identity.update(role=role, pid=os.getpid(), host=socket.gethostname(), **facts)
    log.set(log.bind().new(**_identity))


def _now() -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 1_000_000:03d}Z"


def _stamp(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Time, level and event first: a person reads them first, too."""
    stamp = {"time": _now(), "level": method, "event": event.pop("event", None)}
    return stamp | {f"{key}_" if key in stamp else key: value for key, value in event.items()}


def _render_json(_logger: Any, _method: str, event: Mapping[str, Any]) -> str:
    try:
        line = json.dumps(event, default=repr, allow_nan=False)
    except Exception:  # noqa: BLE001 - NaN, a cycle, a key or a number that JSON has not, a repr that raises
        line = json.dumps({key: _plain(value) for key, value in event.items()})
    return line if len(line) < _PIPE_BUF else json.dumps(_shortened(event))


def _plain(value: Any) -> str | int | float | None:
    """A value that JSON has for certain."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and abs(value) < _LARGEST_NUMBER:  # NaN is not less than anything
        return value
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - user code; any answer is better than none
        return "(cannot be shown)"


def _shortened(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event with its longest texts cut until it fits into PIPE_BUF."""
    values = {key: _plain(value) for key, value in event.items()}
    limit = _LONGEST_VALUE
    while limit > 16:
        short = {k: v[:limit] + "…" if isinstance(v, str) and len(v) > limit else v for k, v in values.items()}
        short["shortened"] = True
        if len(json.dumps(short)) < _PIPE_BUF:
            return short
        limit //= 2
    return {key: str(values.get(key))[:100] for key in ("time", "level", "event")} | {"shortened": True}


def _console(colors: bool) -> Callable[..., str]:  # noqa: FBT001 - one call, named there
    """Words for a terminal: time, level, event, the facts; who it is in short."""
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors and "NO_COLOR" not in os.environ, timestamp_key="time", sort_keys=False, pad_event_to=22
    )

    def render(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        shown = {k: _printable(v) for k, v in event.items() if k not in _NOT_SHOWN and v is not None}
        shown["time"] = str(shown["time"])[11:23]
        trace = shown.pop("traceback", None)
        try:
            line = str(renderer(logger, method, shown))
        except Exception:  # noqa: BLE001 - a repr that raises
            line = _render_json(logger, method, shown)
        return f"{line}\n{trace}".rstrip("\n") if trace else line

    return render


def _printable(value: Any) -> Any:
    """Text from a message must not talk to the terminal."""
    if isinstance(value, str) and not value.replace("\n", "").isprintable():
        return value.encode("unicode_escape").decode()
    return value


class Reminder:
    """Says the same complaint once, and again after a while; knows how long the trouble has lasted."""

    #: Seconds between two mentions of one reason.
    again_after = 60.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reason: str | None = None
        self._since: float | None = None
        self._said_at = 0.0

    def due(self, reason: str) -> bool:
        """Whether to say it now."""
        now = self._clock()
        if self._since is None:
            self._since = now
        if reason == self._reason and now - self._said_at < self.again_after:
            return False
        self._reason, self._said_at = reason, now
        return True

    def end(self) -> float | None:
        """The trouble is over; returns how many seconds it lasted, None without one."""
        since, self._since, self._reason = self._since, None, None
        return None if since is None else round(self._clock() - since, 3)
